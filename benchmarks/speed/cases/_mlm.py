"""What the cases of masked-language modelling share: shapes, batches, our stage and the Trainer on them."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.speed.case import Run

MASKED = 0.15


@dataclass(frozen=True)
class Shape:
    """Of a model and its batches."""

    vocab: int
    layers: int
    width: int
    rows: int
    length: int

    def config(self) -> Any:
        from transformers import XLMRobertaConfig

        return XLMRobertaConfig(
            vocab_size=self.vocab,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 64,
            intermediate_size=4 * self.width,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )

    def model(self) -> Any:
        """The same random weights for all sides."""
        import torch
        from transformers import XLMRobertaForMaskedLM

        torch.manual_seed(0)
        return XLMRobertaForMaskedLM(self.config())

    def batch(self, number: int) -> tuple[Any, Any, Any]:
        """Masked ids [rows, length], the ids before, and which are to be predicted: a fixed share of each row."""
        import torch

        draw = torch.Generator().manual_seed(number)
        ids = torch.randint(5, self.vocab, (self.rows, self.length), generator=draw)
        keys = torch.rand(ids.shape, generator=draw)
        chosen = keys.argsort(dim=1).argsort(dim=1) < round(MASKED * self.length)
        return ids.masked_fill(chosen, self.vocab - 1), ids, chosen


BASE = Shape(250_002, 12, 768, 8, 128)
TRIMMED = Shape(20_000, 12, 768, 8, 128)


def small(shape: Shape) -> Shape:
    """For --quick."""
    return Shape(shape.vocab // 4, 2, 256, shape.rows, shape.length // 2)


def trainer_step(run: Run, shape: Shape, steps: int, bf16: bool) -> dict[str, float]:
    """Seconds of a step of `transformers.Trainer`, set up as run_mlm.py does; the first is not counted."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    batches = [shape.batch(number) for number in range(steps)]
    rows = [
        {"input_ids": masked[row], "attention_mask": torch.ones_like(masked[row]), "labels": labels[row]}
        for masked, ids, chosen in batches
        for labels in [ids.masked_fill(~chosen, -100)]
        for row in range(shape.rows)
    ]
    begun: list[float] = []
    ended: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            begun.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=shape.rows,
            max_steps=steps,
            learning_rate=1e-4,
            bf16=bf16,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(
            model=shape.model(),
            args=arguments,
            train_dataset=rows,  # type: ignore[arg-type]
            data_collator=default_data_collator,
            callbacks=[Stopwatch()],
        )
        loss = trainer.train().training_loss
    return {"seconds": (ended[-1] - begun[1]) / (steps - 1), "loss": loss}


def our_step(run: Run, shape: Shape, steps: int, precision: str | None = None) -> dict[str, float]:
    """Seconds of a step of the pretrain stage's own training (`graftlm.stages.training.fit`)."""
    import pytorch_lightning as pl
    import torch

    from graftlm.models.mlm import MlmModule
    from graftlm.schema import MaskSettings, PretrainSettings

    batches = [our_batch(shape, number) for number in range(steps)]
    settings = PretrainSettings(max_steps=steps, lr=1e-4, warmup=0.0, val_interval=steps, checkpoint_interval=10**6)
    module = MlmModule(shape.model(), settings, MaskSettings())
    losses: list[float] = []
    begun: list[float] = []
    ended: list[float] = []

    class Stopwatch(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            begun.append(time.perf_counter())

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            ended.append(time.perf_counter())
            losses.append(float(trainer.callback_metrics["train/loss"]))

    figures = fit_batches(module, settings, batches, precision or mixed(), [Stopwatch()])
    seconds = (ended[-1] - begun[1]) / (steps - 1)
    figures |= {"seconds": seconds, "loss": sum(losses) / len(losses)}
    if torch.cpu._is_amx_tile_supported() or run.quick:
        figures["matmul_share"] = module.flops_spent / steps / seconds / matmul_rate()
    return figures


def our_batch(shape: Shape, number: int) -> dict[str, Any]:
    import torch

    masked, ids, chosen = shape.batch(number)
    positions = chosen.flatten().nonzero()[:, 0]
    return {
        "input_ids": masked,
        "attention_mask": torch.ones_like(masked),
        "positions": positions,
        "labels": ids.flatten()[positions],
        "number": number,
        "ratio": MASKED,
        "weight": 1.0,
        "examples": shape.rows,
        "tokens": masked.numel(),
    }


def fit_batches(module: Any, settings: Any, batches: list[Any], precision: str, callbacks: list[Any]) -> dict[str, Any]:
    """The training loop of the stages, with all that they hang on it, over these batches."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from graftlm.console import Silent
    from graftlm.running import TrainerSettings
    from graftlm.stages.training import fit
    from graftlm.tracking import Tracker

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

        def val_dataloader(self) -> Any:
            few = {name: batches[0][name][:8] for name in ("positions", "labels")}
            return DataLoader([{**batches[0], **few}], batch_size=None)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trainer = TrainerSettings(accelerator="cpu", precision=precision)
        context: Any = SimpleNamespace(settings=SimpleNamespace(trainer=trainer), work=work, progress=Silent())
        (work / ".scratch").mkdir()
        fit(context, module, Data(), settings, Tracker(work, [], Silent()), "bench", callbacks)
    return {}


def mixed() -> str:
    """The precision that a user of this processor would take."""
    import torch

    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "32-true"


def matmul_rate() -> float:
    """Operations a second of this core in a bfloat16 product of 2048 × 2048 matrices: the best of several."""
    import torch

    left, right = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(12):
        begun = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best
