"""What is known of a model to be exported: its artifact, what that was built on, its scores, and its comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftlm.errors import ReportError, StoreError
from graftlm.record import RECORD, read_record
from graftlm.report.records import mapping, rows
from graftlm.report.results import VERSION
from graftlm.store import MARKER, damage, read_marker
from graftlm.tracking.records import artifacts_of

TRANSFER = "transfer.json"
_NEEDED = "a job's folder, a finetune artifact, or its key"


@dataclass(frozen=True)
class Source:
    """A finetune artifact and all that is told about it; what is not known is empty."""

    finetune: Path
    marker: dict[str, Any]
    transfer: dict[str, Any]
    cost: dict[str, Any]
    graft: dict[str, Any] = field(default_factory=dict)  # the marker of the graft artifact
    graft_cost: dict[str, Any] = field(default_factory=dict)
    donor: dict[str, Any] = field(default_factory=dict)  # the marker of the pretrain artifact
    donor_cost: dict[str, Any] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    arm: dict[str, Any] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        """The strategy's name: strategies of the same steps share a graft, which names one of them."""
        named = mapping(self.record.get("choices")).get("transfer")
        own = mapping(mapping(self.marker.get("settings")).get("transfer")).get("name")
        return str(named or own or self.transfer.get("strategy") or "")

    @property
    def languages(self) -> tuple[list[str], list[str]]:
        """Codes of the sources and of the targets that the model was trained on."""
        pairs = mapping(mapping(mapping(self.summary.get("pairs")).get("train")).get("languages"))
        sides = [code.partition(">") for code in pairs]
        return sorted({one for one, _, _ in sides}), sorted({other for _, _, other in sides if other})

    def verify(self) -> None:
        """Read all files against their sums.

        Raises:
            StoreError: one is not what was written.
        """
        wrong = next(damage(self.finetune, self.marker, sums=True), None)
        if wrong is not None:
            reason = f"the stored artifact is damaged: {wrong}"
            raise StoreError.at("export", self.finetune, reason, "run the job again, which makes it again")


def find(run: Path, store: Path) -> Source:
    """All that is known of the model that `run` names.

    Raises:
        ReportError: there is none, or several.
    """
    given = run.expanduser()
    record: dict[str, Any] = {}
    if (given / RECORD).is_file():
        record = read_record(given / RECORD)
        folder = next(artifacts_of(given, record, "finetune"), None)
        if folder is None:
            status = record.get("status") or "cannot be read"
            raise ReportError.at(
                "export", run, f"this job has no finished model (it is: {status})", "run it to its end"
            )
    elif (given / MARKER).is_file():
        folder = given
    elif given.is_dir():
        jobs = sorted(path.parent.name for path in given.glob(f"*/{RECORD}"))
        reason, remedy = "is no folder of a job or an artifact", f"name {_NEEDED}"
        if jobs:
            reason, remedy = "is a sweep", f"name one of its jobs: {', '.join(jobs[:8])}{' …' if len(jobs) > 8 else ''}"
        raise ReportError.at("export", run, reason, remedy)
    else:
        folder = _by_key(str(run), store)
    marker = read_marker(folder)
    if marker.get("stage") != "finetune" or not (folder / "model" / "config.json").is_file():
        raise ReportError.at("export", run, f"is no fine-tuned model but {marker.get('stage')}", f"name {_NEEDED}")
    return _gather(folder.resolve(), marker, given, record)


def _by_key(key: str, store: Path) -> Path:
    found = [path for path in (store.expanduser() / "finetune").glob("*") if path.name.startswith(key)]
    found = [path for path in found if (path / MARKER).is_file()] if key and "/" not in key else []
    if not found:
        reason = f"is neither a folder nor the beginning of a key in {store}"
        raise ReportError.at("export", key, reason, f"name {_NEEDED}; `graftlm store ls --stage finetune` lists them")
    if len(found) > 1:
        raise ReportError.at("export", key, f"begins {len(found)} keys", "give more of it")
    return found[0]


def _gather(folder: Path, marker: dict[str, Any], job: Path, record: dict[str, Any]) -> Source:
    store, inputs = folder.parent.parent, mapping(marker.get("inputs"))

    def beside(stage: str) -> Path:
        return store / stage / str(inputs.get(stage, "none"))

    graft = _read(beside("graft") / MARKER)
    inputs = {**mapping(graft.get("inputs")), **inputs}
    donor = _read(beside("pretrain") / MARKER)
    evaluated = next(artifacts_of(job, record, "evaluate"), None) if record else _evaluation_of(store, folder.name)
    report, arm = _comparison(job, record) if record else ({}, {})
    return Source(
        finetune=folder,
        marker=marker,
        transfer=_read(beside("graft") / TRANSFER) or _read(folder / TRANSFER),
        cost=_read(folder / "cost.json"),
        graft=graft,
        graft_cost=_read(beside("graft") / "cost.json"),
        donor=donor,
        donor_cost=_read(beside("pretrain") / "cost.json"),
        corpus=_read(beside("corpus") / MARKER),
        summary=_read(beside("corpus") / "summary.json"),
        evaluation=_read(evaluated / MARKER) if evaluated else {},
        scores=_read(evaluated / "scores.json") if evaluated else {},
        record=record,
        report=report,
        arm=arm,
    )


def _evaluation_of(store: Path, key: str) -> Path | None:
    """The latest evaluation of a model in the same store."""
    found = [
        (str(marker.get("created")), path.parent)
        for path in store.glob(f"evaluate/*/{MARKER}")
        if mapping((marker := _read(path)).get("inputs")).get("finetune") == key
    ]
    return max(found)[1] if found else None


def _comparison(job: Path, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of the job's sweep and the arm that it is of, where there is one."""
    folder = job.resolve()
    report = _read(folder.parent / "report.json") or _read(folder / "report.json")
    if report.get("version") != VERSION:  # of another graftlm: what its figures are is not known
        return {}, {}
    for arm in rows(report.get("arms")):
        for seed in rows(arm.get("seeds")):
            place = Path(str(seed.get("job") or ""))
            # a sweep that was moved is known by its last two names
            if place == folder or place.parts[-2:] == folder.parts[-2:]:
                return report, arm
    return {}, {}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
