"""What a trial gave, read from the record and the artifacts of its job. Imports neither torch nor Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graftlm.record import RECORD, RUNNING, read_record
from graftlm.report.figures import figures_of
from graftlm.report.records import Artifacts, number, read_run


@dataclass(frozen=True)
class Told:
    """How a trial ended. `values` are those of a complete one, in the order of the objectives."""

    state: Literal["complete", "pruned", "failed"]
    values: list[float] | None = None
    error: str | None = None


def told(folder: Path, objectives: Sequence[str]) -> Told | None:
    """What the job in a folder gave; None where it has not ended: a figure that is not a number is a failure."""
    record = read_record(folder / RECORD)
    status = str(record.get("status", RUNNING))
    if status in (RUNNING, "interrupted"):
        return None
    error = record.get("error")
    if status != "done":
        return Told("pruned" if status == "pruned" else "failed", error=str(error) if error else status)
    warnings: list[str] = []
    run = read_run(folder / RECORD, record, Artifacts(warnings))
    if run is None or run.diverged:
        return Told("failed", error=warnings[-1] if warnings else "no learning curve")
    figures = figures_of(run, None)
    figures["flops"] = _sum(figures, "flops", "donor_flops")
    figures["seconds"] = _sum(figures, "seconds", "graft_seconds", "donor_seconds")
    values = {name: number(figures.get(name)) for name in objectives}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        return Told("failed", error=f"{' and '.join(missing)} is not a number, or was not measured")
    return Told("complete", [value for value in values.values() if value is not None])


def _sum(figures: dict[str, Any], first: str, *others: str) -> float | None:
    """The sum; None where the first is not known."""
    found = number(figures.get(first))
    return None if found is None else found + sum(number(figures.get(name)) or 0.0 for name in others)
