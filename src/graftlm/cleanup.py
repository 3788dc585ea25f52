"""Deleting from a store, by rules that are safe together.

An artifact goes when it meets every rule given, and then only

- if nobody builds or takes it now: no claim on it is held (`graftlm.claims`), and no job whose record says `running`
  uses it (a job that was killed says so too: run its command again, or delete its folder); and still nobody when its
  turn comes, once it is claimed;
- if no job of a sweep whose command still runs used it or is going to: the report needs what all of them made;
- together with all that was built on it: what is kept keeps its inputs, or a rerun would make those again.

It is claimed, renamed away and then deleted, so that no reader sees half of it and nobody builds it meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from graftlm.claims import busy, locked, reserved
from graftlm.console import Progress
from graftlm.errors import GraftlmError, SettingsError, StoreError
from graftlm.inventory import TRASH, Artifact, Newer, Use
from graftlm.plan import VERSIONS, Fingerprints, stage_keys
from graftlm.record import read_record
from graftlm.schema import Settings

LEASE = 60.0  # seconds, as a store's: one look does not outlast it
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SPANS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Rules:
    """What is to go.

    Attributes:
        unreachable: what no job below the runs uses, nor anything that such a job uses was built on.
        older_than: what no job has used for so many seconds.
        larger_than: what is larger than so many bytes.
        max_size: the least recently used, until all of the store has at most so many bytes.
        partial: unfinished artifacts too; without another rule, only those.
    """

    unreachable: bool = False
    older_than: float | None = None
    larger_than: int | None = None
    max_size: int | None = None
    partial: bool = False

    @property
    def of_finished(self) -> bool:
        return self.unreachable or any(rule is not None for rule in (self.older_than, self.larger_than, self.max_size))


@dataclass(frozen=True)
class Choice:
    """What goes, and what the rules alone would have let go, with the reason why it stays."""

    goes: list[Artifact] = field(default_factory=list)
    stays: dict[str, list[Artifact]] = field(default_factory=dict)


def choose(artifacts: Sequence[Artifact], uses: Sequence[Use], rules: Rules, now: float | None = None) -> Choice:
    """What a set of rules lets go.

    Raises:
        SettingsError: no rule was given.
        StoreError: `unreachable` without any job's record, or a job of which cannot be told what it uses.
    """
    if not (rules.of_finished or rules.partial):
        what = "--unreachable, --older-than, --larger-than, --max-size or --partial"
        raise SettingsError.at("graftlm store gc", None, "was given no rule", what)
    if rules.unreachable and not uses:
        reason = "no job.json is there: nothing would be kept"
        raise StoreError.at("--runs", None, reason, "name the folder of your sweeps, or delete the store's folder")
    for use in uses:
        _check(use)
    now = time.time() if now is None else now
    by_key = {item.key: item for item in artifacts if item.finished}
    candidates = [item for item in artifacts if (rules.of_finished if item.finished else rules.partial)]
    if rules.unreachable:
        kept = with_inputs({key for use in uses for key in use.keys | wanted(use)}, by_key)
        candidates = [item for item in candidates if item.key not in kept]
    if rules.older_than is not None:
        candidates = [item for item in candidates if now - item.used > rules.older_than]
    if rules.larger_than is not None:
        candidates = [item for item in candidates if item.size > rules.larger_than]
    choice = Choice()
    under_way = _under_way(uses)
    running = with_inputs({key for use in uses if use.running for key in use.keys | wanted(use)}, by_key)
    swept = {key for use in uses if use.sweep in under_way for key in use.keys}
    swept = with_inputs(swept.union(*under_way.values()), by_key)
    free: list[Artifact] = []
    for item in candidates:
        if item.key in running:
            choice.stays.setdefault("a job that is running, or was killed, uses it", []).append(item)
        elif item.key in swept:
            choice.stays.setdefault("a sweep that is under way uses it", []).append(item)
        elif busy(item.final):
            choice.stays.setdefault("a process builds it", []).append(item)
        else:
            free.append(item)
    excess = None if rules.max_size is None else sum(item.size for item in artifacts) - rules.max_size
    choice.goes.extend(_closed(artifacts, free, excess))
    gone = {item.path for item in choice.goes}
    needed = [item for item in free if item.path not in gone]
    if needed and excess is None:
        choice.stays["something that is kept was built on it"] = needed
    return choice


def _under_way(uses: Sequence[Use]) -> dict[Path, set[str]]:
    """The sweeps whose command runs, with the keys of what their jobs are going to use."""
    sweeps = [sweep for sweep in {use.sweep for use in uses} if sweep.is_file() and locked(sweep)]
    return {sweep: {str(key) for key in read_record(sweep).get("planned") or ()} for sweep in sweeps}


def _closed(artifacts: Sequence[Artifact], free: Sequence[Artifact], excess: int | None) -> Iterator[Artifact]:
    """The candidates on which nothing that stays was built, least recently used first, as long as there is excess."""
    dependents: dict[str, set[Path]] = {}
    for item in artifacts:
        for key in item.inputs.values():
            dependents.setdefault(key, set()).add(item.path)
    order = list(VERSIONS)
    waiting = sorted(free, key=lambda item: (item.used, -order.index(item.stage)))
    while waiting:
        if excess is not None and excess <= 0:
            return
        found = next((item for item in waiting if not (item.finished and dependents.get(item.key))), None)
        if found is None:
            return
        waiting.remove(found)
        for paths in dependents.values():
            paths.discard(found.path)
        if excess is not None:
            excess -= found.size
        yield found


def with_inputs(keys: Iterable[str], by_key: Mapping[str, Artifact]) -> set[str]:
    """Keys, and those of all that they were built on."""
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            if key in by_key:
                waiting += by_key[key].inputs.values()
    return found


def wanted(use: Use, fingerprints: Fingerprints | None = None) -> set[str]:
    """Keys of the stages that a job which has not ended well goes through.

    Raises:
        StoreError: of a running job they cannot be told. Of another, what its record names must do.
    """
    if use.record.get("status") in ("done", "pruned"):
        return set()
    if planned := use.record.get("planned"):
        return {str(key) for key in planned}
    try:  # the record of an earlier version; its data may have changed since
        settings = Settings.from_mapping(use.record.get("settings") or {})
        return {key.key for key in stage_keys(settings, fingerprints or _FINGERPRINTS)}
    except GraftlmError as error:
        if not use.running:
            return set()
        reason = f"what this running job uses cannot be told ({error.problems[0]})"
        raise StoreError.at("--runs", use.path, reason, "wait for its end, or delete its folder") from error


def _check(use: Use) -> None:
    """Raises `StoreError` where a record is damaged: what nobody is known to need may be all that the job has."""
    if not use.told:
        reason = "cannot be read: what this job uses is not known"
        raise StoreError.at("--runs", use.path, reason, "mend it, or delete its folder if nothing of it is needed")


_FINGERPRINTS = Fingerprints()


def delete(
    artifacts: Sequence[Artifact], store: Path, progress: Progress, newer: Newer | None = None
) -> tuple[int, list[Artifact]]:
    """Delete what was chosen; the bytes freed, and what has been taken into use meanwhile, which stays.

    `newer`: the jobs by which it was chosen, to be looked at again before each deletion.

    Raises:
        StoreError: the folder cannot be written, or a job that has begun does not tell what it uses.
    """
    taken: set[str] = set()
    by_key = {item.key: item for item in artifacts if item.finished}

    def free(item: Artifact) -> bool:
        for use in newer.uses() if newer else ():
            _check(use)
            taken.update(with_inputs(use.keys | wanted(use), by_key))
        return item.key not in taken

    trash = store / TRASH
    freed = 0
    left: list[Artifact] = []
    try:
        if trash.is_symlink():  # what is in it is not ours
            trash.unlink()
        trash.mkdir(exist_ok=True)
        for rest in trash.iterdir():  # of a deletion that was killed
            with suppress(OSError):
                _erase(rest)
        with progress.task("deleting", len(artifacts)) as advance:
            for item in artifacts:
                if _remove(item, trash / f"{item.stage}.{item.path.name}.{os.getpid()}", free):
                    freed += item.size
                else:
                    left.append(item)
                advance(1)
        with suppress(OSError):
            trash.rmdir()
    except OSError as error:
        raise StoreError.at("--store", store, f"cannot be written ({error.strerror})") from error
    return freed, left


def _remove(item: Artifact, away: Path, free: Callable[[Artifact], bool]) -> bool:
    """Delete one; False where a process has begun to build it, where it is in use (asked once claimed), or gone."""
    renamed = False
    with reserved(item.final, LEASE) as got:
        if got and item.path.is_dir() and free(item):
            item.path.rename(away)
            renamed = True
    if renamed:
        _erase(away)
    return renamed


def _erase(path: Path) -> None:
    """Delete a folder; of a link the link alone. Another deletion may be at it too."""
    with suppress(FileNotFoundError):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def parse_size(text: str, path: str) -> int:
    """Bytes of `50GB`, `1.5 TB`, `200M` or `1GiB`.

    Raises:
        SettingsError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise SettingsError.at(path, text, "is no size", "for example 50GB, 200MB")
    unit = match[2].lower()
    factor = 1024 ** "kmgt".index(unit) * 1024 if unit and match[3] else UNITS[unit]
    return int(float(match[1]) * factor)


def parse_age(text: str, path: str) -> float:
    """Seconds of `30d`, `12h`, `2w` or `90m`.

    Raises:
        SettingsError: it is no span of time.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhdw])\s*", text)
    if match is None:
        raise SettingsError.at(path, text, "is no span of time", "for example 30d, 12h, 2w, 90m")
    return float(match[1]) * SPANS[match[2]]
