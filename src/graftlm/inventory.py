"""What a store holds and which jobs use it. Reads markers and job records; nothing is written, no torch is loaded."""

from __future__ import annotations

import contextlib
import os
import pickletools
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graftlm.console import Progress
from graftlm.errors import StoreError
from graftlm.plan import VERSIONS
from graftlm.record import RECORD, RUNNING, SWEEP, VERSION, read_record
from graftlm.store import MARKER, SCRATCH, StageKey, damage, read_marker

PARTIAL, DAMAGED = ".partial", ".damaged"
TRASH = ".trash"  # in the store: what is being deleted
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Use:
    """A job that used artifacts: its record, where that is, and when it was written.

    `stamp` is another one when the record has been written anew.
    """

    path: Path
    record: Mapping[str, Any]
    when: float
    stamp: tuple[int, ...] = ()

    @property
    def stages(self) -> list[Mapping[str, Any]]:
        found = self.record.get("stages")
        return [stage for stage in found if isinstance(stage, dict)] if isinstance(found, list) else []

    @property
    def told(self) -> bool:
        """Whether its record tells what it used, as far as it came: it could be read, and is no other's or damaged."""
        found = self.record.get("stages", [])
        return (
            bool(self.record)
            and isinstance(found, list)
            and all(stage.get("key") for stage in self.stages)
            and (len(self.stages) == len(found))
        )

    @property
    def keys(self) -> set[str]:
        """Keys of the artifacts that it is known to have used."""
        return {str(stage.get("key")) for stage in self.stages}

    @property
    def planned(self) -> set[str]:
        """Keys of all the stages that it goes through, of which it may not have come to some."""
        found = self.record.get("planned")
        return {str(key) for key in found} if isinstance(found, list) else set()

    @property
    def running(self) -> bool:
        """Whether its end was never written: it runs, or was killed."""
        return self.record.get("status") == RUNNING

    @property
    def sweep(self) -> Path:
        """The file of its sweep, where it is a job of one."""
        return self.path.parent.parent / SWEEP

    def made(self, key: str) -> bool:
        return any(stage.get("key") == key and not stage.get("reused") for stage in self.stages)


@dataclass(frozen=True)
class Artifact:
    """An artifact of a store, finished or not. `made` is the time of its marker, else of its last change."""

    stage: str
    key: str
    path: Path
    finished: bool
    marker: Mapping[str, Any]
    size: int
    made: float
    uses: tuple[Use, ...]

    @property
    def final(self) -> Path:
        """Where it is once it is finished; its claims stand beside that."""
        return self.path.with_name(self.key)

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.key[:8]}"

    @property
    def inputs(self) -> dict[str, str]:
        """The keys of what it was built on, by stage. Of an unfinished one they are not known."""
        found = self.marker.get("inputs")
        return {str(stage): str(key) for stage, key in found.items()} if isinstance(found, dict) else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        found = self.marker.get("settings")
        return found if isinstance(found, dict) else {}

    @property
    def used(self) -> float:
        """When a job last used it, as far as the records tell, else when it was made."""
        return max([self.made, *(use.when for use in self.uses)])

    @cached_property
    def step(self) -> int | None:
        """The step of an unfinished training's last checkpoint, where it can be read."""
        return None if self.finished else checkpoint_step(self.path / SCRATCH / "last.ckpt")


def take(store: Path, runs: Sequence[Path]) -> list[Artifact]:
    """All artifacts of a store, by stage and time, with the jobs below `runs` that use them.

    Raises:
        StoreError: there is no such folder.
    """
    if not store.is_dir():
        remedy = "name it with --store, or run from the folder in which the sweeps were started"
        raise StoreError.at("--store", store, "no such folder", remedy)
    users: dict[str, list[Use]] = {}
    wanted: dict[str, list[Use]] = {}  # of what is not finished, no record says that a job used it
    for use in find_uses(runs, store):
        for key in use.keys:
            users.setdefault(key, []).append(use)
        for key in use.planned:
            wanted.setdefault(key, []).append(use)
    found: list[Artifact] = []
    for stage in VERSIONS:
        for path in sorted((store / stage).glob("*")):
            if path.is_dir() and path.suffix in ("", PARTIAL, DAMAGED):
                found.append(_artifact(stage, path, users, wanted))
    order = list(VERSIONS)
    return sorted(found, key=lambda item: (order.index(item.stage), item.made, item.key))


