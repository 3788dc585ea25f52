"""Pairs of one split as the tensors of a batch, and which wrong source stands for a right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graftlm.data.batches import Rows
from graftlm.data.corpus import Corpus
from graftlm.data.format import HostFormat
from graftlm.data.rows import Split
from graftlm.data.tokens import TokenFile
from graftlm.schema import FinetuneSettings

IGNORED = -100


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
        self.longest = np.maximum(np.minimum(self.sources.lengths + 2, self._cuts[0]), self.target_lengths)

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
        ids, attention = pad_sources(sources, self.format.pad_id)
        return {
            "input_ids": ids,
            "attention_mask": attention,
            "decoder_input_ids": pad([self.format.decoder_input(row) for row in labels], self.format.pad_id),
            "labels": pad(labels, IGNORED),
            "examples": len(sources),
            "tokens": sum(map(len, sources)) + sum(map(len, labels)),
        }

    def wrong_sources(self, rows: Sequence[int] | Rows, others: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The sources of `others` under the language codes of `rows`: (ids, attention mask)."""
        wrong = [self.source(other, self.source_langs[int(row)]) for row, other in zip(rows, others, strict=True)]
        return pad_sources(wrong, self.format.pad_id)


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows as one tensor [B, longest], padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def pad_sources(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), each [B, longest]."""
    ids = pad(rows, pad_id)
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
