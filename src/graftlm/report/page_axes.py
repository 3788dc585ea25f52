"""The settings that a sweep varied, as axes of a heat map: any two of them against each other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from graftlm.report.collect import Arm
from graftlm.report.compare import ArmReport

_NAMES = {"transfer": "strategy", "mask": "mask"}
_IDLE = ("logger", "sweep", "launch", "debug", "experiment", "trainer")
MOST = 8  # axes to choose from


@dataclass
class Axis:
    """One varied setting: its values in order, and where each compared arm stands on it."""

    label: str
    values: list[str]
    places: list[int]

    def to_json(self, arms: int, indices: Sequence[int]) -> dict[str, Any]:
        """`places` over all arms of the report: -1 for those that are not compared."""
        full = [-1] * arms
        for index, place in zip(indices, self.places, strict=True):
            full[index] = place
        return {"label": self.label, "values": self.values, "places": full}


def heat_map(arms: Sequence[Arm], reports: Sequence[ArmReport], main: str = "auc") -> dict[str, Any] | None:
    """Axes and the pair to begin with; None where no two settings were varied against each other.

    Group choices come first (strategy, mask …), then single settings that no group choice explains.
    """
    indices = [index for index, report in enumerate(reports) if main in report.difference]
    compared = [arms[index] for index in indices]
    axes = _axes(compared)[:MOST]
    pairs = [pair for pair in combinations(range(len(axes)), 2) if _crossed(axes[pair[0]], axes[pair[1]])]
    if not pairs:
        return None
    return {"axes": [axis.to_json(len(arms), indices) for axis in axes], "first": list(pairs[0])}


def _axes(arms: Sequence[Arm]) -> list[Axis]:
    groups = [
        key
        for key in dict.fromkeys(["transfer", *(key for arm in arms for key in arm.choices)])
        if key not in _IDLE and not key.startswith("hydra")
    ]
    axes: list[Axis] = []
    for key in groups:
        values = [arm.transfer if key == "transfer" else arm.choices.get(key, "–") for arm in arms]
        if len(set(values)) > 1 and not _told(values, axes):
            axes.append(_axis(_NAMES.get(key, key), values))
    for key in sorted({key for arm in arms for key in arm.identity}):
        found = [arm.identity.get(key) for arm in arms]
        if any(isinstance(value, dict | list) for value in found):
            continue
        values = [value if isinstance(value, str) else json.dumps(value, default=str) for value in found]
        if len(set(values)) > 1 and not _told(values, axes):
            axes.append(_axis(key, values))
    return axes


def _told(values: Sequence[str], axes: Sequence[Axis]) -> bool:
    """Whether a setting follows from one of the axes: each place of the axis has one value."""
    return any(len(set(zip(axis.places, values, strict=True))) == len(axis.values) for axis in axes)


def _axis(label: str, values: Sequence[str]) -> Axis:
    order = list(dict.fromkeys(values))
    with contextlib.suppress(ValueError):  # names keep the order of the arms
        order.sort(key=float)
    return Axis(label, order, [order.index(value) for value in values])


def _crossed(one: Axis, other: Axis) -> bool:
    """Whether at least two rows meet at least two columns each."""
    filled = set(zip(one.places, other.places, strict=True))
    rows = [sum(row == place for row, _ in filled) for place in range(len(one.values))]
    return sum(count > 1 for count in rows) > 1
