"""The store: artifacts by key, each made once.

An artifact is a folder `<store>/<stage>/<key>`. It is built in `<key>.partial`, which a killed run leaves behind and
the next one continues, and published by rename after `artifact.json`, its marker, is written. A claim a key
(`graftlm.claims`) lets one process build while others wait. The marker lists the size and SHA-256 of each file: reuse
looks at the sizes and reads what is small, and what is about to be built upon is read against the sums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import graftlm
from graftlm.claims import Claim, LostError, Observer, claimed, left_over, removing
from graftlm.console import Advance, Progress, Silent, Watched
from graftlm.differences import differences
from graftlm.errors import StoreError
from graftlm.heartbeats import heartbeats

MARKER = "artifact.json"
# files of a build in progress that are of no use once it is done
SCRATCH = "scratch"
# files up to so many bytes are read against their sums before each reuse: that takes milliseconds
_SMALL = 1_000_000
_claimed = threading.local()  # `name` of what this thread builds


@dataclass(frozen=True)
class StageKey:
    """What identifies an artifact: its stage, the stage's version, settings that count, inputs and data."""

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """The first 20 hex digits of a SHA-256 over the sorted JSON of it all."""
        content = json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:20]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the marker."""
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
        }


class Store:
    """Artifacts under one folder, which several processes and machines may share."""

    def __init__(self, folder: Path, lease: float = 60.0):
        """`lease`: seconds without a sign of life after which a builder on another machine counts as dead."""
        self.folder = folder
        self.lease = lease

    def path(self, key: StageKey) -> Path:
        """Where the artifact is, or will be."""
        return self.folder / key.stage / key.key

    def holds(self, key: StageKey) -> bool:
        """Whether the artifact is there and whole (its files present in their sizes)."""
        path = self.path(key)
        if not (path / MARKER).is_file():
            return False
        try:
            marker = read_marker(path)
        except StoreError:
            return False  # cut, or a byte of it flipped
        wanted = json.loads(json.dumps(key.as_dict()))
        found = list(differences(marker.get("settings"), wanted.pop("settings")))
        for name, value in wanted.items():
            found += differences(marker.get(name), value, name)
        if differing := "; ".join(map(str, found)):
            reason = f"holds other settings than its key stands for ({differing})"
            raise StoreError.at("store.dir", path, reason, "remove that folder")
        return not list(damage(path, marker))

    def verify(self, key: StageKey) -> None:
        """Check an artifact's content, which takes a second a gigabyte: before something is built on it.

        Raises:
            StoreError: a file is not what was written.
        """
        path = self.path(key)
        wrong = next(damage(path, read_marker(path), sums=True), None)
        if wrong is not None:
            raise StoreError.at("store.dir", path, f"the stored artifact is damaged: {wrong}", "remove that folder")

    def damaged(self, key: StageKey) -> bool:
        """Whether an artifact's content is not what was written; takes a second a gigabyte."""
        return bool(self._unsound(key, sums=True))

    def lacks(self, key: StageKey) -> str:
        """What an artifact lacks, in words; of large files the sizes alone are looked at. Empty where it is whole."""
        return self._unsound(key)

    def started(self, key: StageKey) -> bool:
        """Whether an earlier, interrupted build of it can be continued."""
        return bool(self._partial(key))

    def obtain(
        self, key: StageKey, build: Callable[[Path], None], progress: Progress | None = None, suspect: bool = False
    ) -> tuple[Path, bool]:
        """The artifact's folder, built first where it is missing or damaged; and whether it was reused.

        `build` gets the folder of the unfinished artifact: empty, or as an interrupted run left it. Where another
        process builds it, this one waits. A thread holds one claim at a time, so none waits for one that waits.
        `suspect`: an artifact that is there is read against its sums first.

        Raises:
            StoreError: the folder cannot be written.
        """
        watched = progress if isinstance(progress, Watched) else Watched(progress or Silent())
        final, name = self.path(key), f"{key.stage} {key.key[:8]}"
        if not suspect and self._usable(key):
            self._tidy(key)
            return final, True
        if getattr(_claimed, "name", None):
            raise RuntimeError(f"{name}: asked for by the maker of {_claimed.name}; two such could wait for each other")
        while True:
            claim = self._claim(key, watched, suspect)
            if claim is None:
                return final, True
            published = False
            _claimed.name = name
            try:
                with heartbeats(claim, key.stage, self.lease, watched) as seconds:
                    reason = self._unsound(key, sums=suspect)
                    if not reason:
                        published = True
                        return final, True
                    if final.exists():
                        watched.say(f"{name}: the stored artifact is damaged ({reason}); making it again")
                        self._discard(final)
                    if claim.dead:
                        watched.say(f"{name}: {claim.dead} is gone; going on with its work")
                    claim.prepare()
                    build(claim.work)
                    reused = not self._publish(key, claim, final, seconds())
                    published = True
                    return final, reused
            except Exception:
                if claim.in_force():
                    raise
                if not claimed(final) and not self._sound(key):
                    reason = f"what stood there has vanished while {name} was made"
                    remedy = "the same command makes what is missing again"
                    raise StoreError.at("store.dir", self.folder, reason, remedy) from None
                watched.say(f"{name}: gave no sign of life for a while, and another process has taken it over")
            finally:
                _claimed.name = None
                watched.stop = None
                claim.release(published)

    def _claim(self, key: StageKey, progress: Progress, suspect: bool) -> Claim | None:
        """The right to build it; None where another process has meanwhile done so."""
        final = self.path(key)
        observer = Observer(final, self.lease)
        shown: tuple[str, int | None] | None = None
        counted, pause = 0, 0.05
        advance: Advance = lambda units: None  # noqa: E731
        with contextlib.ExitStack() as bar:
            while True:
                if not suspect and self._usable(key):
                    return None
                try:
                    final.parent.mkdir(parents=True, exist_ok=True)
                    claim = observer.attempt()
                except OSError as error:
                    if not suspect and self._sound(key):  # a deletion was killed, in a store to be read only
                        return None
                    reason = f"cannot be written ({error.strerror})"
                    raise StoreError.at("store.dir", self.folder, reason, "name another folder") from error
                if claim is not None:
                    return claim
                label, done, total = observer.progress
                if shown is None:
                    progress.say(
                        f"{key.stage} {key.key[:8]}: another process {observer.does} ({observer.who}); waiting"
                    )
                if shown != (label, total):
                    bar.close()
                    what = f"{observer.who}: {label}" if label else f"{observer.who}: {key.stage}"
                    advance = bar.enter_context(progress.task(f"waiting for {what}", total))
                    shown, counted = (label, total), 0
                advance(max(0, done - counted))
                counted = max(done, counted)
                time.sleep(pause)
                pause = min(1.0, 1.5 * pause)

    def _tidy(self, key: StageKey) -> None:
        """Remove what a process that was killed just after its publication has left beside the artifact."""
        path = self.path(key)
        with contextlib.suppress(OSError):  # a store may be there to be read only
            if left_over(path) and (claim := Observer(path, self.lease).attempt()) is not None:
                for leftover in self._partial(key):
                    shutil.rmtree(leftover, ignore_errors=True)
                claim.release(published=True)

    def _partial(self, key: StageKey) -> list[Path]:
        """Folders of unfinished builds: the usual one, and those of holders that were taken for dead."""
        path = self.path(key)
        return [folder for folder in path.parent.glob(f"{path.name}*.partial") if folder.is_dir()]

    def _usable(self, key: StageKey) -> bool:
        """Whether it is there and stays: in this order, or it might be deleted in between."""
        return not removing(self.path(key)) and self._sound(key)

    def _sound(self, key: StageKey) -> bool:
        return not self._unsound(key)

    def _unsound(self, key: StageKey, sums: bool = False) -> str:
        """What is wrong with the artifact, in words; small files are read in any case, all of them with `sums`."""
        if not self.holds(key):
            path = self.path(key)
            try:
                return next(damage(path, read_marker(path)), "it is missing")
            except StoreError as error:
                return error.problems[0].reason
        path = self.path(key)
        return next(damage(path, read_marker(path), sums=sums, small=_SMALL), "")

    @staticmethod
    def _discard(path: Path) -> None:
        """Remove a damaged artifact at one blow: a reader has the files that it opened, or none."""
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged")
        path.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _publish(self, key: StageKey, claim: Claim, final: Path, seconds: float) -> bool:
        """Give the folder its name; False where another process, which had taken this one for dead, was quicker."""
        partial = claim.work
        if not claim.in_force():
            raise LostError
        files = {
            str(path.relative_to(partial)): {"size": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file() and not _passing(path.relative_to(partial))
        }
        marker = {
            **key.as_dict(),
            "key": key.key,
            "seconds": round(seconds, 3),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "graftlm": graftlm.__version__,
            "files": files,
        }
        write_json(partial / MARKER, marker)
        as_readable(partial, MARKER)
        if not claim.in_force():
            raise LostError
        # the checkpoint goes last: killed before, the next run still has it
        shutil.rmtree(partial / SCRATCH, ignore_errors=True)
        try:
            partial.replace(final)  # fails where a folder has that name
            quicker = True
        except OSError:
            if not self.holds(key):
                raise
            quicker = False
        for leftover in self._partial(key):
            shutil.rmtree(leftover, ignore_errors=True)
        return quicker


def _passing(path: Path) -> bool:
    """Whether a file of an unfinished artifact is no part of it: a checkpoint, an earlier marker, half a file."""
    return path.parts[0] in (SCRATCH, MARKER) or path.suffix == ".tmp"


def read_marker(path: Path) -> dict[str, Any]:
    """The marker of an artifact.

    Raises:
        StoreError: it is missing or no JSON.
    """
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise StoreError.at("store.dir", path, f"has no readable {MARKER}", "remove that folder") from error
    if not isinstance(marker, dict):
        raise StoreError.at("store.dir", path, f"has no readable {MARKER}", "remove that folder")
    return marker


def damage(path: Path, marker: Mapping[str, Any], sums: bool = False, small: int = 0) -> Iterator[str]:
    """What is wrong with an artifact's files; the content is read of those up to `small` bytes, with `sums` of all."""
    files = marker.get("files")
    if not isinstance(files, dict):
        yield f"{MARKER} names no files"
        return
    home = os.path.realpath(path)
    for name, expected in files.items():
        file = path / name
        if not isinstance(expected, dict) or not {"size", "sha256"} <= expected.keys():
            yield f"{MARKER} does not tell what {name} was"
        elif not os.path.realpath(file).startswith(home + os.sep):  # over `..` or a link
            yield f"{name} leads out of the artifact"
        elif not file.is_file():
            yield f"{name} is missing"
        elif file.stat().st_size != expected["size"]:
            yield f"{name} has {file.stat().st_size} bytes instead of {expected['size']}"
        elif (sums or expected["size"] <= small) and file_digest(file) != expected["sha256"]:
            yield f"{name} has another content"


def as_readable(folder: Path, like: str) -> None:
    """Let those read the files of a folder who may read `like`, one of them that the umask gave its mode.

    safetensors keeps what it writes to the owner (0600), and others could use nothing of a store or model they share.
    """
    mode = (folder / like).stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode != mode:
            with contextlib.suppress(OSError):  # a file system that has no modes
                path.chmod(mode)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON by rename, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
