"""What both training stages share: the Lightning trainer, its callbacks, resuming, and the account of the cost."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy

from graftlm.console import Advance, Progress
from graftlm.errors import SettingsError
from graftlm.jobs import StageContext
from graftlm.schema import OptimSettings, TrainerSettings
from graftlm.store import SCRATCH, write_json
from graftlm.tracking import Tracker

CHECKPOINT = f"{SCRATCH}/last.ckpt"  # of a training that is not finished
_NEVER = 10**9  # Lightning's own validation is off: `Validate` does it


class MetricsLogger(Logger):
    """Lightning's metrics, numbered by optimiser steps done, handed to the tracker with what was seen so far."""

    def __init__(self, tracker: Tracker, module: Any, clock: Clock):
        super().__init__()
        self._tracker = tracker
        self._module = module
        self._clock = clock

    @property
    def name(self) -> str:
        return "graftlm"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values:
            counters = {
                "examples": int(self._module.examples_seen),
                "tokens": int(self._module.tokens_seen),
                "seconds": round(self._clock.seconds, 3),
            }
            self._tracker.log(values, self._module.trainer.global_step, counters)


class Clock(Callback):
    """Seconds of training, earlier attempts at the same stage included."""

    def __init__(self) -> None:
        self.earlier = 0.0
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self._begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()


