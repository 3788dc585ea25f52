"""`job.json`, the record that a job leaves: what reports, searches, exports and the store's inventory read of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = "job.json"
VERSION = 1  # of job.json
SWEEP = "sweep.json"  # in a sweep's folder: what its jobs share; locked as long as it is under way
RUNNING = "running"  # the status of a job that has not ended
ENDED_WELL = ("done", "pruned")


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: str
    error: str | None
    stages: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def reused(self) -> bool:
        return self.status == "done" and bool(self.stages) and all(stage.get("reused") for stage in self.stages)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Outcome:
        """The outcome that a job's record tells; a job that never wrote its end was killed, or still runs."""
        status, error = str(record.get("status", "failed")), record.get("error")
        if status == RUNNING:
            status, error = "failed", "its end was never written: killed, or running still"
        stages, seconds = record.get("stages"), record.get("seconds")
        return cls(
            status,
            None if error is None else str(error),
            tuple(stage for stage in stages if isinstance(stage, dict)) if isinstance(stages, list) else (),
            float(seconds) if isinstance(seconds, int | float) else 0.0,
        )


def read_record(path: Path) -> dict[str, Any]:
    """A job's record; an empty one where it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
