"""The study of a search: where it is kept, who works on it, and what its trials gave.

A study is a folder `<store>/studies/<name>`: Optuna's journal, to which processes of several machines may append, and
the locks of those that work on it. A trial that is running belongs to a process; when that process is gone, the trial
is told as what its job left, or begun again with the same parameters under a new number.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from graftlm.errors import SettingsError
from graftlm.search.outcome import Told, told
from graftlm.search.samplers import VOID, make_sampler
from graftlm.search.settings import OBJECTIVES, SearchSettings
from graftlm.search.space import Dimension, Search

FOLDER = "studies"
JOURNAL = "journal.log"
# attributes of a trial: who runs it, where its record is, its overrides, why it failed
_OWNER, _JOB, _OVERRIDES, _ERROR = "owner", "job", "overrides", "error"
_CONTENT = "search"  # attribute of a study: what it searches

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Journal(JournalFileBackend):
    """Optuna's journal in a file; a line that a killed machine left half written is taken away, not built upon."""

    def __init__(self, path: Path):
        self._path = path
        self._guard = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._guard)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._guard.acquire()
        try:
            with self._path.open("r+b") as handle:
                end = handle.seek(0, os.SEEK_END)
                if end:
                    handle.seek(end - 1)
                    if handle.read(1) != b"\n":
                        handle.seek(0)
                        handle.truncate(handle.read().rfind(b"\n") + 1)
        finally:
            self._guard.release()
        super().append_logs(logs)


def study_folder(store: Path, name: str) -> Path:
    return store.expanduser().absolute() / FOLDER / name


def open_storage(storage: str | None, folder: Path) -> BaseStorage:
    """The storage that is set: a database's address, a file, or by default a file in the study's folder.

    Raises:
        SettingsError: it cannot be opened.
    """
    try:
        if storage is not None and "://" in storage:
            return RDBStorage(storage)
        path = Path(storage).expanduser().absolute() if storage is not None else folder / JOURNAL
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(Journal(path))
    except Exception as error:  # whatever a database's driver raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError.at("search.storage", storage, f"cannot be opened ({reason})", "name another") from error


def content_of(search: Search) -> dict[str, Any]:
    """What a search is about: objectives, space, and by the keys of the stages of one job all that stays the same."""
    from graftlm.plan import Fingerprints, stage_keys

    settings = search.settings.search
    return {
        "objectives": list(settings.objectives),
        "space": {item.key: item.as_dict() for item in search.space},
        "job": [key.key for key in stage_keys(search.settings, Fingerprints())],
    }


def name_of(search: Search) -> str:
    """The study's name: the one that is set, or one by its content and how it is searched."""
    settings = search.settings.search
    if settings.study:
        return settings.study
    how = {
        "sampler": settings.sampler,
        "seed": settings.seed,
        "startup_trials": settings.startup_trials,
        "population": settings.population,
        "pruner": asdict(settings.pruner),
    }
    content = json.dumps({**content_of(search), **how}, sort_keys=True)
    return f"{settings.sampler}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