class Validate(Callback):
    """Validation after given numbers of steps, 0 among them: the curve begins where the graft left the model.

    Lightning validates at even intervals, after its checkpoint of the same step; here the steps are any, and a
    checkpoint is written after the validation, so that a resumed run neither repeats nor misses one.
    """

    def __init__(self, steps: Collection[int]):
        self._steps = frozenset(steps)
        self._last = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = trainer.global_step
        if trainer.global_step == 0 and 0 in self._steps:
            self._validate(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        # with accumulated gradients several batches end at the same step
        if trainer.global_step != self._last:
            self._last = trainer.global_step
            if trainer.global_step in self._steps:
                self._validate(trainer, pl_module)

    def _validate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # as Lightning itself does it between two training batches
        connector = trainer._logger_connector
        first = connector._first_loop_iter
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
        connector._first_loop_iter = first
        pl_module.train()


def validation_steps(optim: OptimSettings, early: bool) -> list[int]:
    """Steps after which to validate: every `val_interval`, first and last; `early` adds 1, 2, 5, 10, 20 … before that.

    The primary figure of a comparison is an area over the logarithm of the step: without early validations most of it
    would be a straight line.
    """
    steps = {0, optim.max_steps, *range(0, optim.max_steps + 1, optim.val_interval)}
    if early:
        first = min(optim.val_interval, optim.max_steps)
        steps |= {base * 10**power for power in range(9) for base in (1, 2, 5) if base * 10**power < first}
    return sorted(steps)


class ShowProgress(Callback):
    """Steps done, on the progress display that all stages share."""

    def __init__(self, progress: Progress, label: str):
        self._progress = progress
        self._label = label
        self._task: Any = None
        self._advance: Advance = lambda units: None
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._task = self._progress.task(self._label, trainer.max_steps)
        self._advance = self._task.__enter__()
        self._seen = 0
        self._count(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._count(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._task is not None:
            self._task.__exit__(None, None, None)
            self._task = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._task is not None:
            self._task.__exit__(type(exception), exception, exception.__traceback__)
            self._task = None

    def _count(self, trainer: pl.Trainer) -> None:
        self._advance(trainer.global_step - self._seen)
        self._seen = trainer.global_step


def fit(
    context: StageContext,
    module: Any,
    data: pl.LightningDataModule,
    optim: OptimSettings,
    tracker: Tracker,
    label: str,
    callbacks: Sequence[Callback] = (),
    early_validation: bool = False,
) -> dict[str, Any]:
    """Train for `optim.max_steps`, from the last checkpoint where an earlier attempt left one; returns the cost.

    Raises:
        SettingsError: the trainer's device is not there.
        TrainingError: the loss is not a number.
    """
    trainer_settings = context.settings.trainer
    scratch = context.work / SCRATCH
    checkpoint = context.work / CHECKPOINT
    clock = Clock()
    saver = ModelCheckpoint(
        dirpath=scratch,
        filename="last",
        every_n_train_steps=optim.checkpoint_interval,
        save_top_k=1,
        enable_version_counter=False,
    )
    resumed = checkpoint.is_file()
    step = int(torch.load(checkpoint, weights_only=True, mmap=True)["global_step"]) if resumed else 0
    clock.earlier = tracker.rewind(step if resumed else -1)
    if resumed:
        context.progress.say(f"{label}: going on from step {step}")
    trainer = make_trainer(
        trainer_settings,
        module.freezes,
        max_steps=optim.max_steps,
        gradient_clip_val=optim.grad_clip or None,
        val_check_interval=_NEVER,
        check_val_every_n_epoch=None,
        logger=MetricsLogger(tracker, module, clock),
        log_every_n_steps=min(10, optim.val_interval),
        callbacks=[
            *callbacks,
            *([Gather(module.model)] if trainer_settings.strategy == "fsdp" else []),
            clock,
            Validate(validation_steps(optim, early_validation)),
            ShowProgress(context.progress, label),
            saver,
        ],
    )
    try:
        with quiet():
            trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint) if resumed else None, weights_only=True)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit of its own
            raise KeyboardInterrupt from leaving
        raise
    parameters = sum(parameter.numel() for parameter in module.model.parameters())
    return {
        "seconds": round(clock.seconds, 3),
        "steps": trainer.global_step,
        "examples": int(module.examples_seen),
        "tokens": int(module.tokens_seen),
        "flops": int(module.flops_spent),
        "parameters": parameters,
    }


def make_trainer(settings: TrainerSettings, freezes: bool = False, **options: Any) -> pl.Trainer:
    """A Lightning trainer on the devices that are set.

    `freezes`: some parameters get no gradient for a while.

    Raises:
        SettingsError: they are not there.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        with quiet():
            return pl.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                strategy=_strategy(settings, freezes),
                precision=settings.precision,  # type: ignore[arg-type]
                accumulate_grad_batches=settings.accumulate,
                detect_anomaly=settings.detect_anomaly,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                **options,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        # Lightning's own words name the device; MisconfigurationException is a RuntimeError's sibling
        raise _device_error(settings, error) from error
    except pl.utilities.exceptions.MisconfigurationException as error:
        raise _device_error(settings, error) from error


def _strategy(settings: TrainerSettings, freezes: bool) -> Any:
    """Lightning's strategy. All wait while rank 0 grafts, which may take long."""
    patience = timedelta(hours=12)
    if settings.strategy == "fsdp":
        return FSDPStrategy(state_dict_type="full", sync_module_states=True, timeout=patience)
    if settings.devices > 1:
        # no buffer changes in training, and devices validate different numbers of batches
        return DDPStrategy(find_unused_parameters=freezes, broadcast_buffers=False, timeout=patience)
    return "auto"


class Gather(Callback):
    """After training under FSDP, the whole model on rank 0; the module's own parameters are parts of it."""

    def __init__(self, model: Any):
        self._shell = copy.deepcopy(model).to("meta")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            own = {name.removeprefix("model."): value.cpu() for name, value in state.items()}
            self._shell.load_state_dict(own, assign=True)
            self._shell.tie_weights()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            pl_module.model = self._shell


def _device_error(settings: TrainerSettings, error: Exception) -> SettingsError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    error_ = SettingsError.at("trainer.accelerator", settings.accelerator, reason, "take trainer=cpu or trainer=auto")
    assert isinstance(error_, SettingsError)
    return error_


def write_cost(folder: Path, cost: Mapping[str, Any]) -> None:
    """`cost.json`: what the stage took."""
    write_json(folder / "cost.json", dict(cost))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lightning's hints and transformers' bars kept off the terminal; warnings of ours are printed by ours."""
    transformers.utils.logging.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
