"""A training that its loss has stopped: the micro-batch where it did is kept to be looked at, and its rows are named.

In the unfinished artifact, `scratch/stopped/`: `batch.safetensors`, the tensors as the model got them, and
`batch.json`: step, number of the micro-batch, its rows (those of the corpus' train split, counted from 0), the texts,
and the rows of the one before it, whose gradient may be what made the loss go.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from graftlm.errors import Problem, TrainingError
from graftlm.store import SCRATCH, write_json

FOLDER = f"{SCRATCH}/stopped"
_NAMED = 8  # rows, in a line
_TEXTS = 64  # written out
_IDS = ("input_ids", "labels")


class KeepBatch(Callback):
    """Holds on to the micro-batch under way, and writes it down where the loss stops the training.

    Args:
        work: the folder of the unfinished artifact.
        stage: of the settings, to name in an error.
        writes: False in a process that only computes.
    """

    def __init__(self, work: Path, stage: str, writes: bool = True):
        self._folder = work / FOLDER
        self._stage = stage
        self._writes = writes
        self._batch: dict[str, Any] = {}
        self._told = ""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Raises `TrainingError` where the validation's loss is not a number: the weights are lost, if not yet used."""
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if math.isfinite(loss):
            return
        reason = f"the validation loss of step {trainer.global_step} is {loss}"
        remedy = f"lower {self._stage}.lr, raise {self._stage}.warmup, or set {self._stage}.grad_clip=1"
        if trainer.global_step == 0:  # nothing was trained yet
            remedy = "look for weights that are no numbers in what it starts from"
        raise TrainingError.at(f"{self._stage}.lr", module.settings.lr, reason, remedy)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, TrainingError) and self._batch and self._writes:
            with contextlib.suppress(OSError):  # what stopped it is to be told, whatever the disk says
                self._write(trainer)

    def told(self, error: TrainingError) -> TrainingError:
        """The error, with where its micro-batch is."""
        return TrainingError([Problem(p.path, p.value, p.reason + self._told, p.remedy) for p in error.problems])

    def _write(self, trainer: pl.Trainer) -> None:
        from safetensors.torch import save_file

        data = trainer.datamodule  # type: ignore[attr-defined]
        number = int(self._batch["number"])
        rows = data.rows_of(number)
        tensors = {name: value.cpu().contiguous() for name, value in self._batch.items() if torch.is_tensor(value)}
        self._folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(self._folder / "batch.safetensors"))
        about = {"step": trainer.global_step, "batch": number, "rows": rows, "texts": data.texts_of(rows[:_TEXTS])}
        if number:
            about["before"] = {"batch": number - 1, "rows": data.rows_of(number - 1)}
        write_json(self._folder / "batch.json", about)
        self._told = f"; micro-batch {number} ({_some(rows)}) is kept in {self._folder}"


def _some(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:_NAMED]))
    return f"rows {shown}{f' … of {len(rows)}' if len(rows) > _NAMED else ''} of the train split"
