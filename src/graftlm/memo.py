"""What was found out before and is the same still: digests of large files, what is installed.

Kept in the cache (`$GRAFTLM_CACHE`, else `~/.cache/graftlm`), which may be deleted at any time. As in git's index, a
file counts as unchanged while its size, its times and its inode are; one changed within the last seconds is read again,
since a second change could leave the same times.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CACHE = "GRAFTLM_CACHE"
FILE = "known.json"
KEPT = 500
LARGE = 1 << 20  # bytes: below, reading is as fast as looking up
SETTLED = 3.0  # seconds after which a second change has other times


def cache_folder() -> Path:
    """Where what can be found out again is kept."""
    return Path(os.environ.get(CACHE) or "~/.cache/graftlm").expanduser().absolute()


def recall(name: str, state: Any) -> Any:
    """What was remembered under a name in this same state, else None. `state` None: never."""
    found = _read().get(name) if state is not None else None
    return found[1] if isinstance(found, list) and len(found) == 2 and found[0] == state else None


def remember(name: str, state: Any, value: Any) -> None:
    """Keep a value for as long as the state is the same. A cache that cannot be written is none."""
    if state is None:
        return
    known = _read()
    known.pop(name, None)
    known[name] = [state, value]
    file = cache_folder() / FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(dict(list(known.items())[-KEPT:])), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return


def digest(file: Path) -> str:
    """SHA-256 of a file's content, in hex; of a large file that did not change since, as it was found before."""
    file = file.resolve()
    before = file_state(file)
    large = before is not None and before[0] >= LARGE
    name = f"digest {file}"
    if large and isinstance(found := recall(name, before), str):
        return found
    with file.open("rb") as handle:
        made = hashlib.file_digest(handle, "sha256").hexdigest()
    if large and file_state(file) == before:
        remember(name, before, made)
    return made


def file_state(file: Path) -> list[Any] | None:
    """What tells whether a file has changed; None where it changed just now, or is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def here(name: str) -> str:
    """A name of what is known of this environment: several of them share a cache."""
    return f"{name} {hashlib.sha256(repr(sys.path).encode()).hexdigest()[:12]}"


def installation() -> list[Any] | None:
    """What tells whether packages were installed, removed or upgraded: the folders that they are found in.

    An installer makes a folder `NAME-VERSION.dist-info` in one of them, which changes its time. None: it did just now.
    """
    found: list[Any] = [sys.version]
    for entry in sys.path:
        try:
            status = (Path(entry) if entry else Path.cwd()).stat()
        except OSError:
            found.append([entry, None])
            continue
        if time.time() - status.st_mtime < SETTLED:
            return None
        found.append([entry, status.st_mtime_ns])
    return found


def _read() -> dict[str, Any]:
    try:
        known = json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
