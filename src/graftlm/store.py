"""The store: artifacts by key, each made once.

An artifact is a folder `<store>/<stage>/<key>`. It is built in `<key>.partial`, which a killed run leaves behind and
the next one continues, and published by rename after `artifact.json`, its marker, is written. A lock a key lets one
process build while others wait. The marker lists the size and SHA-256 of each file: reuse looks at the sizes, and what
is about to be built upon is read against the sums.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import graftlm
from graftlm.console import Progress, Silent
from graftlm.errors import StoreError

MARKER = "artifact.json"
# files of a build in progress that are of no use once it is done
SCRATCH = "scratch"


@dataclass(frozen=True)
class StageKey:
    """What identifies an artifact: its stage, the stage's version, settings that count, inputs and data."""

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
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

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, key: StageKey) -> Path:
        """Where the artifact is, or will be."""
        return self.folder / key.stage / key.key

    def holds(self, key: StageKey) -> bool:
        """Whether the artifact is there and whole (its files present in their sizes)."""
        path = self.path(key)
        if not (path / MARKER).is_file():
            return False
        marker = read_marker(path)
        if marker.get("settings") != json.loads(json.dumps(dict(key.settings))):
            raise StoreError.at("store.dir", path, "holds other settings than its key stands for", "remove that folder")
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

    def started(self, key: StageKey) -> bool:
        """Whether an earlier, interrupted build of it can be continued."""
        return self._partial(key).is_dir()

    def obtain(
        self, key: StageKey, build: Callable[[Path], None], progress: Progress | None = None
    ) -> tuple[Path, bool]:
        """The artifact's folder, built first where it is missing; and whether it was reused.

        `build` gets the folder of the unfinished artifact: empty, or as an interrupted run left it.

        Raises:
            StoreError: the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        progress = progress or Silent()
        final = self.path(key)
        if self.holds(key):
            return final, True
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(final.with_name(final.name + ".lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                progress.say(f"{key.stage} {key.key[:8]}: another process makes it; waiting")
                lock.acquire()
        except OSError as error:
            raise StoreError.at(
                "store.dir", self.folder, f"cannot be written ({error.strerror})", "name another folder: store.dir=..."
            ) from error
        with lock:
            if self.holds(key):
                return final, True
            if final.exists():  # damaged: a file is missing or cut short
                progress.say(f"{key.stage} {key.key[:8]}: the stored artifact is damaged; making it again")
                shutil.rmtree(final)
            partial = self._partial(key)
            partial.mkdir(exist_ok=True)
            begun = time.monotonic()
            build(partial)
            self._publish(key, partial, final, time.monotonic() - begun)
        return final, False

    def _partial(self, key: StageKey) -> Path:
        path = self.path(key)
        return path.with_name(path.name + ".partial")

    def _publish(self, key: StageKey, partial: Path, final: Path, seconds: float) -> None:
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
        # the checkpoint goes last: killed before, the next run still has it
        shutil.rmtree(partial / SCRATCH, ignore_errors=True)
        partial.replace(final)


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
    except (OSError, ValueError) as error:
        raise StoreError.at("store.dir", path, f"has no readable {MARKER}", "remove that folder") from error
    if not isinstance(marker, dict):
        raise StoreError.at("store.dir", path, f"has no readable {MARKER}", "remove that folder")
    return marker


def damage(path: Path, marker: Mapping[str, Any], sums: bool = False) -> Iterator[str]:
    """What is wrong with an artifact's files; with `sums`, their content is checked too."""
    for name, expected in marker.get("files", {}).items():
        file = path / name
        if not file.is_file():
            yield f"{name} is missing"
        elif file.stat().st_size != expected["size"]:
            yield f"{name} has {file.stat().st_size} bytes instead of {expected['size']}"
        elif sums and file_digest(file) != expected["sha256"]:
            yield f"{name} has another content"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON by rename, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
