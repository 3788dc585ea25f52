"""Pairs of one split as the tensors of a batch, and which wrong source stands for a right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graftlm.data.batches import Rows
from graftlm.data.corpus import Corpus
from graftlm.data.format import HostFormat
from graftlm.data.rows import Split
from graftlm.data.tokens import TokenFile
from graftlm.schema import FinetuneSettings

IGNORED = -100
# Widths of batches are multiples of it, so that they have few shapes. For each one the processor's products are
# compiled and kept, and the heap is left with holes of its sizes: after half an hour of batches that were nearly all
# different, looking for memory took half of the time (docs/performance.md, few shapes).
MULTIPLE = 8


class PairRows:
    """The pairs of one split as wrapped, cut and padded tensors."""

    def __init__(self, corpus: Corpus, split: Split, finetune: FinetuneSettings):
        self.format: HostFormat = corpus.format
        self.sources: TokenFile = corpus.sources(split)
        self.targets: TokenFile = corpus.targets(split)
        self.source_langs = corpus.source_langs(split)
        self.target_langs = corpus.target_langs(split)
        self._cuts = (finetune.max_source_length, finetune.max_target_length)
        self.target_lengths = np.minimum(self.targets.lengths + 2, self._cuts[1])
        sources = np.minimum(self.sources.lengths + 2, self._cuts[0])
        self.longest = np.maximum(widths(sources, self._cuts[0]), widths(self.target_lengths, self._cuts[1]))

    def source(self, row: int, lang: str | None = None) -> list[int]:
        """The encoder input of a row, with its own language code or another."""
        return self.format.source(self.sources[row].tolist(), lang or self.source_langs[row], self._cuts[0])

    def labels(self, row: int) -> list[int]:
        return self.format.target(self.targets[row].tolist(), self.target_langs[row], self._cuts[1])

    def tokens(self, rows: Rows) -> int:
        """Tokens of some rows, source and target, as they stand in a batch."""
        sources = np.minimum(self.sources.lengths[rows] + 2, self._cuts[0])
        return int(sources.sum() + self.target_lengths[rows].sum())

    def batch(self, rows: Sequence[int] | Rows) -> dict[str, Any]:
        """`input_ids`, `attention_mask`, `decoder_input_ids`, `labels`, `examples`, `tokens` of some rows."""
        sources = [self.source(int(row)) for row in rows]
        labels = [self.labels(int(row)) for row in rows]
        ids, attention = pad_sources(sources, self.format.pad_id, self._cuts[0])
        read = [self.format.decoder_input(row) for row in labels]
        return {
            "input_ids": ids,
            "attention_mask": attention,
            "decoder_input_ids": pad(read, self.format.pad_id, self._cuts[1]),
            "labels": pad(labels, IGNORED, self._cuts[1]),
            "examples": len(sources),
            "tokens": sum(map(len, sources)) + sum(map(len, labels)),
        }

    def wrong_sources(self, rows: Sequence[int] | Rows, others: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The sources of `others` under the language codes of `rows`: (ids, attention mask)."""
        wrong = [self.source(other, self.source_langs[int(row)]) for row, other in zip(rows, others, strict=True)]
        return pad_sources(wrong, self.format.pad_id, self._cuts[0])


def widths(lengths: npt.NDArray[np.integer], most: int) -> npt.NDArray[np.int64]:
    """How wide rows of these lengths stand in a batch: the next `MULTIPLE`, or `most` where that would pass it."""
    return np.minimum(-(-np.asarray(lengths, dtype=np.int64) // MULTIPLE) * MULTIPLE, most)


def pad(rows: Sequence[Sequence[int]], value: int, most: int) -> torch.Tensor:
    """Rows of up to `most` tokens as one tensor [B, width of the longest], padded on the right."""
    width = int(widths(np.array([max(map(len, rows))]), most)[0])
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def pad_sources(rows: Sequence[Sequence[int]], pad_id: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), each as of `pad`."""
    ids = pad(rows, pad_id, most)
    return ids, (ids != pad_id).long()


def derangement(rows: Rows, source_langs: Sequence[str], target_langs: Sequence[str]) -> dict[int, int]:
    """For each row another one of the same two languages, fixed: the rows of a pair of languages move on by one.

    A row that is alone in its languages gets any other; one row alone gets itself.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for row in rows.tolist():
        groups.setdefault((source_langs[row], target_langs[row]), []).append(row)
    other: dict[int, int] = {}
    everything = rows.tolist()
    for members in groups.values():
        around = (
            members if len(members) > 1 else [members[0], next((r for r in everything if r != members[0]), members[0])]
        )
        for place, row in enumerate(members):
            other[row] = around[(place + 1) % len(around)]
    return other
