"""Masks for masked-language modelling: which tokens are to be predicted, and what stands in their place.

Units: single tokens (Devlin 2019), whole words (all pieces from one `▁` to the next), or spans of geometric length
(Joshi 2020, SpanBERT). Everything follows from the generator that is handed in, so a batch is masked in the same way
in any worker, and after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graftlm.schema import MaskSettings

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LONGEST_SPAN = 10
EVALUATION = MaskSettings(name="evaluation", ratio=0.15)
_EVALUATION_SEED = 151515


@dataclass(frozen=True)
class MaskVocabulary:
    """What a masker must know of a vocabulary of V tokens."""

    mask_id: int
    ordinary: Ids  # ids of ordinary pieces: neither special nor <unk>
    maskable: Flags  # [V]: ordinary pieces
    begins_word: Flags  # [V]: pieces that start with ▁

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> MaskVocabulary:
        size = len(tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
        maskable = np.ones(size, dtype=np.bool_)
        maskable[list(tokenizer.all_special_ids)] = False
        return cls(
            mask_id=int(tokenizer.mask_token_id),
            ordinary=np.flatnonzero(maskable),
            maskable=maskable,
            begins_word=np.asarray([token.startswith("▁") for token in tokens], dtype=np.bool_),
        )


def ratio_at(mask: MaskSettings, step: int, max_steps: int) -> float:
    """The share to mask at a step: from `ratio` to `final_ratio` in a straight line (Yang 2023, Ankner 2024)."""
    if mask.final_ratio is None or max_steps < 2:
        return mask.ratio
    return mask.ratio + (mask.final_ratio - mask.ratio) * min(step / (max_steps - 1), 1.0)


def mask_batch(
    ids: Ids, vocabulary: MaskVocabulary, mask: MaskSettings, rng: np.random.Generator, ratio: float | None = None
) -> tuple[Ids, Flags]:
    """Masks a batch.

    Args:
        ids: [rows, length], padded, special tokens included; they are never chosen, nor is `<unk>`.
        ratio: the share to choose; by default `mask.ratio`.

    Returns:
        the ids with their replacements, and the chosen places [rows, length]. In a row with n ordinary tokens exactly
        max(1, round(ratio * n)) are chosen; whole words at most so many, but at least one word.
    """
    share = mask.ratio if ratio is None else ratio
    allowed = vocabulary.maskable[ids]
    available = allowed.sum(axis=1)
    counts = np.minimum(np.maximum(np.rint(share * available).astype(np.int64), 1), available)
    if mask.unit == "token":
        chosen = _tokens(allowed, counts, rng)
    elif mask.unit == "word":
        chosen = _words(allowed, vocabulary.begins_word[ids], counts, rng)
    else:
        chosen = _spans(allowed, counts, mask.span_mean, rng)
    return _replace(ids, chosen, vocabulary, mask, rng), chosen


def fixed_mask(ids: Ids, rows: npt.NDArray[np.integer], vocabulary: MaskVocabulary) -> tuple[Ids, Flags]:
    """The mask of evaluation: 15% of single tokens, the same for a row (by its number) each time, in any batch."""
    masked, chosen = ids.copy(), np.zeros(ids.shape, dtype=np.bool_)
    for place, row in enumerate(rows):
        rng = np.random.default_rng((_EVALUATION_SEED, int(row)))
        length = int(vocabulary.maskable[ids[place]].nonzero()[0].max(initial=-1)) + 1  # padding must not shift draws
        masked[place, :length], chosen[place, :length] = (
            item[0] for item in mask_batch(ids[place : place + 1, :length], vocabulary, EVALUATION, rng)
        )
    return masked, chosen


def _tokens(allowed: Flags, counts: Ids, rng: np.random.Generator) -> Flags:
    keys = np.where(allowed, rng.random(allowed.shape), 2.0)
    rank = keys.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.asarray(rank < counts[:, None])


def _words(allowed: Flags, begins: Flags, counts: Ids, rng: np.random.Generator) -> Flags:
    chosen = np.zeros_like(allowed)
    for row, count in enumerate(counts):
        places = np.flatnonzero(allowed[row])
        if not len(places):
            continue
        # a word begins at ▁, and after anything that is no ordinary piece
        starts = begins[row, places] | (np.diff(places, prepend=-2) != 1)
        starts[0] = True
        words = np.split(places, np.flatnonzero(starts)[1:])
        order = [words[index] for index in rng.permutation(len(words))]
        taken = 0
        for word in order:
            if taken + len(word) <= count:
                chosen[row, word] = True
                taken += len(word)
        if not taken:  # every word is longer than the share: the shortest passes it by least
            chosen[row, min(order, key=len)] = True
    return chosen


def _spans(allowed: Flags, counts: Ids, mean: float, rng: np.random.Generator) -> Flags:
    chosen = np.zeros_like(allowed)
    for row, count in enumerate(counts):
        free = allowed[row].copy()
        left = int(count)
        while left > 0:
            start = int(rng.choice(np.flatnonzero(free)))
            length = min(int(rng.geometric(1.0 / mean)), LONGEST_SPAN, left)
            stop = start
            while stop < min(start + length, free.size) and free[stop]:
                stop += 1
            chosen[row, start:stop] = True
            free[start:stop] = False
            left -= stop - start
    return chosen


def _replace(ids: Ids, chosen: Flags, vocabulary: MaskVocabulary, mask: MaskSettings, rng: np.random.Generator) -> Ids:
    draw = rng.random(ids.shape)
    random_ids = vocabulary.ordinary[rng.integers(len(vocabulary.ordinary), size=ids.shape)]
    masked = np.where(chosen & (draw < mask.replace), vocabulary.mask_id, ids)
    randomized = chosen & (draw >= mask.replace) & (draw < mask.replace + mask.randomize)
    return np.where(randomized, random_ids, masked).astype(np.int64)
