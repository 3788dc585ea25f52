"""One run's artifacts as arrays and plain values. What cannot be read is said in a warning and left out."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Run:
    """What one job measured.

    `curve` holds arrays of one length, of the validations with a finite loss: step, examples, tokens, seconds, and
    the `val/...` names without their prefix (nan where a value is absent).
    """

    key: str
    curve: dict[str, NDArray[np.float64]]
    scores: dict[str, Any]
    examples: list[dict[str, Any]]
    cost: dict[str, float]
    donor_cost: dict[str, float]
    transfer: dict[str, Any] | None
    command: str
    job: str
    finetune_seed: int = 0
    pretrain_seed: int | None = None
    diverged: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class Artifacts:
    """Reads the files of artifacts, each once, however many jobs point to it."""

    def __init__(self, warnings: list[str]):
        self.warnings = warnings
        self._read: dict[Path, Any] = {}

    def mapping(self, path: Path, needed: bool = True) -> dict[str, Any]:
        """The object in a JSON file; an empty one after a warning."""
        if path not in self._read:
            self._read[path] = {}
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(value, dict):
                    raise ValueError("it holds no object")
                self._read[path] = value
            except (OSError, RecursionError, ValueError) as error:
                if needed or path.exists():
                    self.warnings.append(f"{path}: cannot be read ({_why(error)})")
        found: dict[str, Any] = self._read[path]
        return found

    def lines(self, path: Path, needed: bool = True) -> list[dict[str, Any]]:
        """The objects of a JSON Lines file; lines that are none are counted in one warning."""
        if path in self._read:
            kept: list[dict[str, Any]] = self._read[path]
            return kept
        rows: list[dict[str, Any]] = []
        damaged = 0
        try:
            # not splitlines(): a text may hold U+2028, which JSON leaves as it is
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except (RecursionError, ValueError):
                        row = None
                    if isinstance(row, dict):
                        rows.append(row)
                    else:
                        damaged += 1
        except OSError as error:
            if needed:
                self.warnings.append(f"{path}: cannot be read ({_why(error)})")
        if damaged:
            self.warnings.append(f"{path}: {damaged} damaged line(s) left out")
        self._read[path] = rows
        return rows


def read_run(path: Path, record: dict[str, Any], artifacts: Artifacts) -> Run | None:
    """The run of the job.json at `path`, or None (with a warning) where it has no learning curve."""
    stages: dict[str, dict[str, Any]] = {str(stage.get("stage")): stage for stage in rows(record.get("stages"))}
    finetune = _folder(path, stages.get("finetune"))
    if finetune is None:
        artifacts.warnings.append(f"{path}: names no fine-tuning artifact; left out")
        return None
    curve, diverged = _curve(artifacts.lines(finetune / "metrics.jsonl"))
    if len(curve["step"]) == 0:
        artifacts.warnings.append(f"{finetune / 'metrics.jsonl'}: holds no val/loss; the run is left out")
        return None
    if diverged:
        artifacts.warnings.append(f"{finetune / 'metrics.jsonl'}: val/loss was not a number in {diverged} place(s)")
    evaluate = _folder(path, stages.get("evaluate"))
    pretrain, graft = (_folder(path, stages.get(name)) for name in ("pretrain", "graft"))
    # without a graft the stage that trains says so; before the graft was a stage of its own, it said all of it
    transfer = artifacts.mapping((graft or finetune) / "transfer.json", needed=False)
    return Run(
        key=str((stages.get("finetune") or {}).get("key") or finetune),
        curve=curve,
        scores=_scores(artifacts.mapping(evaluate / "scores.json")) if evaluate else {},
        examples=[
            row
            for row in (artifacts.lines(evaluate / "examples.jsonl") if evaluate else [])
            if isinstance(row.get("index"), int)
        ],
        cost=_cost(artifacts, finetune, graft),
        donor_cost=_donor_cost(artifacts, pretrain, transfer),
        transfer=_transfer(transfer) if transfer else None,
        command=str(record.get("command", "")),
        job=str(path.parent),
        diverged=bool(diverged),
    )


def _cost(artifacts: Artifacts, finetune: Path, graft: Path | None) -> dict[str, float]:
    """What the fine-tuning cost, and as `graft_seconds` and `graft_flops` its graft, in full, however many share it."""
    own = _numbers(artifacts.mapping(finetune / "cost.json", needed=False))
    if graft is None:
        return {"graft_seconds": 0.0, "graft_flops": 0.0} | own
    grafted = _numbers(artifacts.mapping(graft / "cost.json"))
    return own | {f"graft_{name}": grafted[name] for name in ("seconds", "flops") if name in grafted}


def _donor_cost(artifacts: Artifacts, pretrain: Path | None, transfer: dict[str, Any]) -> dict[str, float]:
    """What the donor's training cost, for an arm whose graft read something of the donor."""
    used = mapping(mapping(transfer.get("counts")).get("donor")).get("used")
    if pretrain is None or used == 0:
        return {}
    return _numbers(artifacts.mapping(pretrain / "cost.json", needed=False))


