"""Reading rows from files through the `datasets` library, leaving nothing in the user's folders."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import glob
import gzip
import hashlib
import logging
import lzma
import os
import tempfile
import zlib
from collections.abc import Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from graftlm.errors import DataError, Problem

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
COMPRESSED = (".gz", ".bz2", ".xz")


def format_of(file: Path) -> str | None:
    """The reader of a file by its suffix, or None."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def expand(pattern: str) -> list[Path]:
    """The files of a path or glob (`~`, `*` and `**` understood), sorted."""
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    found = glob.iglob(str(path), recursive=True)  # noqa: PTH207  (a pathlib glob needs a fixed folder to start from)
    return sorted(Path(name) for name in found if Path(name).is_file())


def file_problems(patterns: list[str], path: str) -> list[Problem]:
    """Patterns without files, folders, empty files, unknown formats, files that may not be read."""
    found: list[Problem] = []
    for pattern in patterns:
        files = expand(pattern)
        if not pattern.strip():
            found.append(Problem(path, pattern, "names no file", "name one, for example rows.jsonl"))
        elif not files and Path(pattern).expanduser().is_dir():
            found.append(
                Problem(path, pattern, "is a folder", f"name its files, for example {pattern.rstrip('/')}/*.jsonl")
            )
        elif not files:
            found.append(Problem(path, pattern, "no such file", "check the path; relative ones start where you are"))
        for file in files:
            if format_of(file) is None:
                found.append(Problem(path, file, "has no known format", "known are " + ", ".join(FORMATS)))
            elif file.stat().st_size == 0:
                found.append(Problem(path, file, "is empty"))
            elif not os.access(file, os.R_OK):
                found.append(Problem(path, file, "may not be read", "change its permissions"))
    return found


def rows_of(file: Path, path: str) -> Generator[dict[str, Any], None, None]:
    """The rows of one file, streamed. Raises DataError naming `path` where the file cannot be read."""
    reader = format_of(file)
    assert reader is not None, "checked by file_problems"
    options: dict[str, Any] = {}
    if reader == "csv":
        # the words "NA" and "null" are text, and so are numbers
        options = {"keep_default_na": False, "sep": "\t" if ".tsv" in file.suffixes else ","}
        _check_header(file, options["sep"], path)
    if reader == "json":
        check_lines(file, path)
    with quiet_datasets() as datasets, tempfile.TemporaryDirectory(prefix="graftlm-") as cache:
        try:
            yield from datasets.load_dataset(
                reader,
                data_files=glob.escape(str(file.resolve())),
                split="train",
                streaming=True,
                cache_dir=cache,
                **options,
            )
        except GeneratorExit:
            raise
        except Exception as error:  # whatever a reader meets in a user's file
            raise DataError.at(path, file, f"cannot be read as {reader}: {reason(error)}", _REPAIR) from error


_REPAIR = "repair it: UTF-8, a header, quotation marks in pairs; or give jsonl"


def _check_header(file: Path, separator: str, path: str) -> None:
    """Refuses a header that names a column twice or is separated otherwise, and a first row with more fields than it.

    pandas would give the second column another name, and take the first fields of such a row for an index.
    """
    opener: Any = _OPENERS.get(file.suffix, open)
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter=separator)
            header, first = next(rows, []), next(rows, [])
    except (OSError, UnicodeDecodeError, csv.Error, EOFError):
        return  # the reader itself says it better
    others = [other for other in ";\t|," if other != separator and other in "".join(header)]
    if len(header) == 1 and others:
        wanted = "tabs" if separator == "\t" else "commas"
        reason = f"its header, {header[0]!r}, is not separated by {wanted}"
        raise DataError.at(path, file, reason, "save it with commas as .csv, or with tabs as .tsv")
    twice = [name for place, name in enumerate(header) if name and name in header[:place]]
    if twice:
        raise DataError.at(path, file, f"its header names the column {twice[0]} twice", "give each its own name")
    if len(first) > len(header):
        raise DataError.at(path, file, f"row 1 has {len(first)} fields, the header {len(header)}", "name every column")


def check_lines(file: Path, path: str) -> None:
    """Refuses a line that is `null`: where a block begins with one, pyarrow ends the whole process (SIGSEGV).

    Raises:
        DataError: naming the line.
    """
    status = file.stat()
    if number := _null_line(file.resolve(), status.st_size, status.st_mtime_ns):
        raise DataError.at(path, file, f"line {number} is null, where an object must be", "leave such lines out")


@lru_cache(maxsize=4096)
def _null_line(file: Path, size: int, changed: int) -> int | None:
    opener: Any = _OPENERS.get(file.suffix.lower(), open)
    with contextlib.suppress(OSError, EOFError, zlib.error, lzma.LZMAError), opener(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if line[:1] != b"{" and line.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"null"):
                return number
    return None  # what cannot be read, the reader itself tells of


_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@contextlib.contextmanager
def quiet_datasets() -> Iterator[Any]:
    """The `datasets` library without its bars and log lines; its errors reach the user through ours."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "fsspec")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield datasets
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def reason(error: BaseException) -> str:
    """The innermost cause of a library's error, as one short line."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else words[:157] + "..."


def file_hash(file: Path) -> str:
    """sha256 of a file's content; kept while size and time of change stay."""
    status = file.stat()
    return _hash(file.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
