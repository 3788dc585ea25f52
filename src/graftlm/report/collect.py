"""Reading what jobs left: job.json records below any folders, the artifacts they point to, grouped into arms.

Nothing here is fatal but finding no record at all: a record that cannot be read becomes a warning, a failed job is
listed with its error. An arm is what varies between the jobs apart from seeds; the baseline depends on neither donor
nor mask, so its jobs that share a fine-tuning artifact are one run.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftlm.errors import ReportError
from graftlm.record import VERSION
from graftlm.report.defaults import with_defaults
from graftlm.report.jobs import DONOR_SIDE, Job, flatten, names, plain
from graftlm.report.records import Artifacts, Run, mapping, number, place, read_run, rows
from graftlm.search.summary import SUMMARY, read_summary


@dataclass
class Arm:
    """The runs of one choice under comparison."""

    name: str
    transfer: str
    is_baseline: bool
    control: bool
    identity: dict[str, Any]
    context: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)


@dataclass
class Collection:
    """All that a report is made of."""

    arms: list[Arm]
    failed: list[dict[str, Any]]
    pruned: list[dict[str, Any]]
    searches: list[str]
    pruning: bool
    warnings: list[str]
    confidence: float
    resamples: int
    samples: int
    jobs: int
    primary: str = "auc"
    declared: list[str] = field(default_factory=list)
    asked: bool = False
    contrasts: list[tuple[str, str, bool]] = field(default_factory=list)

    @property
    def primary_note(self) -> str | None:
        """What a reader must know where the primary figure is not the one that every job declared."""
        others = [name for name in self.declared if name != self.primary]
        if not others:
            return None
        if len(self.declared) > 1 and not self.asked:
            return f"The jobs declare different primary figures ({', '.join(self.declared)}); {self.primary} is used."
        return (
            f"The primary figure of this report, {self.primary}, is not the one that was declared beforehand "
            f"({', '.join(others)}): it may have been chosen by its result."
        )

    @property
    def baselines(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.is_baseline]

    @property
    def varying(self) -> list[str]:
        """The settings that differ between arms. A setting of the donor's side says nothing about a baseline."""
        keys = sorted({key for arm in self.arms for key in arm.identity})
        seen = {
            key: {
                plain(arm.identity.get(key))
                for arm in self.arms
                if not (arm.is_baseline and key.startswith(DONOR_SIDE))
            }
            for key in keys
        }
        return [key for key in keys if len(seen[key]) > 1]


def collect(dirs: Sequence[Path], primary: str | None = None, contrasts: Sequence[tuple[str, str]] = ()) -> Collection:
    """Reads every job below `dirs`; `primary` and `contrasts` are asked for besides what the jobs declare.

    Raises:
        ReportError: no folder, or no readable job.json below it.
    """
    warnings: list[str] = []
    jobs = [job for path in _find(dirs) if (job := _read_job(path, warnings))]
    if not jobs:
        raise ReportError.at(
            "report",
            " ".join(map(str, dirs)),
            "holds no readable job.json" + (f" ({warnings[0]})" if warnings else ""),
            "name a folder that `graftlm run` or `graftlm run -m` wrote",
        )
    done = [job for job in jobs if job.record.get("status") == "done"]
    settings = jobs[-1].flat
    declared = list(dict.fromkeys(str(job.flat.get("report.primary", "auc")) for job in jobs))
    failed = [_ended_early(job) for job in jobs if job.record.get("status") not in ("done", "pruned")]
    return Collection(
        arms=_arms(done, warnings, failed),
        failed=failed,
        pruned=[_ended_early(job) for job in jobs if job.record.get("status") == "pruned"],
        searches=sorted({str(job.flat["search.sampler"]) for job in jobs if job.flat.get("search.sampler")}),
        pruning=any(job.flat.get("search.sampler") and job.flat.get("search.pruner.kind") != "none" for job in jobs),
        warnings=warnings,
        confidence=_number(settings.get("report.confidence"), 0.95),
        resamples=int(_number(settings.get("report.resamples"), 2000)),
        samples=int(_number(settings.get("report.samples"), 20)),
        jobs=len(jobs),
        primary=primary or declared[-1],
        declared=sorted(declared),
        asked=primary is not None and declared != [primary],
        contrasts=_contrasts(jobs, contrasts),
    )


