"""The tensor maps of all grafts as compact JSON: texts are kept once, a tensor is a row of indices into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FIELDS = ("name", "shape", "status", "source", "step", "note")
MOST_TENSORS = 3000  # of a graft
LONGEST = 300  # characters of a note


def pack(grafts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`texts`, and for each graft its tensors, its unused donor tensors, its map and how its LayerNorms vary."""
    texts: dict[str, int] = {"": 0}

    def text(value: Any) -> int:
        told = " × ".join(value) if isinstance(value, list) else str(value)
        return texts.setdefault(told[:LONGEST], len(texts))

    def tensors(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        return [[text(row[name]) for name in FIELDS] for row in rows[:MOST_TENSORS]]

    packed = [
        {
            "name": graft["name"],
            "tensors": tensors(graft["tensors"]),
            "unused": tensors(graft["unused"]),
            "more": max(0, len(graft["tensors"]) - MOST_TENSORS),
            "map": _map(graft["map"]),
            "norms": [
                [row.get(name) for name in ("layer", *(f"{at}_{what}_cv" for what in _VARY for at in _AT))]
                for row in graft["norms"]
            ],
        }
        for graft in grafts
    ]
    return {"texts": list(texts), "grafts": packed}


_VARY = ("sigma", "gamma")
_AT = ("attention", "ffn")


def _map(made: dict[str, Any] | None) -> dict[str, Any] | None:
    """Cells become the indices of their tensors (0 where there is none); the picture is drawn from those."""
    if made is None:
        return None
    return {
        **{name: made[name] for name in ("sides", "columns", "edges", "statuses", "others")},
        "rows": [
            [
                row["part"],
                [[at for at in cell.places if at < MOST_TENSORS] if cell else 0 for cell in row["cells"]],
            ]
            for row in made["rows"]
        ],
        "summary": [[row["part"], row["encoder"], row["decoder"]] for row in made["summary"]],
    }