class Study:
    """A study opened by its name. Created where it is missing."""

    def __init__(self, name: str, settings: SearchSettings, store: Path, parallel: bool = True):
        self.name = name
        self.settings = settings
        self.folder = study_folder(store, name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._storage = open_storage(settings.storage, self.folder)
        self._lock = FileLock(self.folder / "study.lock")
        self._owner = uuid.uuid4().hex
        with self._lock:
            self.optuna = optuna.create_study(
                study_name=name,
                storage=self._storage,
                directions=["minimize" if OBJECTIVES[item] else "maximize" for item in settings.objectives],
                sampler=make_sampler(settings, parallel),
                load_if_exists=True,
            )

    @classmethod
    def prepare(cls, search: Search) -> Study:
        """The study of a search, new or as it was left.

        Raises:
            SettingsError: a study of this name is about something else.
        """
        settings = search.settings
        study = cls(name_of(search), settings.search, Path(settings.store.dir))
        wanted, found = content_of(search), study.optuna.user_attrs.get(_CONTENT)
        if found is None:
            study.optuna.set_user_attr(_CONTENT, wanted)
        elif found != wanted:
            apart = [name for name in wanted if wanted[name] != found.get(name)]
            words = {"job": "settings, data or checkpoints that all trials share"}
            reason = "is a study of other " + " and ".join(words.get(name, name) for name in apart)
            raise SettingsError.at("search.study", study.name, reason, "give it another name, or null")
        return study

    @classmethod
    def peek(cls, search: Search) -> Study | None:
        """The study of a search as it was left; None where it is not there yet. Makes nothing.

        Raises:
            SettingsError: a study of this name is about something else.
        """
        settings = search.settings
        storage, folder = settings.search.storage, study_folder(Path(settings.store.dir), name_of(search))
        file = Path(storage).expanduser() if storage is not None else folder / JOURNAL
        if folder.is_dir() and ("://" in (storage or "") or file.is_file()):
            return cls.prepare(search)
        return None

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials but those that were begun again under another number."""
        return [trial for trial in self.optuna.get_trials(deepcopy=False) if not trial.user_attrs.get(VOID)]

    def counts(self) -> dict[str, int]:
        """How many trials there are of each state, in our words."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "again"}
        found = Counter(names[trial.state.name] for trial in self.trials)
        return {name: found[name] for name in names.values() if found[name]}

    def unended(self) -> int:
        """How many of the trials that this process took have come to no end."""
        return sum(
            trial.state == TrialState.RUNNING and trial.user_attrs.get(_OWNER) == self._owner for trial in self.trials
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this lasts, the trials taken are known to be somebody's."""
        mark = FileLock(self._mark(self._owner))
        with mark:
            try:
                yield
            finally:
                self._mark(self._owner).unlink(missing_ok=True)

    def take(self, count: int, space: Sequence[Dimension], sweep: Path) -> list[FrozenTrial]:
        """Up to `count` trials to be run, their jobs in `sweep`; none where the total is reached."""
        distributions = {item.key: distribution(item) for item in space}
        taken = []
        with self._lock:
            self._reclaim()
            begun = sum(1 for trial in self.trials if trial.state != TrialState.WAITING)
            for _ in range(min(count, self.settings.trials - begun)):
                trial = self.optuna.ask(distributions)
                trial.set_user_attr(_OWNER, self._owner)
                trial.set_user_attr(_JOB, os.path.relpath(sweep.absolute() / str(trial.number), self.folder))
                trial.set_user_attr(_OVERRIDES, [item.override(trial.params[item.key]) for item in space])
                taken.append(self._storage.get_trial(trial._trial_id))
        return taken

    def settle(self, trial: FrozenTrial) -> Told | None:
        """Tell the study what the job of a trial left; None where it has not ended, and nothing is told."""
        outcome = told(self.job(trial), self.settings.objectives)
        if outcome is not None:
            self.tell(trial, outcome)
        return outcome

    def tell(self, trial: FrozenTrial, outcome: Told) -> None:
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        if outcome.error:
            self._storage.set_trial_user_attr(trial._trial_id, _ERROR, outcome.error)
        self.optuna.tell(trial.number, outcome.values, states[outcome.state], skip_if_finished=True)

    def job(self, trial: FrozenTrial) -> Path:
        """The folder of a trial's job."""
        return Path(os.path.normpath(self.folder / str(trial.user_attrs.get(_JOB, "?"))))

    def again(self, trial: FrozenTrial) -> None:
        """Have a trial that came to no end begun again, with the same parameters."""
        self._storage.set_trial_user_attr(trial._trial_id, VOID, True)
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        if _OVERRIDES in trial.user_attrs:  # it was asked for in full
            self.optuna.enqueue_trial(trial.params)

    def _reclaim(self) -> None:
        """Trials of processes that are gone. The study's lock is held."""
        for trial in self.trials:
            if trial.state != TrialState.RUNNING or self._alive(str(trial.user_attrs.get(_OWNER, ""))):
                continue
            if self.settle(trial) is None:
                self.again(trial)

    def _alive(self, owner: str) -> bool:
        if owner == self._owner:
            return True
        mark = FileLock(self._mark(owner))
        if not owner or not Path(mark.lock_file).exists():
            return False
        try:
            with mark.acquire(timeout=0):
                pass
        except Timeout:
            return True
        self._mark(owner).unlink(missing_ok=True)
        return False

    def _mark(self, owner: str) -> Path:
        return self.folder / f"{owner}.alive"


def distribution(item: Dimension) -> BaseDistribution:
    """A dimension as Optuna's distribution."""
    if item.low is None or item.high is None:
        return CategoricalDistribution(item.options)
    if item.whole:
        return IntDistribution(int(item.low), int(item.high), log=item.log, step=int(item.step or 1))
    return FloatDistribution(item.low, item.high, log=item.log, step=item.step)
