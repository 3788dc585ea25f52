"""Tokens of many texts, each different word encoded once.

XLM-R's and mBART's tokenizers segment every word by itself, and text repeats its words: a million words of prose have
some tens of thousands of different ones. So words are looked up, and only new ones go to the Rust encoder (in batches,
on all cores). A word that is normalised otherwise between others than alone (one that begins with a combining mark, for
example) sends its whole text to the encoder, and a tokenizer of another kind all texts: the ids are always those of
`graftlm.data.tokenizers.encode`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from graftlm.data.tokenizers import encode, plain

MOST_WORDS = 2_000_000  # that are remembered; then all are forgotten
_OTHERS = -1  # in place of a word's number: its text is encoded as a whole


class Encoder:
    """Ids of texts by one tokenizer, without special tokens."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._by_words = _segments_words(tokenizer)
        tokenizer.backend_tokenizer.no_truncation()  # a call such as tokenizer(text, truncation=True) leaves its limit
        tokenizer.backend_tokenizer.no_padding()
        self._forget()

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._ids = np.empty(1 << 13, dtype=np.int64)  # of all words, one after another; grown by doubling
        self._starts = np.zeros(1 << 12, dtype=np.int64)
        self._words = 0

    def encode(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The ids of all texts one after another, and the number of ids of each text."""
        if not self._by_words:
            rows = encode(self._tokenizer, texts)
            return _joined(rows), np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        words = [_words(text) for text in texts]
        self._learn(dict.fromkeys(chain.from_iterable(words)))
        number = self._number
        found = np.fromiter(map(number.__getitem__, chain.from_iterable(words)), dtype=np.int64)
        of_text = np.repeat(np.arange(len(texts)), np.fromiter(map(len, words), dtype=np.int64, count=len(texts)))
        counts = np.where(found == _OTHERS, 0, self._starts[found + 1] - self._starts[found])
        lengths = np.bincount(of_text, weights=counts, minlength=len(texts)).astype(np.int64)
        ids = self._ids[np.arange(counts.sum()) + np.repeat(self._starts[found] - np.cumsum(counts) + counts, counts)]
        whole = np.unique(of_text[found == _OTHERS])
        if not len(whole):
            return ids, lengths
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        for place, row in zip(whole.tolist(), encode(self._tokenizer, [texts[i] for i in whole]), strict=True):
            parts[place] = np.asarray(row, dtype=np.int64)
            lengths[place] = len(row)
        return np.concatenate(parts), lengths

    def _learn(self, words: dict[str, None]) -> None:
        if self._words > MOST_WORDS:
            self._forget()
        new = [word for word in words if word not in self._number]
        alone = [word for word in new if word.isascii() or self._is_apart(word)]
        self._number.update(dict.fromkeys(new, _OTHERS))
        self._number.update(zip(alone, range(self._words, self._words + len(alone)), strict=True))
        backend = self._tokenizer.backend_tokenizer
        fast = getattr(backend, "encode_batch_fast", backend.encode_batch)
        rows = [item.ids for item in fast(alone, add_special_tokens=False)]
        ends = self._starts[self._words] + np.cumsum(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
        self._starts = _room(self._starts, self._words + len(rows) + 2)
        self._starts[self._words + 1 : self._words + 1 + len(rows)] = ends
        if len(rows):
            first = int(self._starts[self._words])
            self._ids = _room(self._ids, int(ends[-1]))
            self._ids[first : ends[-1]] = _joined(rows)
        self._words += len(rows)

    def _is_apart(self, word: str) -> bool:
        """Whether the normaliser makes of a word between others what it makes of it alone."""
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        if normalizer is None:
            return True
        between: str = normalizer.normalize_str(f"a {word} a")
        return between == f"a {normalizer.normalize_str(word)} a"


def _words(text: str) -> list[str]:
    return (plain(text) if "<" in text or "_" in text else text).split()


def _segments_words(tokenizer: Any) -> bool:
    """Whether it segments every word by itself: a unigram model behind a split at each space."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = backend.get("pre_tokenizer") or {}
    splits = [step for step in steps.get("pretokenizers", [steps]) if step.get("type") != "WhitespaceSplit"]
    return backend["model"].get("type") == "Unigram" and [
        (step.get("type"), step.get("prepend_scheme"), step.get("split")) for step in splits
    ] == [("Metaspace", "always", True)]


def _joined(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64)


def _room(array: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """The array, or a copy of twice its size where it has no room for `size`."""
    if size <= len(array):
        return array
    larger = np.zeros(max(size, 2 * len(array)), dtype=np.int64)
    larger[: len(array)] = array
    return larger