def _artifact(
    stage: str, path: Path, users: Mapping[str, Sequence[Use]], wanted: Mapping[str, Sequence[Use]]
) -> Artifact:
    key = path.name.partition(".")[0]  # KEY.2.partial is of a second holder, KEY.ab12.damaged was put aside
    finished = not path.suffix
    marker: Mapping[str, Any] = {}
    if finished:
        try:
            marker = read_marker(path)
        except StoreError:
            finished = (path / MARKER).exists()  # damaged; without any marker, nothing that was ever published
    files = list(_files(path))
    size = sum(status.st_size for _, status in files)
    marked = next((status.st_mtime for file, status in files if file == path / MARKER), None)
    made = marked if finished and marked is not None else max([path.stat().st_mtime, *(s.st_mtime for _, s in files)])
    uses = (not finished and wanted.get(key)) or users.get(key, ())
    return Artifact(stage, key, path, finished, marker, size, made, tuple(uses))


def _files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for place, _, names in os.walk(path):
        for name in names:
            file = Path(place) / name
            try:
                yield file, file.stat()
            except OSError:
                continue  # gone meanwhile: it is being built


def find_uses(runs: Sequence[Path], store: Path) -> list[Use]:
    """The jobs below folders, by their records. The store, which may lie there, is not searched.

    Raises:
        StoreError: there is no such folder.
    """
    for root in runs:
        if not root.is_dir():
            raise StoreError.at("--runs", root, "no such folder", "name the folder of your sweeps")
    return list(_uses(runs, store, {}))


class Newer:
    """Looks again, and again, at the jobs below folders: which have begun, gone on or ended since."""

    def __init__(self, uses: Sequence[Use], runs: Sequence[Path], store: Path):
        """`uses`: the first look."""
        self._stamps = {use.path.resolve(): use.stamp for use in uses}
        self._runs, self._store = runs, store

    def uses(self) -> list[Use]:
        """Those that the look before this one did not see as they are now."""
        found = list(_uses(self._runs, self._store, self._stamps))
        self._stamps |= {use.path.resolve(): use.stamp for use in found}
        return found


def _uses(runs: Sequence[Path], store: Path, stamps: Mapping[Path, tuple[int, ...]]) -> Iterator[Use]:
    """The records below folders, each once, but for those that still have the stamp given; empty where unreadable.

    Raises:
        StoreError: one is of another version.
    """
    seen: set[Path] = set()
    skipped = store.resolve()
    for root in runs:
        for place, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if (Path(place) / name).resolve() != skipped)
            path = Path(place) / RECORD
            if RECORD not in names or (real := path.resolve()) in seen:
                continue
            seen.add(real)
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = path.stat()  # before it is read: what is written later has another stamp
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamps.get(real) != stamp:
                    record = read_record(path)
                    if (version := record.get("version", VERSION)) != VERSION:
                        reason = f"is a record of version {version}: what it uses is not known here"
                        raise StoreError.at("--runs", path, reason, "use the graftlm that wrote it")
                    yield Use(path, record, status.st_mtime, stamp)


