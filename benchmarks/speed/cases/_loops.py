"""What the cases of training share: a clock around each step, the Trainer's arguments, our loop over given batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Clock:
    """When each step began and ended, of a loop of either library."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []

    def start(self) -> None:
        self.begun.append(time.perf_counter())

    def stop(self) -> None:
        self.ended.append(time.perf_counter())

    def seconds(self, warm: int = 1) -> float:
        """From the first step that counts, after `warm` others, to the end of the last."""
        return self.ended[-1] - self.begun[warm]

    def of_trainer(self) -> Any:
        """The callback for `transformers.Trainer`."""
        from transformers import TrainerCallback

        clock = self

        class Stopwatch(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                clock.start()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                clock.stop()

        return Stopwatch()

    def of_lightning(self) -> Any:
        """The callback for Lightning."""
        import pytorch_lightning as pl

        clock = self

        class Stopwatch(pl.Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                clock.start()

            def on_train_batch_end(self, *args: Any) -> None:
                clock.stop()

        return Stopwatch()


def of_script(rows: int, steps: int, **more: Any) -> dict[str, Any]:
    """Arguments of a Trainer as the example scripts have them, on the processor and with nothing written."""
    return {
        "per_device_train_batch_size": rows,
        "max_steps": steps,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        **more,
    }


def in_order(trainer: type) -> type:
    """That Trainer with its rows as they stand, so that the first ones, which are short, are what it warms up on."""
    from torch.utils.data import SequentialSampler

    class InOrder(trainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    return InOrder


def fit_batches(
    module: Any, settings: Any, batches: Sequence[Any], validation: Any, precision: str, callbacks: Sequence[Any]
) -> None:
    """The training loop of the stages, with all that they hang on it, over these batches and one for validation."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from graftlm.console import Silent
    from graftlm.running import TrainerSettings
    from graftlm.stages.training import fit
    from graftlm.store import SCRATCH
    from graftlm.tracking import Tracker

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

        def val_dataloader(self) -> Any:
            return DataLoader([validation], batch_size=None)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trainer = TrainerSettings(accelerator="cpu", precision=precision)
        settings_ = SimpleNamespace(trainer=trainer)
        context: Any = SimpleNamespace(settings=settings_, work=work, progress=Silent(), leader=True)
        (work / SCRATCH).mkdir()
        fit(context, module, Data(), settings, Tracker(work, [], Silent()), "bench", list(callbacks))