def _contrasts(jobs: Sequence[Job], asked: Sequence[tuple[str, str]]) -> list[tuple[str, str, bool]]:
    """The declared pairs of arms, then those that were asked for only."""
    found: dict[tuple[str, str], bool] = {}
    for job in jobs:
        declared = job.flat.get("report.contrasts")
        for pair in declared if isinstance(declared, list) else []:
            if isinstance(pair, list) and len(pair) == 2:
                found.setdefault((str(pair[0]), str(pair[1])), False)
    for first, second in asked:
        found.setdefault((first, second), True)
    return [(first, second, late) for (first, second), late in found.items()]


def _ended_early(job: Job, error: str = "") -> dict[str, Any]:
    return {
        "job": str(job.path.parent),
        "arm": job.transfer,
        "finetune_seed": job.seed("finetune"),
        "pretrain_seed": job.seed("pretrain"),
        "error": error or str(job.record.get("error") or "it has not ended: it is running, or was killed"),
        "command": str(job.record.get("command", "")),
        "overrides": " ".join(job.record["overrides"]),
    }


def _arms(jobs: Sequence[Job], warnings: list[str], failed: list[dict[str, Any]]) -> list[Arm]:
    """The arms of jobs that were done; a run that diverged after its last step, or between two, is added to `failed`:
    what its curve was before would stand for what it came to."""
    grouped: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        grouped[plain([job.transfer, job.identity()])].append(job)
    labels = names([group[0] for group in grouped.values()])
    artifacts = Artifacts(warnings)
    arms: list[Arm] = []
    for name, group in zip(labels, grouped.values(), strict=True):
        first = group[0]
        arm = Arm(
            name, first.transfer, first.is_baseline, False, first.identity(), first.context(), choices=first.choices
        )
        seen: dict[tuple[int, int], str] = {}
        for job in group:
            run = read_run(job.path, job.record, artifacts)
            if run is None:
                continue
            run.finetune_seed = job.seed("finetune")
            run.pretrain_seed = None if arm.is_baseline else job.seed("pretrain")
            run.extra["corpus"] = job.key("corpus")
            place = (run.finetune_seed, run.pretrain_seed or 0)
            if place in seen:
                if seen[place] != run.key:
                    warnings.append(
                        f"{name}: finetune seed {place[0]} was trained twice with other records of the same settings "
                        f"({seen[place][:12]}, {run.key[:12]}); the first is used"
                    )
                continue
            seen[place] = run.key
            if run.diverged:
                failed.append(_ended_early(job, "it diverged: a validation loss is not a number"))
            else:
                arm.runs.append(run)
        if not arm.runs:
            continue
        arm.runs.sort(key=lambda run: (run.finetune_seed, run.pretrain_seed or 0))
        arm.control = bool((arm.runs[0].transfer or {}).get("control", first.flat.get("transfer.control", False)))
        arms.append(arm)
    order = list(dict.fromkeys(arm.transfer for arm in arms))
    return sorted(arms, key=lambda arm: (not arm.is_baseline, arm.control, order.index(arm.transfer)))


def _find(dirs: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for start in dirs:
        if not Path(start).exists():
            raise ReportError.at("report", start, "is no folder", "name a folder that a job or a sweep wrote")
        for folder, inner, files in os.walk(start):
            if "artifact.json" in files:
                inner.clear()  # a stage's artifact holds models, not jobs
                continue
            inner.sort(key=lambda name: (len(name), name) if name.isdigit() else (99, name))
            if "job.json" in files:
                found[(Path(folder) / "job.json").resolve()] = None
            if SUMMARY in files:  # a search that was continued: the jobs of its earlier sweeps
                for trial in rows(read_summary(Path(folder)).get("trials")):
                    record = place(Path(folder), f"{trial.get('job')}/job.json")
                    if record is not None and record.is_file():
                        found[record] = None
    return list(found)


def _read_job(path: Path, warnings: list[str]) -> Job | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        warnings.append(f"{path}: cannot be read ({error})")
        return None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        warnings.append(f"{path}: is no record of a job (it has no settings)")
        return None
    if record.get("version", VERSION) != VERSION:
        warnings.append(f"{path}: is a record of version {record['version']}, of which nothing is known here")
        return None
    overrides = record.get("overrides")
    record = {
        **record,
        "choices": mapping(record.get("choices")),
        "overrides": [str(item) for item in overrides] if isinstance(overrides, list) else [],
        "seeds": mapping(record.get("seeds")),
    }
    return Job(path, record, with_defaults(flatten(record["settings"])))


def _number(value: Any, default: float) -> float:
    found = number(value)
    return default if found is None else found
