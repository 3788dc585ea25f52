"""What two tricks of memory bring by themselves: ours beside ours without one of them. No part of `make bench`.

    python -m benchmarks.speed benchmarks/speed/tricks.py

A step of masked-language modelling at the shape of xlm-roberta-base, with a vocabulary of 20,000 and bfloat16.
"""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _mlm


def ours(run: Run) -> dict[str, float]:
    return _mlm.our_step(run, _mlm.small(_mlm.TRIMMED) if run.quick else _mlm.TRIMMED, steps=4)


def without_heap(run: Run) -> dict[str, float]:
    """What is freed goes back to the system (`stages/memory.py`)."""
    with mock.patch("graftlm.stages.training.kept_heap", contextlib.nullcontext):
        return ours(run)


def without_release(run: Run) -> dict[str, float]:
    """Gradients stay until the next backward pass (`models/optim.py`, `end_step`)."""

    def keep(optimizer: Any) -> None:
        optimizer.grad_scale = None

    with mock.patch("graftlm.models.base.end_step", keep):
        return ours(run)


CASE = Case(
    sides={"without_heap": without_heap, "ours": ours, "without_release": without_release},
    rows=[
        Row("freed memory stays with the process, against giving it back", peer="without_heap"),
        Row("gradients freed with the step, against before the next backward pass", peer="without_release"),
    ],
    memory_gb=5.0,
)