def _curve(rows: list[dict[str, Any]]) -> tuple[dict[str, NDArray[np.float64]], int]:
    by_step: dict[float, dict[str, Any]] = {}
    diverged = 0
    for row in rows:
        if "val/loss" not in row:
            continue
        step = number(row.get("step"))
        if step is None or number(row["val/loss"]) is None:
            diverged += 1
            continue
        by_step[step] = row  # a resumed run may have written a step twice: the last one stands
    ordered = [by_step[step] for step in sorted(by_step)]
    names = {name for row in ordered for name in row if name.startswith("val/")}
    curve = {
        name: np.array([_or_nan(row.get(name)) for row in ordered], dtype=np.float64)
        for name in ("step", "examples", "tokens", "seconds")
    }
    for name in names:
        curve[name.removeprefix("val/")] = np.array([_or_nan(row.get(name)) for row in ordered], dtype=np.float64)
    return curve, diverged


def _folder(path: Path, stage: dict[str, Any] | None) -> Path | None:
    if not stage or not isinstance(stage.get("path"), str):
        return None
    return place(path.parent, stage["path"])


def place(folder: Path, name: str) -> Path | None:
    """Where a record says that something is; None where no file system could have it there."""
    with contextlib.suppress(OSError, ValueError):
        found = (folder / name).resolve()
        found.exists()
        return found
    return None


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; of anything else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _scores(record: dict[str, Any]) -> dict[str, Any]:
    languages = {code: mapping(table) for code, table in mapping(record.get("languages")).items()}
    return {**record, "all": mapping(record.get("all")), "languages": languages}


def _transfer(record: dict[str, Any]) -> dict[str, Any]:
    """A transfer.json of which every part that the report uses has its kind."""
    counts = {side: _numbers(mapping(table)) for side, table in mapping(record.get("counts")).items()}
    found = record.get("fidelity")
    fidelity = None
    if isinstance(found, dict):
        layers = [
            {
                "layer": number(row.get("layer")),
                **{when: _numbers(mapping(row.get(when))) for when in ("before", "after")},
            }
            for row in rows(found.get("layers"))
        ]
        fidelity = {
            "texts": number(found.get("texts")),
            "tokens": number(found.get("tokens")),
            "before": _numbers(mapping(found.get("before"))),
            "before_layers": _numbers(mapping(found.get("before_layers"))),
            "after": _numbers(mapping(found.get("after"))),
            "layers": layers,
            "norms": [_numbers(row) for row in rows(found.get("norms"))],
        }
    return {
        **record,
        "counts": counts,
        "fidelity": fidelity,
        **{side: [_tensor(row) for row in rows(record.get(side))] for side in ("host_tensors", "donor_tensors")},
    }


def _tensor(row: dict[str, Any]) -> dict[str, Any]:
    shape = row.get("shape")
    return {
        **{
            name: "" if row.get(name) is None else str(row[name])
            for name in ("name", "status", "source", "step", "note")
        },
        "shape": [str(size) for size in shape] if isinstance(shape, list) else [],
    }


_GREATEST = 1e150  # of what a measurement can be: squares and sums of it are still finite


def number(value: Any) -> float | None:
    """A finite number that can be reckoned with, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _GREATEST:
        return None
    return float(value)


def _or_nan(value: Any) -> float:
    found = number(value)
    return math.nan if found is None else found


def _numbers(mapping: dict[str, Any]) -> dict[str, float]:
    return {key: found for key, value in mapping.items() if (found := number(value)) is not None}


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
