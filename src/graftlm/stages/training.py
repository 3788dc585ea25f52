"""What both training stages share: the Lightning trainer, its callbacks, resuming, and the account of the cost."""

from __future__ import annotations

import contextlib
import copy
import logging
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy

from graftlm import interrupt
from graftlm.console import Advance, Progress
from graftlm.context import Pruned, StageContext
from graftlm.errors import SettingsError, TrainingError
from graftlm.running import TrainerSettings
from graftlm.schema import OptimSettings
from graftlm.search.pruning import Watch
from graftlm.stages.diverged import KeepBatch
from graftlm.stages.memory import kept_heap
from graftlm.stages.modes import modes
from graftlm.stages.profiling import FOLDER as PROFILE
from graftlm.stages.profiling import ProfileSteps
from graftlm.stages.saving import CHECKPOINT, Clock, Course, StoppedError, WholeFiles, saved
from graftlm.store import write_json
from graftlm.tracking import Tracker, validation_losses

_NEVER = 10**9  # Lightning's own validation is off: `Course` does it


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
                "flops": int(self._module.flops_spent),
                "seconds": round(self._clock.seconds, 3),
            }
            self._tracker.log(values, self._module.trainer.global_step, counters)


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


class GiveUp(Callback):
    """Tells each validation loss to `watch`; where that says hopeless, leaves a checkpoint and ends the training.

    It stands after `course`, which validates and saves, so that its own checkpoint is as exact.
    """

    def __init__(self, watch: Watch, course: Course):
        self._watch = watch
        self._course = course
        self._loss: float | None = None  # of a validation that was hopeless

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        hopeless = trainer.is_global_zero and self._watch(trainer.global_step, loss)
        if trainer.strategy.broadcast(hopeless) and 0 < trainer.global_step < trainer.max_steps:
            self._loss = loss

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._loss is not None:
            self._course.save(trainer)
            raise Pruned(trainer.global_step, trainer.max_steps, self._loss)


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
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train for `optim.max_steps`, from the last checkpoint where an earlier attempt left one; returns the cost.

    Raises:
        Pruned: `watch`, which is told each validation loss, says that it is hopeless.
        SettingsError: the trainer's device is not there.
        TrainingError: the loss is not a number, or has exploded.
        Interrupted: a signal asked to save and end.
    """
    trainer_settings = context.settings.trainer
    checkpoint = context.work / CHECKPOINT
    clock = Clock()
    resumed = saved(context.work, context.progress)
    tracker.rewind(resumed["lines"] if resumed else 0)
    if resumed:
        clock.earlier = resumed["seconds"]
        context.progress.say(f"{label}: going on from step {resumed['step']}")
        if watch is not None:
            for step, loss in validation_losses(context.work):
                watch(step, loss)
    kept = KeepBatch(context.work, module.stage, context.leader)
    course = Course(
        checkpoint,
        validation_steps(optim, early_validation),
        save_every=optim.checkpoint_interval,
        log_every=min(10, optim.val_interval),
        final=optim.max_steps,
        tracker=tracker,
        clock=clock,
    )
    # strategies that divide the model among devices write in ways of their own
    whole = trainer_settings.strategy != "fsdp"
    trainer = make_trainer(
        trainer_settings,
        module.freezes,
        max_steps=optim.max_steps,
        gradient_clip_val=optim.grad_clip or None,
        val_check_interval=_NEVER,
        check_val_every_n_epoch=None,
        logger=MetricsLogger(tracker, module, clock),
        enable_checkpointing=False,
        plugins=[WholeFiles()] if whole else None,
        callbacks=[
            *(
                [ProfileSteps(trainer_settings.profile, context.work / PROFILE, context.progress, label)]
                if trainer_settings.profile
                else []
            ),
            *callbacks,
            *([] if whole else [Gather(module.model)]),
            clock,
            kept,
            ShowProgress(context.progress, label),
            course,
            *([GiveUp(watch, course)] if watch else []),
        ],
    )
    path = str(checkpoint) if resumed else None
    try:
        with quiet(), kept_heap(), modes(module.model, trainer_settings):
            trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    except StoppedError:
        interrupt.check()
        raise interrupt.Interrupted(signal.SIGTERM) from None  # another device heard it
    except TrainingError as error:
        raise kept.told(error) from error
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit of its own
            raise leaving.__context__ from None
        raise
    finally:
        course.close()
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
    except (RuntimeError, ValueError, TypeError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise _device_error(settings, error) from error  # Lightning's own words name the device


def _strategy(settings: TrainerSettings, freezes: bool) -> Any:
    """Lightning's strategy. The others wait where rank 0 works alone, on a checkpoint of many GB say."""
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
