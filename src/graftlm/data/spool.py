"""Rows of text on disk, with a few numbers of each in memory: what a corpus larger than memory is divided by.

A row costs 27 bytes of memory (and some 40 more while repeats are looked for), however long its text is.
"""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from graftlm.data.rows import SPLITS, Split, Text

UNNAMED = len(SPLITS)  # in place of a split's number: the row names none
_Numbers = npt.NDArray[np.int64]


class Spool:
    """Texts in the order in which they came. The file has no name and is gone with this object."""

    def __init__(self, folder: Path | None = None):
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed with the object)
        self._ends = array("q", [0])
        self._split = array("B")
        self._lang = array("H")
        self._codes: dict[str, int] = {}
        self.groups = array("Q")
        self.marks = array("Q")

    def append(self, row: Text, mark: int, group: int) -> None:
        """One row, with numbers that stand for its text as repeats are compared, and for its group."""
        self._file.write(record := marshal.dumps((row.text, row.group)))
        self._ends.append(self._ends[-1] + len(record))
        self._split.append(UNNAMED if row.split is None else SPLITS.index(row.split))
        self._lang.append(self._codes.setdefault(row.lang, len(self._codes)))
        self.groups.append(group)
        self.marks.append(mark)

    def __len__(self) -> int:
        return len(self._split)

    @property
    def splits(self) -> npt.NDArray[np.uint8]:
        """The number of each row's split in `SPLITS`, or `UNNAMED`."""
        return np.frombuffer(self._split, dtype=np.uint8) if len(self) else np.empty(0, dtype=np.uint8)

    def read(self, rows: _Numbers, split: Split) -> Iterator[Text]:
        """Some rows as texts of a split."""
        codes = list(self._codes)
        for row in rows.tolist():
            start, end = self._ends[row], self._ends[row + 1]
            if self._file.tell() != start:
                self._file.seek(start)
            text, group = marshal.loads(self._file.read(end - start))
            yield Text(text, codes[self._lang[row]], group, split)

    def langs(self, rows: _Numbers) -> list[str]:
        """Languages of some rows."""
        codes = list(self._codes)
        return [codes[self._lang[row]] for row in rows.tolist()]


class Spooled(Sequence[Text]):
    """Some rows of a spool, in an order; equal to any sequence of the same rows."""

    def __init__(self, spool: Spool, rows: _Numbers, split: Split):
        self._spool, self._rows, self._split = spool, rows, split

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Text]:
        return self._spool.read(self._rows, self._split)

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> Spooled: ...
    def __getitem__(self, index: int | slice) -> Text | Spooled:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return next(self._spool.read(self._rows[index : index + 1 or None], self._split))

    def take(self, places: _Numbers) -> Spooled:
        """The rows at some places, in their order."""
        return Spooled(self._spool, self._rows[places], self._split)

    @property
    def langs(self) -> list[str]:
        return self._spool.langs(self._rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def spooled(rows: Iterable[Text], mark: Any, group: Any, folder: Path | None = None) -> Spool:
    """All rows, read once; `mark` and `group` make a number below 2⁶⁴ of a text and of a group's name."""
    spool = Spool(folder)
    for row in rows:
        spool.append(row, mark(row.text), group(row.group))
    return spool
