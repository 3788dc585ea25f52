"""Short texts side by side in rows of one length, so that next to no place of a batch is padding.

Best fit decreasing: texts from the longest on, each into the fullest row that still holds it. Attention stays inside a
text and positions start anew with each (`graftlm.models.packed`), so that a packed text is computed as if it stood
alone: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graftlm.data.batches import BATCHES_A_WINDOW, Rows


def best_fit(lengths: npt.NDArray[np.integer], size: int) -> Rows:
    """The row of each text, counted from 0; no row holds more than `size` tokens.

    Texts of one length are placed together: the fullest row that holds one takes as many as fit, then the next. That is
    best fit decreasing itself, at the cost of the different lengths and not of the texts.

    Raises:
        ValueError: a text is longer than a row, or empty.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) and not 0 < lengths.min() <= lengths.max() <= size:
        raise ValueError(f"texts of {lengths.min()} to {lengths.max()} tokens for rows of {size}")
    row_of = np.empty(len(lengths), dtype=np.int64)
    free: dict[int, list[Rows]] = defaultdict(list)  # rows by the places they have left
    made = 0
    order = np.argsort(-lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order], append=0))
    start = 0
    for end in (ends + 1).tolist():
        texts = order[start:end]
        start = end
        length = int(lengths[texts[0]])
        for space in sorted(space for space in free if space >= length):
            if not len(texts):
                break
            rows = np.concatenate(free.pop(space))
            texts, rest = _fill(texts, rows, space, length, row_of, free)
            if len(rest):
                free[space].append(rest)
        if len(texts):
            rows = np.arange(made, made - (-len(texts) // (size // length)))
            made += len(rows)
            _fill(texts, rows, size, length, row_of, free)
    return row_of


def _fill(
    texts: Rows, rows: Rows, space: int, length: int, row_of: Rows, free: dict[int, list[Rows]]
) -> tuple[Rows, Rows]:
    """Put texts of one length into rows with `space` places; returns the texts and the rows that are left over."""
    each = space // length
    whole = min(len(texts) // each, len(rows))
    row_of[texts[: whole * each]] = np.repeat(rows[:whole], each)
    if whole:
        free[space - each * length].append(rows[:whole])
    texts, rows = texts[whole * each :], rows[whole:]
    if len(texts) and len(rows):  # fewer than fill the next row
        row_of[texts] = rows[0]
        free[space - len(texts) * length].append(rows[:1])
        texts, rows = texts[:0], rows[1:]
    return texts, rows


class PackPlan:
    """The micro-batches of endless epochs as rows of texts. Micro-batch k follows from the seed and k alone.

    Each epoch shuffles the texts and cuts them into large windows; each window is packed and its rows are dealt out to
    its micro-batches, in random order and in like numbers. Only the window at hand is kept.

    Args:
        lengths: tokens of each text as it will stand in a row.
        size: tokens of a row.
        batch_tokens: most tokens of a micro-batch, padding included.
        seed: decides the order.
    """

    def __init__(self, lengths: npt.NDArray[np.integer], size: int, batch_tokens: int, seed: int):
        if not len(lengths):
            raise ValueError("no texts")
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._size = size
        self._seed = seed
        self._rows_a_batch = max(1, batch_tokens // size)
        wanted = BATCHES_A_WINDOW * self._rows_a_batch * size
        self._windows = max(1, round(int(self._lengths.sum()) / wanted))  # of an epoch
        self._ends: list[int] = []  # micro-batches up to the end of each window met so far, over all epochs
        self._order: tuple[int, Rows] = (-1, self._lengths[:0])
        self._packed: tuple[int, list[list[Rows]]] = (-1, [])

    def rows(self, number: int) -> list[Rows]:
        """The rows of micro-batch `number`, counted from 0 over all epochs: the texts of each."""
        window = self._locate(number)
        return self._pack(window)[number - (self._ends[window - 1] if window else 0)]

    def indices(self, number: int) -> Rows:
        """The texts of micro-batch `number`, in the order of its rows."""
        return np.concatenate(self.rows(number))

    def epoch_of(self, number: int) -> int:
        """The epoch that micro-batch `number` belongs to."""
        return self._locate(number) // self._windows

    def _locate(self, number: int) -> int:
        while not self._ends or self._ends[-1] <= number:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._pack(len(self._ends))))
        return bisect_right(self._ends, number)

    def _pack(self, window: int) -> list[list[Rows]]:
        if self._packed[0] != window:
            epoch, place = divmod(window, self._windows)
            if self._order[0] != epoch:
                order = np.random.default_rng((self._seed, epoch)).permutation(len(self._lengths))
                self._order = (epoch, order)
            bounds = [len(self._lengths) * edge // self._windows for edge in (place, place + 1)]
            texts = self._order[1][bounds[0] : bounds[1]]
            row_of = best_fit(self._lengths[texts], self._size)
            sorted_ = np.argsort(row_of, kind="stable")
            rows = np.split(texts[sorted_], np.flatnonzero(np.diff(row_of[sorted_])) + 1)
            shuffled = np.random.default_rng((self._seed, epoch, place)).permutation(len(rows))
            batches = np.array_split(shuffled, -(-len(rows) // self._rows_a_batch))
            self._packed = (window, [[rows[index] for index in batch] for batch in batches])
        return self._packed[1]


@dataclass(frozen=True)
class Layout:
    """Where the tokens of some texts stand in a batch of `rows` × `width` places, row after row.

    Attributes:
        places: the place of each token in the flattened batch, text after text.
        segments: [rows, width]: the number of the text in its row, from 1; 0 is padding.
        offsets: [rows, width]: the place of a token in its text, from 0.
    """

    rows: int
    width: int
    places: Rows
    segments: Rows
    offsets: Rows

    @classmethod
    def of(cls, lengths: Sequence[Rows]) -> Layout:
        """The layout of rows, given the lengths of the texts of each; as wide as the longest row."""
        width = max(int(row.sum()) for row in lengths)
        segments = np.zeros((len(lengths), width), dtype=np.int64)
        offsets = np.zeros_like(segments)
        for number, row in enumerate(lengths):
            end = int(row.sum())
            segments[number, :end] = np.repeat(np.arange(1, len(row) + 1), row)
            offsets[number, :end] = np.arange(end) - np.repeat(np.cumsum(row) - row, row)
        return cls(len(lengths), width, np.flatnonzero(segments), segments, offsets)

    def put(self, tokens: Rows, padding: int) -> Rows:
        """Tokens, text after text, in their places: [rows, width]."""
        whole = np.full(self.rows * self.width, padding, dtype=np.int64)
        whole[self.places] = tokens
        return whole.reshape(self.rows, self.width)
