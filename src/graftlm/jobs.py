"""One job: its stages in order, each taken from the store or run, and the record that reports read."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graftlm import interrupt, provenance
from graftlm.bugs import told, trace
from graftlm.console import Progress, Watched
from graftlm.context import Labels, Pruned, StageContext
from graftlm.errors import GraftlmError, MachineError, Problem, StoreError, first_line
from graftlm.faults import limit_reached, machine_error
from graftlm.job import Job
from graftlm.loading import load
from graftlm.plan import Fingerprints, stage_keys
from graftlm.record import RECORD, RUNNING, VERSION, Outcome
from graftlm.schema import Settings
from graftlm.search.pruning import tell_curve
from graftlm.store import StageKey, Store, write_json

_TRAINED = ("pretrain", "finetune")  # stages that take several devices
_FINGERPRINTS = Fingerprints()  # one a process: a sweep reads its checkpoints once
_verified: set[str] = set()  # artifacts whose content this process has made or checked


def bug(error: BaseException, folder: Path) -> str:
    """What a user is told of a mistake of ours."""
    return str(told(error, f"send {folder / 'graftlm.log'} to its maintainers"))


def run_job(job: Job, folder: Path, command: str, sweep: str, progress: Progress) -> Outcome:
    """Run what is missing of a job, and write `job.json` into its folder, before it and whatever happens.

    An error that a user can mend, or a fault of the machine, is recorded, not raised; anything else is recorded and
    raised. A signal (`trainer.signals`, Ctrl-C) leaves the unfinished stage at its last step, to be continued by the
    same command.
    """
    with interrupt.handled(job.settings.trainer.signals):
        return _run_recorded(job, folder, command, sweep, progress)


def _run_recorded(job: Job, folder: Path, command: str, sweep: str, progress: Progress) -> Outcome:
    begun = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    stages: list[dict[str, Any]] = []
    planned: list[str] = []  # keys of all its stages: who cleans the store up must know what it is going to use

    def write(status: str, error: str | None, **more: Any) -> Outcome:
        result = Outcome(status, error, tuple(stages), time.monotonic() - begun)
        settings = job.settings
        record = {
            "version": VERSION,
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
            "planned": planned,
            **more,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)
        return result

    def end(status: str, error: str | None, **more: Any) -> Outcome:
        """A job whose end cannot be written down has failed, with what failed before it or with that."""
        try:
            return write(status, error, **more)
        except OSError as failure:
            fault = machine_error(failure, folder.absolute(), doing=f"{RECORD} was written")
            reason = error if status == "failed" and error else str(fault or first_line(failure))
            return Outcome("failed", reason, tuple(stages), time.monotonic() - begun)

    with contextlib.suppress(GraftlmError):  # told by the stages, which need them
        planned = [key.key for key in stage_keys(job.settings, _FINGERPRINTS)]
    try:
        write(RUNNING, None)
        write_json(folder / provenance.FILE, provenance.provenance(Path.cwd()))
        with _resources(job.settings, progress):
            _run_stages(job, folder, sweep, progress, stages)
    except Pruned as given_up:
        return end("pruned", str(given_up), pruned_step=given_up.step)
    except GraftlmError as error:
        return end("failed", str(error))
    except KeyboardInterrupt as stopped:
        end("interrupted", f"interrupted ({str(stopped) or 'SIGINT'}); the same command goes on from here")
        raise
    except BaseException as error:
        if fault := machine_error(error, folder.absolute(), doing="the job began"):
            return end("failed", str(_logged(fault, error)))
        end("failed", bug(error, folder))
        raise
    return end("done", None)


def _logged(fault: MachineError, error: BaseException) -> MachineError:
    """Where exactly a fault was met is for who looks into the log, not for the line."""
    logging.getLogger(__name__).error("%s\n%s", fault, trace(error))
    return fault


@contextlib.contextmanager
def _resources(settings: Settings, progress: Progress) -> Iterator[None]:
    """What the job needs to run (`graftlm.leases`), where any stage is to be made.

    Taken before the lock of any stage: a job that held one while it waited could be what those before it wait for.
    """
    store = Store(Path(settings.store.dir).expanduser().absolute())
    if all(store.holds(key) for key in stage_keys(settings, _FINGERPRINTS)):
        yield
        return
    from graftlm.leases import leased

    with leased(settings.launch, settings.trainer, progress):
        yield


def _run_stages(job: Job, folder: Path, sweep: str, progress: Progress, stages: list[dict[str, Any]]) -> None:
    settings = job.settings
    store = Store(Path(settings.store.dir).expanduser().absolute(), settings.store.lease)
    labels = Labels(sweep, folder.name, job.choices)
    watched = Watched(progress)
    keys = stage_keys(settings, _FINGERPRINTS)
    by_key = {key.key: key for key in keys}
    paths: dict[str, Path] = {}

    def obtain(key: StageKey, suspect: bool = False) -> bool:
        """Have the artifact, and before it whole ones of what it builds on; whether it was reused."""
        interrupt.check()
        if suspect or not store.holds(key):
            for name in key.inputs.values():
                whole(by_key[name])

        def build(work: Path) -> None:
            inputs = {stage: paths[name] for stage, name in key.inputs.items()}
            context = StageContext(settings, inputs, work, watched, labels)
            if settings.trainer.devices > 1 and key.stage in _TRAINED:
                from graftlm.stages.devices import run_on_devices

                run_on_devices(key.stage, context)
            else:
                load(f"graftlm.stages.{key.stage}").run(context)

        doing = f"{key.stage} {key.key[:8]} was made"
        try:
            paths[key.key], reused = store.obtain(key, build, watched, suspect)
        except GraftlmError as error:
            # a StoreError tells of more than one file
            fault = limit_reached(error, store.folder, doing)
            if fault := fault or (None if isinstance(error, StoreError) else lost(key, doing)):
                raise _logged(fault, error) from error
            raise
        except Exception as error:
            if fault := machine_error(error, store.folder, [folder.absolute()], doing) or lost(key, doing):
                raise _logged(fault, error) from error
            raise
        if not reused:
            _verified.add(key.key)
        return reused

    def lost(key: StageKey, doing: str) -> MachineError | None:
        """What it builds on was whole when it began: each library has words of its own for a file that is gone."""
        for name in key.inputs.values():
            with contextlib.suppress(OSError, GraftlmError):
                if reason := store.lacks(by_key[name]):
                    reason, remedy = f"{reason}, lost while {doing}", "the same command makes it again"
                    return MachineError(Problem(str(store.path(by_key[name])), None, reason, remedy))
        return None

    def whole(key: StageKey) -> None:
        """Something is to be built on it: read it against its sums, and make it again where it is damaged."""
        if key.key not in paths:
            obtain(key)
        if key.key not in _verified:
            if store.damaged(key):
                obtain(key, suspect=True)
            _verified.add(key.key)

    for key in keys:
        reused = obtain(key)
        if reused and key.stage == "finetune":
            tell_curve(settings, paths[key.key], watched)
        path = os.path.relpath(paths[key.key], folder.absolute())
        stages.append({"stage": key.stage, "key": key.key, "path": path, "reused": reused})
