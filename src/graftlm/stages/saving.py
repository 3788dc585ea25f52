"""What follows each optimiser step of a training: its log line, a validation, the checkpoint; and an end that was asked
for by a signal.

The order makes a checkpoint exact: whatever belongs to its step stands in the metrics before it is written, and it
knows how many lines that were and whether the step was validated. Data order and dropout need no state (they are made
from the number of the micro-batch: `graftlm.data.modules`, `graftlm.models.base`); weights, optimiser, schedule and,
in 16-mixed, the loss scaler are Lightning's part of the file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback

from graftlm import interrupt
from graftlm.console import Progress
from graftlm.store import SCRATCH
from graftlm.tracking import Tracker

CHECKPOINT = f"{SCRATCH}/last.ckpt"  # of a training that is not finished
_COURSE = "graftlm.course"  # our part of a checkpoint's callbacks


class StoppedError(Exception):
    """The training has saved and ends because a signal asked for it. Not for users: `fit` turns it into its own."""


class _AbortValidationError(Exception):
    """A validation is given up; a resumed run makes it whole."""


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


class WholeFiles(TorchCheckpointIO):
    """Checkpoints by rename, from a file beside them.

    Lightning's own makes the whole file in memory, writes it to the folder for temporary files, where a kill leaves it,
    and moves it from there, which is a copy, and may be cut, where that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(place.name + ".tmp")
        try:
            with temporary.open("wb") as handle:
                torch.save(checkpoint, handle)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)  # the part of it that a full disk took would keep it full
            raise


class Course(Callback):
    """Log, validate, save, in this order, after each optimiser step; stop there where a signal asks for it.

    Lightning validates at even intervals, and logs a step after its checkpoint; here the steps of validation are any, 0
    among them: the curve begins where the graft left the model.

    Args:
        checkpoint: where it goes.
        steps: after which steps to validate.
        save_every, log_every: in optimiser steps.
        final: the last step.
    """

    def __init__(
        self,
        checkpoint: Path,
        steps: Collection[int],
        save_every: int,
        log_every: int,
        final: int,
        tracker: Tracker,
        clock: Clock,
    ):
        self._checkpoint = checkpoint
        self._steps = frozenset(steps)
        self._save_every, self._log_every, self._final = save_every, log_every, final
        self._tracker, self._clock = tracker, clock
        self._resumed = False
        self._last = -1
        self._validated = -1
        self._abortable = False
        self._saves = contextlib.ExitStack()

    @property
    def state_key(self) -> str:
        return _COURSE

    def state_dict(self) -> dict[str, Any]:
        return {"validated": self._validated, "lines": self._tracker.lines, "seconds": self._clock.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validated = state_dict["validated"]
        self._resumed = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saves.enter_context(interrupt.saves())
        interrupt.reinstall()
        self._last = trainer.global_step
        with contextlib.suppress(_AbortValidationError):
            self._validate(trainer, pl_module)
        # resumed, the file that it came from is as good
        if self._asked(trainer):
            self._stop(trainer, save=not self._resumed)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == self._last:  # with accumulated gradients several batches end at the same step
            return
        self._last = step
        if step % self._log_every == 0:
            seen = trainer.callback_metrics
            values = {name: float(seen[name]) for name in ("train/loss", "train/lr") if name in seen}
            for logger in trainer.loggers:
                logger.log_metrics(values, step)
        # the last validation is not given up: nothing is trained after it, so no resumed run would make it
        if self._asked(trainer) and step < self._final:
            self._stop(trainer)
        with contextlib.suppress(_AbortValidationError):
            self._validate(trainer, pl_module)
        if self._asked(trainer):
            self._stop(trainer)
        if step % self._save_every == 0:
            self.save(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        # on several devices the batches of a validation differ in number: they could not agree in the midst of it
        if self._abortable and trainer.world_size == 1 and interrupt.pending():
            raise _AbortValidationError

    def close(self) -> None:
        """From here on a signal ends the job at once again."""
        self._saves.close()

    def _validate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As Lightning itself does it between two training batches; once for a step."""
        step = trainer.global_step
        if step not in self._steps or step == self._validated:
            return
        connector = trainer._logger_connector
        first = connector._first_loop_iter
        trainer.validating = True
        self._abortable = step < self._final
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # a checkpoint also holds how far an earlier validation was
        try:
            loop.run()
            self._validated = step
        except _AbortValidationError:
            loop.batch_progress.reset()  # or a resumed run would go on in the midst
            raise
        finally:
            trainer.training = True
            connector._first_loop_iter = first
            pl_module.train()

    def _asked(self, trainer: pl.Trainer) -> bool:
        asked = interrupt.pending()
        return asked if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(asked, all=False))

    def _stop(self, trainer: pl.Trainer, save: bool = True) -> None:
        if save:
            self.save(trainer)
        raise StoppedError

    def save(self, trainer: pl.Trainer) -> None:
        """A checkpoint of the step that has ended."""
        if trainer.is_global_zero:
            self._tracker.sync()
        trainer.save_checkpoint(self._checkpoint)


def saved(work: Path, progress: Progress) -> dict[str, Any] | None:
    """What the checkpoint in an unfinished artifact knows: `step`, `lines`, `seconds`; None where there is none.

    One that cannot be used (a disk that was full, a machine that lost its power) is said to be so, and removed.
    """
    from graftlm.tracking import METRICS, read_metrics

    checkpoint = work / CHECKPOINT
    if not checkpoint.is_file():
        return None
    try:
        content = torch.load(checkpoint, weights_only=True, mmap=True)
        course = dict(content["callbacks"][_COURSE])
        course["step"] = int(content["global_step"])
        metrics = work / METRICS
        if len(read_metrics(metrics) if metrics.exists() else []) < course["lines"]:
            raise ValueError("lines of its metrics are missing")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        progress.say(f"{checkpoint}: cannot be used and is left out; the stage begins anew ({reason[:200]})")
        checkpoint.unlink(missing_ok=True)
        return None
    return course
