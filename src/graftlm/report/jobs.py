"""One job's record as settings by dotted name, and short labels that tell arms apart."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.report.records import number, rows

# choices that say where a job ran or what wrote it down, not what it is
_IDLE_CHOICES = {"logger", "sweep", "launch", "debug", "experiment", "trainer"}
_SEEDS = ("pretrain.seed", "finetune.seed")
DONOR_SIDE = ("pretrain.", "mask.")
ARM_SIDE = (*DONOR_SIDE, "transfer.")


@dataclass
class Job:
    """One job.json."""

    path: Path
    record: dict[str, Any]
    flat: dict[str, Any]

    @property
    def choices(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self.record["choices"].items()}

    @property
    def transfer(self) -> str:
        return self.choices.get("transfer") or str(self.flat.get("transfer.name", "?"))

    @property
    def is_baseline(self) -> bool:
        return self.transfer == str(self.flat.get("report.baseline", "none"))

    def seed(self, stage: str) -> int:
        value = self.record["seeds"].get(stage, self.flat.get(f"{stage}.seed", 0))
        return int(found) if (found := number(value)) is not None else 0

    def key(self, stage: str) -> str:
        """The key of the artifact that this stage left, or used."""
        stages = [item for item in rows(self.record.get("stages")) if item.get("stage") == stage]
        return str(stages[0].get("key") or "") if stages else ""

    def identity(self) -> dict[str, Any]:
        """Every setting that can change the outcome, apart from seeds (and, for the baseline, the donor's side)."""
        skipped = DONOR_SIDE if self.is_baseline else ()
        return {
            key: value
            for key, value in self.flat.items()
            if key not in _SEEDS and not _is_idle(key) and not key.startswith(skipped or "\0")
        }

    def context(self) -> dict[str, Any]:
        """What a fair comparison holds equal: data, model, schedule and decoding."""
        return {key: value for key, value in self.identity().items() if not key.startswith(ARM_SIDE)}


def names(jobs: Sequence[Job]) -> list[str]:
    """Short labels that tell the arms apart: the strategy, then the choices and settings that vary."""
    choices = [job.choices for job in jobs]
    groups = [
        key
        for key in dict.fromkeys(key for item in choices for key in item)
        if key != "transfer" and key not in _IDLE_CHOICES and not key.startswith("hydra")
    ]
    donors = [job for job in jobs if not job.is_baseline]

    def varies(key: str) -> bool:
        among = donors if key in ("mask", "pretrain") else jobs
        return len({job.choices.get(key) for job in among}) > 1

    told = [key for key in groups if varies(key)]
    parts = [
        [job.transfer, *(job.choices.get(key, "") for key in told if not (job.is_baseline and key == "mask"))]
        for job in jobs
    ]

    def says_more(key: str) -> bool:
        """Whether a setting varies among jobs of the same choice of its group, which the label has already."""
        group = key.partition(".")[0]
        values = {(job.choices.get(group) if group in told else None, plain(job.flat.get(key))) for job in jobs}
        return len(values) > len({choice for choice, _ in values})

    overridden = [key for key in _overridden(jobs) if says_more(key)]
    for key in overridden:
        for job, part in zip(jobs, parts, strict=True):
            if not (job.is_baseline and key.startswith(ARM_SIDE)) and key in job.flat:
                part.append(f"{_short(key)}={_text(job.flat[key])}")
    joined = [" · ".join(filter(None, part)) for part in parts]
    # two arms of one label differ by a setting that no override names: name it
    for label, count in Counter(joined).items():
        if count > 1:
            same = [index for index, other in enumerate(joined) if other == label]
            identities = [jobs[index].identity() for index in same]
            keys = sorted({key for item in identities for key in item})
            apart = [key for key in keys if len({plain(item.get(key)) for item in identities}) > 1]
            for number, index in enumerate(same):
                said = [f"{_short(key)}={_text(jobs[index].flat.get(key))}" for key in apart[:2]]
                joined[index] = " · ".join([label, *(said or [f"#{number + 1}"])])
    while any(count > 1 for count in Counter(joined).values()):
        joined = [f"{label} #{number + 1}" if joined.count(label) > 1 else label for number, label in enumerate(joined)]
    return joined


def _overridden(jobs: Sequence[Job]) -> list[str]:
    """The dotted settings that any job overrides, in order, without seeds and what cannot change a result."""
    keys: dict[str, None] = {}
    for job in jobs:
        for text in job.record["overrides"]:
            key = str(text).split("=", 1)[0].lstrip("+~")
            if "." in key and key not in _SEEDS and not _is_idle(key) and not key.startswith("hydra."):
                keys[key] = None
    return list(keys)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of the leaves; a list is a leaf."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _is_idle(key: str) -> bool:
    return any(key == path or key.startswith(path + ".") for path in _idle_paths()) or key.endswith(".name")


@functools.cache
def _idle_paths() -> frozenset[str]:
    """The settings that the schema declares unable to change an outcome."""
    from graftlm.schema import Settings

    paths: set[str] = set()

    def walk(kind: Any, prefix: str) -> None:
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            where = f"{prefix}.{item.name}" if prefix else item.name
            if not item.metadata.get("outcome", True):
                paths.add(where)
            elif dataclasses.is_dataclass(hints[item.name]):
                walk(hints[item.name], where)

    walk(Settings, "")
    return frozenset(paths)


def plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _text(value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else plain(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _short(key: str) -> str:
    return key.split(".", 1)[1] if key.startswith("transfer.") else key
