"""A step of masked-language modelling at the shape of xlm-roberta-base, beside the Hugging Face Trainer's.

The Trainer is what run_mlm.py sets up, in float32 and with --bf16; ours is the pretrain stage's training. Same weights,
same masked batches of 8 × 128. Trimmed (`model.trim`): ours with a vocabulary of 20,000 against the Trainer with all.
"""

from __future__ import annotations

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _mlm


def _shape(run: Run, shape: _mlm.Shape) -> _mlm.Shape:
    return _mlm.small(shape) if run.quick else shape


def trainer_fp32(run: Run) -> dict[str, float]:
    return _mlm.trainer_step(run, _shape(run, _mlm.BASE), steps=2, bf16=False)


def trainer_bf16(run: Run) -> dict[str, float]:
    return _mlm.trainer_step(run, _shape(run, _mlm.BASE), steps=2, bf16=True)


def ours(run: Run) -> dict[str, float]:
    return _mlm.our_step(run, _shape(run, _mlm.BASE), steps=2)


def trimmed(run: Run) -> dict[str, float]:
    return _mlm.our_step(run, _shape(run, _mlm.TRIMMED), steps=2)


def _share(size: str, side: str) -> Row:
    measure = f"share of the core's own bfloat16 matmul rate, {size}"
    return Row(measure, "matmul_share", peer=None, ours=side, more=True, unit="%", scale=100)


CASE = Case(
    sides={"trainer_fp32": trainer_fp32, "ours": ours, "trainer_bf16": trainer_bf16, "trimmed": trimmed},
    rows=[
        Row("MLM step, base shape, 250k vocabulary, against the Trainer", peer="trainer_fp32", goal=7, memory_goal=0.7),
        Row("the same, against the Trainer with --bf16", peer="trainer_bf16", goal=3.5),
        Row(
            "vocabulary trimmed to 20k, against the Trainer",
            peer="trainer_fp32",
            ours="trimmed",
            goal=12,
            memory_goal=0.35,
        ),
        Row("the same, against the Trainer with --bf16", peer="trainer_bf16", ours="trimmed", goal=6),
        _share("250k vocabulary", "ours"),
        _share("trimmed to 20k", "trimmed"),
    ],
    memory_gb=9.5,
    quick_memory_gb=2.0,
    seconds=300,
)
