"""arms.csv, runs.csv and curves.csv: the figures for a spreadsheet or a notebook.

A text that a spreadsheet would take for a formula gets an apostrophe in front (as OWASP advises); numbers are numbers.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftlm.report import plain
from graftlm.report.records import mapping, number, rows

if TYPE_CHECKING:
    from graftlm.report.collect import Collection

_ARM = ("name", "is_baseline", "control", "compared_to", "pairs", "word", "words", "seeds_needed")
_PARTS = ("mean", "low", "high", "sd", "n", "p", "p_holm")
_AXES = ("step", "examples", "tokens", "seconds")


def csvs(report: Mapping[str, Any], collection: Collection) -> dict[str, str]:
    """The files by their names. `report` is what stands in report.json; the curves are in the collection alone."""
    return {"arms.csv": arms_csv(report), "runs.csv": runs_csv(report), "curves.csv": curves_csv(collection)}


def arms_csv(report: Mapping[str, Any]) -> str:
    """A row an arm: its words, means over seeds, and each figure's difference with interval and p."""
    arms = rows(report.get("arms"))
    means = _names(mapping(arm.get("mean")) for arm in arms)
    figures = _names(mapping(arm.get("difference")) for arm in arms)
    parts = [
        (figure, part)
        for figure in figures
        for part in _PARTS
        if any(part in mapping(mapping(arm.get("difference")).get(figure)) for arm in arms)
    ]
    head = [*_ARM, "seeds", *(f"mean.{name}" for name in means), *(f"difference.{f}.{p}" for f, p in parts)]
    table = [
        [
            *(arm.get(name) for name in _ARM),
            len(rows(arm.get("seeds"))),
            *(mapping(arm.get("mean")).get(name) for name in means),
            *(mapping(mapping(arm.get("difference")).get(figure)).get(part) for figure, part in parts),
        ]
        for arm in arms
    ]
    return _write(head, table)


def runs_csv(report: Mapping[str, Any]) -> str:
    """A row a run: its arm, its seeds and its figures."""
    arms = rows(report.get("arms"))
    names = _names(seed for arm in arms for seed in rows(arm.get("seeds")))
    table = [[arm.get("name"), *(seed.get(name) for name in names)] for arm in arms for seed in rows(arm.get("seeds"))]
    return _write(["arm", *names], table)


def curves_csv(collection: Collection) -> str:
    """A row a validation of each run."""
    runs = [(arm.name, run) for arm in collection.arms for run in arm.runs]
    figures = [name for name in _names(run.curve for _, run in runs) if name not in _AXES]
    table = [
        [name, run.finetune_seed, run.pretrain_seed, *(_at(run.curve, key, place) for key in (*_AXES, *figures))]
        for name, run in runs
        for place in range(len(run.curve["step"]))
    ]
    return _write(["arm", "finetune_seed", "pretrain_seed", *_AXES, *(f"val/{name}" for name in figures)], table)


def _at(curve: Mapping[str, Any], name: str, place: int) -> float | None:
    return float(curve[name][place]) if name in curve else None


def _names(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for table in tables for name in table))


def _write(head: Sequence[str], table: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(name) for name in head])
    writer.writerows([_cell(value) for value in row] for row in table)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, int | float):
        found = number(value)
        return "" if found is None or math.isnan(found) else int(found) if isinstance(value, int) else found
    text = plain.line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "|", "%") else text
