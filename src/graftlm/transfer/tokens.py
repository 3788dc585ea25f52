"""Rows of word embeddings that have no twin, as mixtures of rows of the donor: which rows, with what weights.

A mixture is computed without the donor's table; `mix` then reads that a block at a time, so that no more than the
host's table and one block are in memory.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graftlm.transfer import anatomy
from graftlm.transfer.weights import ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from graftlm.transfer.graft import Graft
    from graftlm.transfer.vocabulary import Vocabulary
    from graftlm.transfer.weights import Weights

_BATCH = 128  # tokens that are looked for at once
_GRAMS = range(2, 6)  # lengths of character n-grams
_END = "\x03"  # marks the end of a token, as `▁` marks its start


@dataclass(frozen=True)
class Mixture:
    """Host row `targets[i]` gets `weights[i]` times donor row `sources[i]`, summed over i."""

    targets: NDArray[np.int64]
    sources: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, parts: Mapping[int, tuple[Sequence[int] | NDArray[Any], Sequence[float] | NDArray[Any]]]) -> Mixture:
        """From host row → (donor rows, weights)."""
        empty: list[NDArray[Any]] = [np.zeros(0)]
        return cls(
            np.repeat(np.fromiter(parts, np.int64, len(parts)), [len(rows) for rows, _ in parts.values()]),
            np.concatenate([np.asarray(rows) for rows, _ in parts.values()] or empty).astype(np.int64),
            np.concatenate([np.asarray(weights) for _, weights in parts.values()] or empty).astype(np.float32),
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """The host rows that it fills."""
        return np.unique(self.targets)


def mix(graft: Graft, words: Tensor, mixture: Mixture, grow: Callable[[Tensor], Tensor]) -> None:
    """Fill rows of `words` [host tokens, d] with a mixture of the donor's, made as wide as the host's by `grow`."""
    import torch

    order = np.argsort(mixture.sources, kind="stable")
    sources, targets, weights = (part[order] for part in (mixture.sources, mixture.targets, mixture.weights))
    words[torch.from_numpy(mixture.rows)] = 0
    total = graft.donor_weights.shape(anatomy.DONOR_WORDS)[0]
    for start in range(0, total, ROWS):
        first, last = np.searchsorted(sources, [start, start + ROWS])
        if first == last:
            continue
        block = grow(graft.source(anatomy.DONOR_WORDS, start, min(start + ROWS, total)))
        for at in range(first, last, ROWS):
            part = slice(at, min(at + ROWS, last))
            rows = block[torch.from_numpy(sources[part] - start)] * torch.from_numpy(weights[part])[:, None]
            words.index_add_(0, torch.from_numpy(targets[part]), rows.to(words))


def of_pieces(vocabulary: Vocabulary, rows: Sequence[int], donor_rows: int) -> Mixture:
    """Each token as the mean of the pieces into which the donor's tokenizer splits it; tokens without any are left."""
    parts = {}
    for row in rows:
        pieces = [piece for piece in vocabulary.pieces.get(row, ()) if piece < donor_rows]
        if pieces:
            parts[row] = (pieces, [1 / len(pieces)] * len(pieces))
    return Mixture.of(parts)


def of_languages(graft: Graft, codes: Mapping[str, int], donor_rows: int) -> Mixture:
    """Each language code as the mean over the tokens of its language's calibration texts; others are left."""
    texts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for text, code in zip(graft.calibration, graft.languages, strict=False):
        if code in codes and len(text):
            texts[code].append(np.asarray(text))
    parts = {}
    for code, found in texts.items():
        rows, counts = np.unique(np.concatenate(found), return_counts=True)
        rows, counts = rows[rows < donor_rows], counts[rows < donor_rows]
        if len(rows):
            parts[codes[code]] = (rows, counts / counts.sum())
    return Mixture.of(parts)


def sparsemax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Weights [n, k] ≥ 0 with sum 1 from scores [n, k] (Martins & Astudillo 2016); -inf gets no weight."""
    ordered = -np.sort(-scores.astype(np.float64), axis=1)
    counts = np.arange(1, scores.shape[1] + 1)
    sums = np.cumsum(np.where(np.isfinite(ordered), ordered, -1e9), axis=1) - 1
    support = (np.isfinite(ordered) & (ordered * counts > sums)).sum(1, keepdims=True)
    threshold = np.take_along_axis(sums, support - 1, axis=1) / support
    return np.maximum(scores - threshold, 0)


def focus_by_rows(
    weights: Weights, name: str, vocabulary: Vocabulary, rows: Sequence[int], shared: NDArray[np.int64], k: int
) -> Mixture:
    """FOCUS in the space of the host's own trained rows: cosine to the `k` nearest shared tokens, sparsemax of it."""
    import torch
    from torch.nn.functional import normalize

    parts = {}
    for batch in _batches(rows):
        own = normalize(_gather(weights, name, batch), dim=1)
        best = torch.full((len(batch), 0), 0.0)
        nearest = torch.full((len(batch), 0), -1, dtype=torch.long)
        for ids, block in _blocks(weights, name, shared):
            scores = own @ normalize(block, dim=1).T
            scores, places = scores.topk(min(k, len(ids)), dim=1)
            scores, nearest = torch.cat([best, scores], 1), torch.cat([nearest, torch.from_numpy(ids)[places]], 1)
            best, places = scores.topk(min(k, scores.shape[1]), dim=1)
            nearest = nearest.gather(1, places)
        mixed = sparsemax(best.numpy())
        for row, near, share in zip(batch, nearest.numpy(), mixed, strict=True):
            parts[row] = (vocabulary.donor_of[near[share > 0]], share[share > 0])
    return Mixture.of(parts)


