"""Texts of the data made fit for tables and pages of others, whatever they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graftlm.report.plain import text

__all__ = ["markdown", "table", "text"]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows with one kind in each column, as trackers want it: numbers (None where it is none), or texts."""
    kinds = [all(_numeric(row[place]) for row in rows) for place in range(len(columns))]
    return [[_cell(value, number) for value, number in zip(row, kinds, strict=True)] for row in rows]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]], longest: int = 500) -> str:
    """The rows as a table in Markdown that no text can leave."""
    from graftlm.report.markdown import escape

    lines = [[escape(text(value, longest)) if value is not None else "" for value in row] for row in [columns, *rows]]
    lines.insert(1, ["---"] * len(columns))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any, number: bool) -> Any:
    if value is None:
        return None
    if number:
        return float(value) if math.isfinite(value) else None
    return text(value)
