"""mBART's noise (Liu 2020, arXiv:2001.08210): spans of text become one `<mask>` each, sentences change their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
# a piece that ends with one of these ends a sentence; the danda, the Arabic and the full-width marks among them
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।", "۔")


def sentence_ends(vocabulary: dict[str, int]) -> frozenset[int]:
    """Ids of the pieces that end a sentence."""
    return frozenset(id_ for piece, id_ in vocabulary.items() if piece.endswith(SENTENCE_ENDS))


def permute_sentences(ids: Ids, ends: frozenset[int], rng: np.random.Generator) -> Ids:
    """The sentences of a text in random order."""
    stops = [place + 1 for place, id_ in enumerate(ids.tolist()) if id_ in ends and place + 1 < len(ids)]
    if not stops:
        return ids
    sentences = np.split(ids, stops)
    return np.concatenate([sentences[index] for index in rng.permutation(len(sentences))])


def infill(ids: Ids, mask_id: int, ratio: float, span_mean: float, rng: np.random.Generator) -> Ids:
    """`ratio` of the tokens, in spans of Poisson(`span_mean`) tokens that do not touch, each replaced by one mask.

    A span of length 0, which BART has too (a mask put in), is taken as one of length 1: it would hide nothing.
    """
    wanted = round(ratio * len(ids))
    if not len(ids) or wanted < 1:
        return ids
    lengths: list[int] = []
    while sum(lengths) < wanted:
        lengths.append(min(max(int(rng.poisson(span_mean)), 1), wanted - sum(lengths)))
    # spans and the gaps between them: the kept tokens are divided among the gaps at random, the inner ones not empty
    while lengths and len(lengths) - 1 > len(ids) - wanted:
        last = lengths.pop()
        lengths[-1] += last
    free = len(ids) - wanted - (len(lengths) - 1)
    cuts = np.sort(rng.integers(0, free + 1, size=len(lengths)))
    gaps = np.diff(np.concatenate([[0], cuts, [free]]))
    gaps[1:-1] += 1
    parts: list[npt.NDArray[np.int64]] = []
    place = 0
    for index in rng.permutation(len(lengths)).tolist():
        gap = int(gaps[len(parts) // 2])
        parts += [ids[place : place + gap], np.asarray([mask_id])]
        place += gap + lengths[index]
    parts.append(ids[place:])
    return np.concatenate(parts).astype(np.int64)


def noised(
    ids: Sequence[int] | Ids,
    mask_id: int,
    ends: frozenset[int],
    rng: np.random.Generator,
    ratio: float = 0.35,
    span_mean: float = 3.5,
    permute: bool = True,
) -> Ids:
    """A text as the encoder is to read it; the decoder is to write it as it was."""
    text = np.asarray(ids, dtype=np.int64)
    return infill(permute_sentences(text, ends, rng) if permute else text, mask_id, ratio, span_mean, rng)
