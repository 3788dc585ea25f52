"""Handing a run or sweep over to Hydra, whose launcher runs `task` for each job, in this process or in others.

What the jobs of a sweep share stands in `sweep.json` in its folder, where a job finds it in whatever process it runs;
how a job ended stands in its `job.json`, where the command finds it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from graftlm.bugs import trace
from graftlm.claims import held
from graftlm.composition import to_mapping
from graftlm.console import Lines, Progress, progress_for_terminal
from graftlm.engines import listening, stopped, stopping, what_to_expect, words_for_hydra
from graftlm.environment import environment
from graftlm.errors import SettingsError, first_line
from graftlm.faults import in_the_way, machine_error
from graftlm.job import Job
from graftlm.jobs import bug, run_job
from graftlm.record import RECORD, SWEEP, Outcome, read_record
from graftlm.schema import Settings
from graftlm.store import write_json
from hydra_plugins.graftlm_search import SearchSweeper


@dataclass(frozen=True)
class Launch:
    """What a command asked for; the same for all of its jobs.

    Attributes:
        command: as it was typed, to be run again.
        jobs: how many there will be; None where a search decides as it goes.
        cwd: where it was typed: relative paths of the settings count from there.
        planned: keys of what the jobs are going to use, for who cleans the store up before they have begun.
    """

    command: str
    jobs: int | None
    cwd: str
    planned: list[str]


_launch: Launch | None = None  # in the process of the command; a worker process reads sweep.json
_ended: list[Outcome] = []  # jobs that ended in this process
_swept: list[Path] = []  # folders of the sweeps that did
_under_way = contextlib.ExitStack()  # locks on their files, by which others see that they are


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """A sweep handed over within it is seen to be under way until this ends: its report needs what its jobs made."""
    try:
        yield
    finally:
        _under_way.close()


def hand_over(
    arguments: Sequence[str],
    jobs: int | None,
    command: str,
    settings: Settings | None = None,
    planned: Sequence[str] = (),
) -> tuple[list[Outcome], list[Path]]:
    """Let Hydra launch the jobs and tell how each ended; returns their outcomes and the folders of sweeps.

    `jobs`: how many there will be; None where a search decides as it goes, 0 where Hydra only shows something.
    `settings`: of one job of a sweep, whose `launch` is that of all; None for a single run.
    `planned`: as in `Launch`.
    """
    global _launch
    progress = progress_for_terminal()
    _launch = Launch(command, jobs, str(Path.cwd()), list(planned))
    _swept.clear()
    _ended.clear()
    if jobs != 0:
        os.environ["GRAFTLM_RUN"] = _new_folder(Path("multirun"))
    Plugins.instance().register(SearchSweeper)  # Hydra looks for plugins in folders, which an editable install is not
    sys.argv = ["graftlm run", *arguments]
    main = hydra.main(version_base="1.3", config_path="pkg://graftlm.conf", config_name="config")(task)
    if settings is None:
        with environment(HYDRA_FULL_ERROR="1"):  # else Hydra prints an error itself and leaves
            if jobs == 0:
                main()
                return [], []
            return _launched(main, Path("multirun", os.environ["GRAFTLM_RUN"]), progress) or list(_ended), []
    folder = Path("multirun", os.environ["GRAFTLM_RUN"])
    try:
        write_json(folder / SWEEP, {"version": 1, "started": _now(), **asdict(_launch)})
        _under_way.enter_context(held(folder / SWEEP))
    except OSError as error:
        raise machine_error(error, folder.absolute(), doing="the sweep began") or error from error
    sys.argv += words_for_hydra(settings, folder.absolute())
    if told := what_to_expect(settings, folder):
        progress.say(told)
    try:
        # joblib's janitor, a process of its own, warns of each file of a stopped sweep that is gone already
        with environment(HYDRA_FULL_ERROR="1", PYTHONWARNINGS="ignore:resource_tracker"), stopping(settings, folder):
            broken = _launched(main, folder, progress)
    except KeyboardInterrupt:
        for place in _swept:
            _tell(place, jobs, progress, asked=True)
        raise
    return [*(outcome for folder in _swept for outcome in _tell(folder, jobs, progress)), *broken], list(_swept)


def _launched(main: Callable[[], None], folder: Path, progress: Progress) -> list[Outcome]:
    """Hydra at work; what became of it where it broke off: what the jobs left is told all the same."""
    try:
        main()
    except Exception as error:  # a worker was killed, a scheduler refused, a disk is full
        reason = f"the launcher ended early: {type(error).__name__}: {first_line(error)}"
        place = folder.absolute()
        if fault := machine_error(error, place, doing="the jobs were launched") or in_the_way(error, str(place)):
            reason = str(fault)
        with contextlib.suppress(OSError):
            (folder / "launcher.log").write_text(trace(error), encoding="utf-8")
        progress.say(reason)
        return [Outcome("failed", reason, (), 0.0)]
    return []


def task(config: Any) -> None:
    """One job, called by Hydra's launcher in whatever process that has."""
    found = HydraConfig.get()
    swept = found.mode == RunMode.MULTIRUN
    launch = _launch or _read_launch(Path(found.sweep.dir))
    if not _launch and stopped(Path(found.sweep.dir)):
        return
    if os.getcwd() != launch.cwd:  # noqa: PTH109 - a worker of a cluster starts elsewhere
        os.chdir(launch.cwd)
    full = config.copy()
    full._set_flag("struct", False)
    full.hydra = found
    mapping, choices = to_mapping(full)
    # how jobs were chosen is none of what they are
    words = (str(item) for item in found.overrides.task)
    overrides = tuple(item for item in words if not item.startswith(("search.", "sweep=")))
    job = Job(overrides, choices, Settings.from_mapping(mapping))
    folder = Path(found.runtime.output_dir)
    number = int(found.job.num) if swept else 0
    label = f"job {number + 1}" + (f"/{launch.jobs}" if launch.jobs else "")
    if job.settings.search.trial is not None:
        label = f"trial {job.settings.search.trial}"
    progress: Progress = progress_for_terminal() if _launch else Lines(prefix=f"{label}: ")
    title = " ".join(overrides) or "the defaults"
    progress.say(f"{label}: {title}" if _launch else title)
    name = Path(found.sweep.dir).name if swept else folder.name
    outcome = Outcome("interrupted", None, (), 0.0)
    logging.raiseExceptions = False  # a log that cannot be written would tell that by tracebacks
    hook, sys.unraisablehook = sys.unraisablehook, _log_ignored
    try:
        with contextlib.nullcontext() if _launch else listening(job.settings, Path(found.sweep.dir)):
            outcome = run_job(job, folder, launch.command, name, progress)
    except Exception as error:  # a mistake of ours: the other jobs of a sweep go on
        logging.getLogger(__name__).error("%s: %s\n%s", label, title, trace(error))
        outcome = Outcome("failed", bug(error, folder), (), 0.0)
    finally:
        if outcome.status == "failed":
            _free()
        sys.unraisablehook = hook
    _ended.append(outcome)
    progress.say(f"{label}: {title}: {describe(outcome)}" if _launch else describe(outcome))
    if not swept and outcome.status == "done":
        progress.say(f"record: {folder / RECORD}; compare with: graftlm report {folder}")


