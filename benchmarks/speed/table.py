"""The table of a benchmark: medians of the rounds' ratios, with bootstrap intervals, and the goals they are held to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.speed.case import Case, Row
from benchmarks.speed.running import Outcome

HEADER = ("measure", "goal", "peer", "ours", "ratio", "95% interval", "memory", "rounds", "")
_RESAMPLES = 5000


@dataclass(frozen=True)
class Result:
    """One row, computed. `failed` says why there is no ratio, or why it stands on fewer rounds than were wanted."""

    row: Row
    rounds: int
    wanted: int
    peer: float | None = None
    ours: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    memory: float | None = None
    failed: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goals are met; None where there are none."""
        reached = self.ratio if self.row.peer is not None else self.ours
        wants = [
            (reached, self.row.goal, self.row.at_least),
            (self.memory, self.row.memory_goal, False),
        ]
        held = [
            value is not None and (value >= goal if at_least else value <= goal)
            for value, goal, at_least in wants
            if goal is not None
        ]
        return all(held) if held else None

    def to_json(self) -> dict[str, Any]:
        row = self.row
        return {
            "measure": row.measure,
            "figure": row.figure,
            "unit": row.unit,
            "goal": row.goal,
            "memory_goal": row.memory_goal,
            "kind": row.ratio if row.peer is not None else "ours",
            **{name: getattr(self, name) for name in ("peer", "ours", "ratio", "memory", "rounds", "wanted")},
            "interval": [self.low, self.high],
            "met": self.met,
            "failed": self.failed,
        }


def results(case: Case, outcome: Outcome) -> list[Result]:
    """The rows of a case, also those that no round gave anything for."""
    return [_result(row, outcome) for row in case.rows]


def _result(row: Row, outcome: Outcome) -> Result:
    ours = outcome.values(row.ours, row.figure)
    if row.peer is None:
        given = [value for value in ours if value is not None]
        if not given:
            return Result(row, 0, outcome.rounds, failed=outcome.why(row.ours))
        low, high = interval(given)
        why = outcome.why(row.ours) if len(given) < outcome.rounds else None
        return Result(row, len(given), outcome.rounds, None, statistics.median(given), None, low, high, failed=why)
    peers = outcome.values(row.peer, row.figure)
    both = [(peer, our) for peer, our in zip(peers, ours, strict=True) if peer is not None and our is not None]
    why = outcome.why(row.peer, row.ours) if len(both) < outcome.rounds else None
    if not both:
        alone = {
            name: statistics.median(known)
            for name, values in (("peer", peers), ("ours", ours))
            if (known := [value for value in values if value is not None])
        }
        return Result(row, 0, outcome.rounds, failed=why, **alone)
    inverted = row.ratio == "speedup" and not row.more
    ratios = [peer / our if inverted else our / peer for peer, our in both]
    held = zip(outcome.values(row.peer, "peak_gb"), outcome.values(row.ours, "peak_gb"), strict=True)
    memory = [ours / theirs for theirs, ours in held if theirs and ours]
    low, high = interval(ratios)
    return Result(
        row,
        len(both),
        outcome.rounds,
        peer=statistics.median(peer for peer, _ in both),
        ours=statistics.median(our for _, our in both),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        memory=statistics.median(memory) if memory else None,
        failed=why,
    )


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The bootstrap's 95% interval of the median; none of fewer than three values."""
    if len(values) < 3:
        return None, None
    rng = np.random.default_rng(0)
    draws = rng.choice(np.asarray(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def markdown(found: Sequence[Result]) -> str:
    """The table, in Markdown, its columns aligned."""
    lines = [HEADER, *(_cells(result) for result in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    rule = tuple("-" * width for width in widths)
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(padded)


def _cells(result: Result) -> tuple[str, ...]:
    row = result.row
    sign = "≥" if row.at_least else "≤"
    unit = "×" if row.peer is not None else f" {row.unit}".rstrip()
    goal = "" if row.goal is None else f"{sign}{number(row.goal * (1 if row.peer else row.scale))}{unit}"
    if row.memory_goal is not None:
        goal += f", memory ≤{row.memory_goal:g}"
    shown = [
        "" if value is None else f"{number(value * row.scale)} {row.unit}".strip()
        for value in (result.peer, result.ours)
    ]
    factor = 1.0 if row.peer is not None else row.scale
    ratio = "" if result.ratio is None else f"{number(result.ratio)}×"
    if result.failed and result.rounds == 0:
        ratio = "failed"
    between = (
        ""
        if result.low is None or result.high is None
        else f"{number(result.low * factor)}–{number(result.high * factor)}"
    )
    memory = "" if result.memory is None else f"{result.memory:.2f}×"
    verdict = {True: "met", False: "missed", None: ""}[result.met]
    note = f"failed: {result.failed[:80]}" if result.failed else verdict
    return (row.measure, goal, *shown, ratio, between, memory, f"{result.rounds}/{result.wanted}", note)


def number(value: float) -> str:
    """Three digits that say something."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"
