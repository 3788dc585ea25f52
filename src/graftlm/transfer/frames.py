"""Texts as rows of the donor's ids, `<s> X </s>`, grouped by length and padded into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftlm.transfer.graft import Texts
    from graftlm.transfer.vocabulary import Vocabulary

Batch = tuple["NDArray[np.int64]", "NDArray[np.bool_]"]


def framed(texts: Texts, vocabulary: Vocabulary, longest: int) -> list[NDArray[np.int64]]:
    """`<s> X </s>` in donor ids, X cut so that the whole has at most `longest` tokens; empty texts are left out."""
    bos, eos = vocabulary.roles["bos"][0], vocabulary.roles["eos"][0]
    rows = []
    for text in texts:
        ids = np.asarray(text, dtype=np.int64)[: max(longest - 2, 0)]
        if len(ids):
            rows.append(np.concatenate([[bos], ids, [eos]]).astype(np.int64))
    return rows


def batches(rows: Sequence[NDArray[np.int64]], pad: int, tokens: int = 4096) -> Iterator[Batch]:
    """Rows grouped by length into padded batches of at most `tokens` cells: ids [B, T] and the mask of real tokens."""
    for group in groups([len(row) for row in rows], tokens):
        yield padded([rows[index] for index in group], pad)


def groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows of these lengths, by their numbers, in groups of like length that make at most `tokens` cells each."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if group and (len(group) + 1) * lengths[index] > tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def padded(rows: Sequence[NDArray[np.int64]], pad: int) -> Batch:
    """Rows under each other, [B, T], and the mask of real tokens."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return ids, mask