def focus_by_letters(vocabulary: Vocabulary, rows: Sequence[int], shared: NDArray[np.int64], k: int) -> Mixture:
    """FOCUS in the space of character n-grams, weighted by tf-idf: what fastText knows of a token without its training.

    Tokens that share no n-gram with any other are left.
    """
    grams = {int(row): _grams(vocabulary.strings[row]) for row in shared if row in vocabulary.strings}
    wanted = {row: _grams(vocabulary.strings[row]) for row in rows if row in vocabulary.strings}
    frequency = Counter(gram for found in grams.values() for gram in found)
    ids = np.fromiter(grams, np.int64, len(grams))
    weight = {gram: math.log((1 + len(ids)) / (1 + count)) for gram, count in frequency.items()}
    norms = np.asarray([math.sqrt(sum(weight[gram] ** 2 for gram in found)) for found in grams.values()])
    needed = {gram for found in wanted.values() for gram in found}
    holders: dict[str, list[int]] = defaultdict(list)
    for place, found in enumerate(grams.values()):
        for gram in found & needed:
            holders[gram].append(place)
    parts = {}
    for row, found in wanted.items():
        known = sorted(gram for gram in found if gram in holders)
        if not known:
            continue
        places = np.concatenate([holders[gram] for gram in known])
        squares = np.repeat([weight[gram] ** 2 for gram in known], [len(holders[gram]) for gram in known])
        near, inverse = np.unique(places, return_inverse=True)
        # n-grams that no shared token has count towards the token's own length, as if met once
        own = math.sqrt(sum(weight.get(gram, math.log(1 + len(ids))) ** 2 for gram in sorted(found)))
        scores = np.bincount(inverse, squares) / np.maximum(norms[near] * own, 1e-12)
        best = np.argsort(-scores, kind="stable")[:k]
        share = sparsemax(scores[best][None])[0]
        parts[row] = (vocabulary.donor_of[ids[near[best[share > 0]]]], share[share > 0])
    return Mixture.of(parts)


def _grams(text: str) -> set[str]:
    text += _END
    return {text[at : at + size] for size in _GRAMS for at in range(len(text) - size + 1)} or {text}


def pursuit(
    weights: Weights, name: str, vocabulary: Vocabulary, rows: Sequence[int], shared: NDArray[np.int64], k: int
) -> tuple[Mixture, float]:
    """Each token's own row as a combination of `k` shared tokens' rows of the host, by orthogonal matching pursuit.

    The coefficients then hold for the donor's rows of those tokens. Atoms are compared at unit length. Returns the mean
    relative error in the host's space too.
    """
    import torch
    from torch.nn.functional import normalize

    k = min(k, weights.shape(name)[1], len(shared))
    parts = {}
    missed = 0.0
    for batch in _batches(rows):
        goal = _gather(weights, name, batch).double()
        rest = goal
        atoms = torch.zeros(len(batch), 0, goal.shape[1], dtype=torch.float64)
        chosen = torch.zeros(len(batch), 0, dtype=torch.long)
        share = torch.zeros(len(batch), 0, dtype=torch.float64)
        for _ in range(k):
            best = torch.full((len(batch),), -1.0)
            atom, place = torch.zeros_like(goal), torch.full((len(batch),), -1, dtype=torch.long)
            for ids, block in _blocks(weights, name, shared):
                scores = (rest.float() @ normalize(block, dim=1).T).abs()
                held = torch.from_numpy(ids)
                for one in chosen.unbind(1):
                    at = torch.searchsorted(held, one.contiguous()).clamp_max(len(held) - 1)
                    taken = held[at] == one
                    scores[taken, at[taken]] = -1
                top, where = scores.max(1)
                better = top > best
                best = torch.where(better, top, best)
                place = torch.where(better, held[where], place)
                atom[better] = block[where[better]].double()
            atoms, chosen = torch.cat([atoms, atom[:, None]], 1), torch.cat([chosen, place[:, None]], 1)
            gram = atoms @ atoms.transpose(1, 2)
            # twins among the atoms must not make it singular
            jitter = 1e-10 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
            gram.diagonal(dim1=1, dim2=2).add_(jitter[:, None])
            share = torch.linalg.solve(gram, (atoms @ goal[:, :, None]))[:, :, 0]
            rest = goal - (share[:, None] @ atoms)[:, 0]
        missed += float((rest.norm(dim=1) / goal.norm(dim=1).clamp_min(1e-12)).sum())
        for row, near, part in zip(batch, chosen.numpy(), share.numpy(), strict=True):
            parts[row] = (vocabulary.donor_of[near], part)
    return Mixture.of(parts), missed / max(len(rows), 1)


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _BATCH):
        yield [int(row) for row in rows[start : start + _BATCH]]


def _gather(weights: Weights, name: str, rows: Sequence[int]) -> Tensor:
    """Some rows of a table, read one by one so that the table need not be in memory."""
    import torch

    return torch.cat([weights.read(name, row, row + 1) for row in rows]).cpu()


def _blocks(weights: Weights, name: str, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Chosen rows (ascending) of a table, a block at a time, with their numbers."""
    import torch

    total = weights.shape(name)[0]
    for start in range(0, total, ROWS):
        first, last = np.searchsorted(rows, [start, start + ROWS])
        if first < last:
            ids = rows[first:last]
            block = weights.read(name, start, min(start + ROWS, total)).cpu()
            yield ids, block[torch.from_numpy(ids - start)]
