"""One's own files: txt, jsonl, json, csv, tsv, parquet."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from graftlm.data.rows import Pair, Split, Text
from graftlm.data.settings import FilesData
from graftlm.data.sources.columns import RowReader
from graftlm.data.sources.tables import expand, file_hash, file_problems, format_of, rows_of
from graftlm.errors import DataError, Problem

FIRST_ROWS = 20
_SPLITS = ("train", "validation", "test")


def open_source(settings: FilesData, path: str) -> FilesSource:
    return FilesSource(settings, path)


def check(settings: FilesData, path: str, rows: bool = True) -> list[Problem]:
    """Files that are missing, empty or of no known format; columns and languages of the first rows."""
    patterns = {name: getattr(settings, name) or [] for name in ("train", "validation", "test", "text")}
    problems = [problem for name, some in patterns.items() for problem in file_problems(some, f"{path}.{name}")]
    problems += [] if problems else _in_two_splits(patterns, path)
    if problems or not rows:
        return problems
    reader = _reader(settings, path)
    has_pairs = False
    for name, some in patterns.items():
        for file in _files(some):
            plain = format_of(file) == "text"
            has_pairs |= name == "train" and not plain
            if name in ("validation", "test") and plain:
                problems.append(
                    Problem(f"{path}.{name}", file, "a text file holds no pairs", "give jsonl, csv or parquet")
                )
                continue
            try:
                with contextlib.closing(rows_of(file, f"{path}.{name}")) as read:
                    first = list(itertools.islice(read, FIRST_ROWS))
                if plain:
                    reader.line("-", str(file), 1, None)
                else:
                    problems += reader.problems(first, str(file), "texts" if name == "text" else "pairs")
            except DataError as error:
                problems += error.problems
    if not problems and not has_pairs:
        problems.append(
            Problem(
                f"{path}.train", settings.train, "text files hold no pairs to fine-tune on", "add jsonl, csv or parquet"
            )
        )
    return list({str(problem): problem for problem in problems}.values())


def _in_two_splits(patterns: dict[str, list[str]], path: str) -> list[Problem]:
    """Files that stand in two splits, or copies of them: what is tested on would be trained on."""
    seen: dict[tuple[int, str], tuple[str, Path]] = {}
    sizes = Counter(file.stat().st_size for name in _SPLITS for file in _files(patterns[name]))
    problems: list[Problem] = []
    for name in _SPLITS:
        for file in _files(patterns[name]):
            size = file.stat().st_size
            content = (size, file_hash(file) if sizes[size] > 1 else str(file))
            split, other = seen.setdefault(content, (name, file))
            if split != name:
                same = (
                    f"is a file of {path}.{split} too" if file == other else f"is a copy of {other} in {path}.{split}"
                )
                problems.append(Problem(f"{path}.{name}", file, same, "give each split rows of its own"))
    return problems


@dataclass
class FilesSource:
    """Rows of the user's files. `dropped` counts rows without source or target, once `pairs` was read."""

    settings: FilesData
    path: str = "data"
    dropped: dict[str, int] = field(default_factory=dict)

    def fingerprint(self) -> dict[str, object]:
        parts: dict[str, object] = {"kind": "files"}
        for name in ("train", "validation", "test", "text"):
            patterns = getattr(self.settings, name) or []
            self._refuse(file_problems(patterns, f"{self.path}.{name}"))
            parts[name] = [[file.name, file.stat().st_size, file_hash(file)] for file in _files(patterns)]
        return parts

    def pairs(self) -> Iterator[Pair]:
        empty: Counter[str] = Counter()
        reader = _reader(self.settings, self.path)
        for name, split, file in self._pair_files():
            if format_of(file) == "text":
                continue
            for number, row in enumerate(rows_of(file, f"{self.path}.{name}"), 1):
                pair = reader.pair(row, str(file), number, split)
                if pair is None:
                    empty[f"rows of {file.name} without source or target"] += 1
                else:
                    yield pair
        self.dropped = dict(empty)

    def texts(self) -> Iterator[Text]:
        """Sources and targets of the pairs (a target that is its source once), then the rows of the `text` files."""
        reader = _reader(self.settings, self.path)
        for name, split, file in self._pair_files():
            if format_of(file) == "text":
                yield from self._lines(reader, name, file, split)
                continue
            for number, row in enumerate(rows_of(file, f"{self.path}.{name}"), 1):
                pair = reader.pair(row, str(file), number, split)
                if pair is not None:
                    yield Text(pair.source, pair.source_lang, pair.group, split)
                    yield Text(pair.target, pair.target_lang, pair.group, split)
        patterns = self.settings.text or []
        self._refuse(file_problems(patterns, f"{self.path}.text"))
        for file in _files(patterns):
            if format_of(file) == "text":
                yield from self._lines(reader, "text", file, None)
                continue
            for number, row in enumerate(rows_of(file, f"{self.path}.text"), 1):
                text = reader.text(row, str(file), number, None)
                if text is not None:
                    yield text

    def _lines(self, reader: RowReader, name: str, file: Path, split: Split | None) -> Iterator[Text]:
        for number, row in enumerate(rows_of(file, f"{self.path}.{name}"), 1):
            line = str(row["text"] or "").strip()
            if line:
                yield reader.line(line, str(file), number, split)

    def _pair_files(self) -> Iterator[tuple[str, Split | None, Path]]:
        """Setting, split and file. Rows of train name no split while one has to be split off them."""
        settings = self.settings
        whole = settings.validation is not None and settings.test is not None
        splits: tuple[tuple[str, Split | None, list[str] | None], ...] = (
            ("train", "train" if whole else None, settings.train),
            ("validation", "validation", settings.validation),
            ("test", "test", settings.test),
        )
        for name, split, patterns in splits:
            self._refuse(file_problems(patterns or [], f"{self.path}.{name}"))
            for file in _files(patterns or []):
                yield name, split, file

    def _refuse(self, problems: list[Problem]) -> None:
        if problems:
            raise DataError(problems)


def _files(patterns: list[str]) -> list[Path]:
    """The files of all patterns, each once, in the order of the patterns."""
    return list(dict.fromkeys(file for pattern in patterns for file in expand(pattern)))


def _reader(settings: FilesData, path: str) -> RowReader:
    return RowReader(settings.columns, settings.source_lang, settings.target_lang, path)
