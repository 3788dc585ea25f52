"""The JSON Lines of metrics that a stage leaves, read back."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def validation_losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of the validations that a stage has written down, nan where it was not a number."""
    path = folder / METRICS
    lines = [line for line in read_metrics(path) if "val/loss" in line] if path.is_file() else []
    return [(line["step"], math.nan if line["val/loss"] is None else float(line["val/loss"])) for line in lines]
