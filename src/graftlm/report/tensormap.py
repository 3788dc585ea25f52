"""The tensor map as a picture: what became of each part of the host, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# what the graft did comes first; the marks tell the states apart without colour
STATUSES = ("copied", "mapped", "calibrated", "trained", "kept", "initialised")
MARKS = {"copied": "=", "mapped": "×", "calibrated": "≈", "trained": "∇", "kept": "·", "initialised": ""}
CARRIED = frozenset(("copied", "mapped", "calibrated", "trained"))
MEANING = {
    "copied": "value for value",
    "mapped": "rearranged, rescaled or mixed in closed form",
    "calibrated": "fitted on text",
    "trained": "by gradient, during the graft",
    "kept": "of the host’s checkpoint",
    "initialised": "at random",
}

# in the order of the forward pass; a part is (its row, its modules)
_PARTS = {
    "words": "words",
    "embed_positions": "positions",
    "layernorm_embedding": "embedding LayerNorm",
    "self_attn.q_proj": "attention q",
    "self_attn.k_proj": "attention k",
    "self_attn.v_proj": "attention v",
    "self_attn.out_proj": "attention out",
    "self_attn_layer_norm": "attention LayerNorm",
    "encoder_attn.q_proj": "cross-attention q",
    "encoder_attn.k_proj": "cross-attention k",
    "encoder_attn.v_proj": "cross-attention v",
    "encoder_attn.out_proj": "cross-attention out",
    "encoder_attn_layer_norm": "cross-attention LayerNorm",
    "fc1": "fc1",
    "fc2": "fc2",
    "final_layer_norm": "FFN LayerNorm",
    "layer_norm": "last LayerNorm",
    "final_logits_bias": "logits bias",
}
_LAYER = re.compile(r"^model\.(encoder|decoder)\.layers\.(\d+)\.(.+)$")
_SIDE = re.compile(r"^model\.(encoder|decoder)\.(.+)$")
_SIDES = ("encoder", "decoder")
_IN, _OUT = -1, 1_000_000  # columns in front of the first layer and behind the last


@dataclass
class Cell:
    """The tensors of one part at one place."""

    statuses: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # in the list of tensors

    @property
    def mark(self) -> str:
        return MARKS.get(self.statuses[0], "") if len(self.statuses) == 1 else ""

    @property
    def title(self) -> str:
        return "\n".join(self.told)

    def add(self, tensor: dict[str, Any], place: int = 0) -> None:
        self.places.append(place)
        if tensor["status"] not in self.statuses:
            self.statuses.append(tensor["status"])
        source = f" from {tensor['source']}" if tensor["source"] else ""
        step = f", step {tensor['step']}" if tensor["step"] else ""
        note = f": {tensor['note']}" if tensor["note"] else ""
        self.told.append(f"{tensor['name']}: {tensor['status']}{source}{step}{note}")


def tensor_map(tensors: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Rows of parts by columns of layers, both sides; and the same in words. None where the graft carried nothing.

    `tensors` as `records` reads them. Tensors of no known part (adapters, say) are counted in `others`.
    """
    if not any(tensor["status"] in CARRIED for tensor in tensors):
        return None
    cells: dict[tuple[str, str, int], Cell] = {}
    others = 0
    for index, tensor in enumerate(tensors):
        places = list(_places(tensor["name"]))
        others += not places
        for place in places:
            cells.setdefault(place, Cell()).add(tensor, index)
    columns = [(side, column) for side in _SIDES for column in sorted({c for _, s, c in cells if s == side})]
    rows = [
        {"part": label, "cells": [cells.get((part, *column)) for column in columns]}
        for part, label in _PARTS.items()
        if any(place[0] == part for place in cells)
    ]
    edges = [index for index in range(1, len(columns)) if columns[index][0] != columns[index - 1][0]]
    return {
        "sides": [(side, sum(s == side for s, _ in columns)) for side in _SIDES if any(s == side for s, _ in columns)],
        "columns": [{_IN: "in", _OUT: "out"}.get(column, str(column)) for _, column in columns],
        "edges": edges,
        "rows": rows,
        "summary": _summary(cells),
        "statuses": [status for status in STATUSES if any(status in cell.statuses for cell in cells.values())],
        "others": others,
    }


def _places(name: str) -> Iterable[tuple[str, str, int]]:
    """Part, side and column of a tensor; the shared words stand on both sides."""
    if name == "model.shared.weight":
        yield from (("words", side, _IN) for side in _SIDES)
    elif name == "lm_head.weight":
        yield "words", "decoder", _OUT
    elif name == "final_logits_bias":
        yield "final_logits_bias", "decoder", _OUT
    elif found := _LAYER.match(name):
        module = next((part for part in _PARTS if found[3].startswith(f"{part}.")), None)
        if module:
            yield module, found[1], int(found[2])
    elif found := _SIDE.match(name):
        module = found[2].rsplit(".", 1)[0]
        module = "words" if module == "embed_tokens" else module
        if module in _PARTS:
            yield module, found[1], _OUT if module == "layer_norm" else _IN


def _summary(cells: dict[tuple[str, str, int], Cell]) -> list[dict[str, str]]:
    """What became of each part in words: `calibrated` or `calibrated (0–5), initialised (6–11)`."""
    rows = []
    for part, label in _PARTS.items():
        told = {}
        for side in _SIDES:
            at: dict[str, list[int]] = {}
            for (row, where, column), cell in cells.items():
                if (row, where) == (part, side):
                    at.setdefault(" and ".join(cell.statuses), []).append(column)
            whole = len(at) == 1
            told[side] = ", ".join(
                status if whole or not 0 <= columns[0] < _OUT else f"{status} ({_ranges(columns)})"
                for status, columns in at.items()
            )
        if any(told.values()):
            rows.append({"part": label, **told})
    return rows


def _ranges(numbers: Iterable[int]) -> str:
    """`0–5, 7` of 0, 1, 2, 3, 4, 5, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
