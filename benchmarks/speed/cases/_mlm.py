"""What the cases of masked-language modelling share: shapes, batches, our stage and the Trainer on them."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.case import Run
from benchmarks.speed.cases._loops import Clock, fit_batches, in_order, of_script
from benchmarks.speed.cases._weights import random_model

MASKED = 0.15
WARM = 4  # tokens a row of the Trainer's step that is not counted: it makes gradients and moments, whatever it reads


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
        from transformers import XLMRobertaForMaskedLM

        return random_model(lambda: XLMRobertaForMaskedLM(self.config()))

    def batch(self, number: int, length: int | None = None) -> tuple[Any, Any, Any]:
        """Masked ids [rows, length], the ids before, and which are to be predicted: a fixed share of each row."""
        import torch

        length = length or self.length
        draw = torch.Generator().manual_seed(number)
        ids = torch.randint(5, self.vocab, (self.rows, length), generator=draw)
        keys = torch.rand(ids.shape, generator=draw)
        chosen = keys.argsort(dim=1).argsort(dim=1) < round(MASKED * length)
        return ids.masked_fill(chosen, self.vocab - 1), ids, chosen


BASE = Shape(250_002, 12, 768, 8, 128)
TRIMMED = Shape(20_000, 12, 768, 8, 128)


def small(shape: Shape) -> Shape:
    """For --quick."""
    return Shape(shape.vocab // 4, 2, 256, shape.rows, shape.length // 2)


def trainer_step(run: Run, shape: Shape, steps: int, bf16: bool) -> dict[str, float]:
    """Seconds of a step of `transformers.Trainer`, set up as run_mlm.py does, after a first one on short rows."""
    import torch
    from transformers import Trainer, TrainingArguments, default_data_collator

    batches = [shape.batch(number, None if number else WARM) for number in range(steps)]
    rows = [
        {"input_ids": masked[row], "attention_mask": torch.ones_like(masked[row]), "labels": labels[row]}
        for masked, ids, chosen in batches
        for labels in [ids.masked_fill(~chosen, -100)]
        for row in range(shape.rows)
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        given = of_script(shape.rows, steps, learning_rate=1e-4, bf16=bf16)
        trainer = in_order(Trainer)(
            model=shape.model(),
            args=TrainingArguments(output_dir=folder, **given),
            train_dataset=rows,
            data_collator=default_data_collator,
            callbacks=[clock.of_trainer()],
        )
        loss = trainer.train().training_loss
    return {"seconds": clock.seconds() / (steps - 1), "loss": loss}


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
    clock = Clock()

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    fit_mlm(module, settings, batches, precision or mixed(), [clock.of_lightning(), Losses()])
    seconds = clock.seconds() / (steps - 1)
    figures = {"seconds": seconds, "loss": sum(losses) / len(losses)}
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


def fit_mlm(module: Any, settings: Any, batches: list[Any], precision: str, callbacks: list[Any]) -> None:
    """Our loop over these batches; a few places of the first are what is validated on."""
    few = {name: batches[0][name][:8] for name in ("positions", "labels")}
    fit_batches(module, settings, batches, {**batches[0], **few}, precision, callbacks)


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
