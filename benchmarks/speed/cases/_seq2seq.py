"""What the cases of mBART share: its shape, rows of random tokens, the formats of both sides."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.case import Run
from benchmarks.speed.cases._weights import random_model

FULL, TRIMMED = 250_054, 20_000


def model(run: Run, vocabulary: int, layers: int, scale: float = 0.02) -> Any:
    """mBART-large's width; small for --quick. The same random weights for all sides of a vocabulary."""
    from transformers import MBartConfig, MBartForConditionalGeneration

    width = 256 if run.quick else 1024
    config = MBartConfig(
        vocab_size=vocabulary // 8 if run.quick else vocabulary,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return random_model(lambda: MBartForConditionalGeneration(config), scale)


def rows(number: int, count: int, source: int, target: int) -> list[dict[str, list[int]]]:
    """Sources and targets of a quarter of these lengths up to all of them, in ids that every vocabulary here has."""
    import numpy as np

    draw = np.random.default_rng(number)

    def some(longest: int) -> list[int]:
        return [*draw.integers(5, 2000, int(draw.integers(longest // 4, longest))).tolist(), 2]

    return [{"input_ids": some(source), "labels": some(target)} for _ in range(count)]


class Tokenizer:
    """What the Trainer's collator asks of a tokenizer."""

    padding_side = "right"
    pad_token_id = 1
    model_input_names = ("input_ids", "attention_mask")

    def pad(self, features: Any, **options: Any) -> Any:
        import torch

        longest = max(len(row["input_ids"]) for row in features)
        ids = torch.tensor([[*row["input_ids"], *[1] * (longest - len(row["input_ids"]))] for row in features])
        return {"input_ids": ids, "attention_mask": (ids != 1).long()}
