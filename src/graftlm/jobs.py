"""One job: its stages in order, each taken from the store or run, and the record that reports read."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from graftlm.compose import Job
from graftlm.console import Progress
from graftlm.errors import GraftlmError
from graftlm.plan import Fingerprints, stage_keys
from graftlm.schema import Settings
from graftlm.store import Store, write_json

RECORD = "job.json"
_FINGERPRINTS = Fingerprints()  # one a process: a sweep reads its checkpoints once
_verified: set[str] = set()  # artifacts whose content this process has made or checked


@dataclass(frozen=True)
class Labels:
    """What tells a job apart in logs and dashboards."""

    sweep: str
    job: str
    choices: Mapping[str, str]

    @property
    def arm(self) -> str:
        return self.choices.get("transfer", "custom")


@dataclass(frozen=True)
class StageContext:
    """What a stage gets: settings, the artifacts it builds on, its own unfinished folder, and whom to tell."""

    settings: Settings
    inputs: Mapping[str, Path]
    work: Path
    progress: Progress
    labels: Labels


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: str
    error: str | None
    stages: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def reused(self) -> bool:
        return bool(self.stages) and all(stage["reused"] for stage in self.stages)


def run_job(job: Job, folder: Path, command: str, sweep: str, progress: Progress) -> Outcome:
    """Run what is missing of a job, and write `job.json` into its folder whatever happens.

    An error that a user can mend is recorded, not raised; anything else is recorded and raised. An interrupt leaves
    the unfinished stage as it is, to be continued by the same command.
    """
    begun = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    stages: list[dict[str, Any]] = []

    def finish(status: str, error: str | None) -> Outcome:
        result = Outcome(status, error, tuple(stages), time.monotonic() - begun)
        settings = job.settings
        record = {
            "version": 1,
            "status": status,
            "error": error,
            "started": started,
            "seconds": round(result.seconds, 3),
            "command": command,
            "sweep": sweep,
            "choices": job.choices,
            "overrides": list(job.overrides),
            "seeds": {"pretrain": settings.pretrain.seed, "finetune": settings.finetune.seed},
            "settings": dataclasses.asdict(settings),
            "stages": stages,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)
        return result

    try:
        _run_stages(job, folder, sweep, progress, stages)
    except GraftlmError as error:
        return finish("failed", str(error))
    except KeyboardInterrupt:
        finish("interrupted", "interrupted; the same command continues it")
        raise
    except BaseException as error:
        finish("failed", f"{type(error).__name__}: {error}")
        raise
    return finish("done", None)


def _run_stages(job: Job, folder: Path, sweep: str, progress: Progress, stages: list[dict[str, Any]]) -> None:
    settings = job.settings
    store = Store(Path(settings.store.dir).expanduser().absolute())
    labels = Labels(sweep, folder.name, job.choices)
    inputs: dict[str, Path] = {}
    keys = stage_keys(settings, _FINGERPRINTS)
    by_key = {key.key: key for key in keys}
    for key in keys:

        def build(work: Path, stage: str = key.stage, needs: tuple[str, ...] = tuple(key.inputs.values())) -> None:
            for name in needs:
                if name not in _verified:
                    store.verify(by_key[name])
                    _verified.add(name)
            run = import_module(f"graftlm.stages.{stage}").run
            run(StageContext(settings, dict(inputs), work, progress, labels))

        path, reused = store.obtain(key, build, progress)
        if not reused:
            _verified.add(key.key)
        inputs[key.stage] = path
        relative = os.path.relpath(path, folder.absolute())
        stages.append({"stage": key.stage, "key": key.key, "path": relative, "reused": reused})