def checkpoint_step(path: Path) -> int | None:
    """`global_step` of a Lightning checkpoint, from its index alone; None where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            after = False
            for operation, value, _ in pickletools.genops(archive.read(name)):
                if value == "global_step":
                    after = True
                elif after and isinstance(value, int) and "INT" in operation.name:
                    return value
                elif after and "PUT" not in operation.name and operation.name != "MEMOIZE":
                    after = False
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return None
    return None


def find(artifacts: Sequence[Artifact], prefix: str) -> Artifact:
    """The one artifact whose key begins so (`STAGE/KEY` works too).

    Raises:
        StoreError: none or several do.
    """
    wanted = prefix.rstrip("/").rpartition("/")[2]
    matching = [item for item in artifacts if wanted and item.key.startswith(wanted)]
    if not matching:
        raise StoreError.at("key", prefix, "no artifact has this key", "graftlm store ls lists them")
    # a damaged artifact may have an unfinished one beside it
    if len({item.key for item in matching}) > 1:
        names = ", ".join(f"{item.stage}/{item.key[: len(wanted) + 4]}" for item in matching[:6])
        raise StoreError.at("key", prefix, "several artifacts begin so", f"give more of it: {names}")
    return next((item for item in matching if item.finished), matching[0])


def described(artifact: Artifact, by_key: Mapping[str, Artifact]) -> str:
    """What it was made for, in a few words: what tells it apart, its seeds, and the pair and data of its jobs."""
    settings = artifact.settings
    words: list[str] = []
    if artifact.stage == "corpus":
        words.append(_words(settings, "data.kind", "data.task"))
    elif artifact.stage == "pretrain":
        words.append(_words(settings, "mask.unit", "mask.ratio"))
        words.append("seed " + _words(settings, "pretrain.seed") if "pretrain" in settings else "")
    else:
        tuned: Artifact | None = artifact
        if artifact.stage == "evaluate":
            tuned = by_key.get(artifact.inputs.get("finetune", ""))
        grafted = by_key.get(tuned.inputs.get("graft", ""), tuned) if tuned else None
        donor = by_key.get(grafted.inputs.get("pretrain", "")) if grafted else None
        words.append(_strategy(tuned.settings) if tuned else "")
        words.append(_words(donor.settings, "mask.unit", "mask.ratio") if donor else "")
        seeds = [
            _words(item.settings, name) for item, name in ((donor, "pretrain.seed"), (tuned, "finetune.seed")) if item
        ]
        words.append("seed " + "+".join(seeds) if any(seeds) else "")
    choices = [use.record.get("choices") or {} for use in artifact.uses]
    if not artifact.finished and choices:
        words.append("/".join(sorted({str(item.get("transfer")) for item in choices})))
    for group in ("model", "data"):
        words.append(
            ", ".join(sorted({str(item[group]) for item in choices if isinstance(item, dict) and group in item}))
        )
    return " · ".join(word for word in words if word) or "?"


def _strategy(settings: Mapping[str, Any]) -> str:
    """The name of a strategy, or its steps: a graft belongs to all strategies that have them."""
    steps = (settings.get("transfer") or {}).get("steps")
    names = [str(item.get("step")) for item in steps or () if isinstance(item, dict)]
    return _words(settings, "transfer.name") or "+".join(names)


def _words(settings: Mapping[str, Any], *paths: str) -> str:
    values: list[str] = []
    for path in paths:
        value: Any = settings
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values.append(str(value))
    return " ".join(values)


def verify(artifacts: Iterable[Artifact], progress: Progress) -> Iterator[tuple[Artifact, list[str]]]:
    """Each finished artifact with what is wrong with it: its marker, its key, sizes and SHA-256 of its files."""
    finished = [item for item in artifacts if item.finished]
    total = sum(item.size for item in finished)
    with progress.task("checking (MB)", max(1, round(total / MEGABYTE))) as advance:
        done = 0
        for item in finished:
            wrong: list[str] = []
            if not item.marker:
                wrong.append(f"has no readable {MARKER}")
            elif _key_of(item.marker) != item.key:
                wrong.append("its settings are not those that its key stands for")
            for name, expected in _listed(item.marker):
                wrong += damage(item.path, {"files": {name: expected}}, sums=True)
                before, done = done, done + int(expected["size"])
                advance(round(done / MEGABYTE) - round(before / MEGABYTE))
            yield item, wrong


def _listed(marker: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    files = marker.get("files")
    return list(files.items()) if isinstance(files, dict) else []


def _key_of(marker: Mapping[str, Any]) -> str:
    """The key that a marker's content gives."""
    try:
        return StageKey(marker["stage"], marker["version"], marker["settings"], marker["inputs"]).key
    except (KeyError, TypeError, ValueError):
        return ""
