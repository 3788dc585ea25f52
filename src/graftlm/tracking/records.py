"""The records of jobs below some folders, as far as trackers need them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graftlm.record import RECORD, read_record
from graftlm.store import MARKER


def job_records(dirs: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and record of each job below some folders; artifacts are not searched."""
    for start in dirs:
        for name, inner, files in os.walk(start):
            if MARKER in files:
                inner.clear()
            inner.sort()
            if RECORD in files and (record := read_record(Path(name) / RECORD)):
                yield Path(name), record


def artifacts_of(folder: Path, record: Mapping[str, Any], stage: str) -> Iterator[Path]:
    """The folder of the artifact that a job has of a stage, where it has one."""
    for item in record.get("stages") or ():
        if isinstance(item, dict) and item.get("stage") == stage and isinstance(item.get("path"), str):
            path = Path(os.path.normpath(folder / item["path"]))
            with contextlib.suppress(OSError):  # a name that no file system takes
                if path.is_dir():
                    yield path


def group_of(record: Mapping[str, Any]) -> str:
    """The W&B group of a job's runs: that of its settings, or its sweep."""
    logger = (record.get("settings") or {}).get("logger") or {}
    return str(logger.get("group") or record.get("sweep") or "")[:128]
