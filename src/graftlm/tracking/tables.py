"""The transfer report as tables for a tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MEASURES = ("cka", "cosine", "relative_error")
_TENSORS = 1000
Table = tuple[str, list[str], list[list[Any]]]


def transfer_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """What became of each host tensor, and the fidelity of each layer before and after, of a `transfer.json`."""
    tensors = report.get("host_tensors") or []
    if tensors:
        names = ["name", "shape", "status", "source", "step", "note"]
        rows = [[_plain(row.get(name)) for name in names] for row in tensors[:_TENSORS]]
        yield "transfer/tensors", names, rows
    layers = (report.get("fidelity") or {}).get("layers") or []
    if layers:
        names = ["layer", *(f"{measure} {when}" for measure in _MEASURES for when in ("before", "after"))]
        yield (
            "transfer/layers",
            names,
            [
                [row.get("layer"), *((row.get(when) or {}).get(m) for m in _MEASURES for when in ("before", "after"))]
                for row in layers
            ],
        )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return "" if value is None else str(value)