def _log_ignored(ignored: Any) -> None:
    """Errors that nobody can catch, of what is given up halfway: to the log."""
    logging.getLogger(__name__).warning("ignored in %r\n%s", ignored.object, trace(ignored.exc_value))


def _free() -> None:
    """What a failed job leaves in memory: a cycle of its error's frames would keep a whole model."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class SweepCallback(Callback):
    """The one callback that Hydra calls: it notes where a sweep is written."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        here = Path.cwd()
        _swept.append(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def describe(outcome: Outcome) -> str:
    """How a job ended, in a few words."""
    if outcome.status == "done":
        return "reused" if outcome.reused else f"done in {outcome.seconds:.1f} s"
    if outcome.status == "interrupted" and outcome.error:
        return outcome.error  # which says so
    return f"{outcome.status} ({outcome.error})" if outcome.error else outcome.status


def _tell(folder: Path, jobs: int | None, progress: Progress, asked: bool = False) -> list[Outcome]:
    """One line a job of a sweep, of what sets it apart, read from what it left; its outcomes.

    `asked`: the sweep was asked to end.
    """
    paths = sorted(folder.rglob(RECORD), key=lambda path: (len(path.parent.name), path.parent.name))
    outcomes: list[Outcome] = []
    lines: list[str] = []
    records = [read_record(path) for path in paths]
    words = [[str(item) for item in record.get("overrides") or ()] for record in records]
    shared = [word for word in words[0] if all(word in other for other in words)] if len(words) > 1 else []
    if shared:
        lines.append(f"  all: {' '.join(shared)}")
    for path, record, own in zip(paths, records, words, strict=True):
        outcome = Outcome.of(record)
        outcomes.append(outcome)
        title = " ".join(word for word in own if word not in shared) or ("-" if shared else "the defaults")
        lines.append(f"  {path.parent.name}: {title}: {describe(outcome)}")
    lost = max(0, (jobs or 0) - len(paths))
    outcomes += [Outcome("not begun" if asked else "failed", "left no record", (), 0.0)] * lost
    if lost and not asked:
        lines.append(f"  {lost} left no record: not started, or killed before its first line")
    counts = Counter("reused" if outcome.reused else outcome.status for outcome in outcomes)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    progress.say(f"jobs of {folder}: {told or 'none'}")
    for line in lines:
        progress.say(line)
    return outcomes


def _read_launch(folder: Path) -> Launch:
    found = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
    return Launch(found["command"], found["jobs"], found["cwd"], found["planned"])


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _new_folder(root: Path) -> str:
    """The name of a folder made for this run, by the time; with a number where another run of this second has it."""
    name = first = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(2):
        try:
            (root / name).mkdir(parents=True)
            return name
        except FileExistsError:
            name = f"{first}_{number}"
        except OSError as error:
            raise SettingsError.at("multirun", root.absolute(), f"cannot be written ({error.strerror})") from error
    raise AssertionError("unreachable")
