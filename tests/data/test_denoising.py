from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftlm.data.denoising import infill, noised, permute_sentences, sentence_ends

MASK = 9999


@given(
    length=st.integers(0, 80),
    ratio=st.floats(0.05, 0.95),
    mean=st.floats(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_infilling_hides_its_share_and_keeps_the_rest_in_order(
    length: int, ratio: float, mean: float, seed: int
) -> None:
    ids = np.arange(100, 100 + length)
    got = infill(ids, MASK, ratio, mean, np.random.default_rng(seed))
    kept = got[got != MASK]
    assert len(kept) == length - round(ratio * length)
    assert (np.diff(kept) > 0).all()
    masks = got == MASK
    assert masks.any() == (round(ratio * length) > 0)
    assert not (masks[1:] & masks[:-1]).any(), "two masks in a row say more about the length than one"
    # every mask stands where something is missing
    assert len(got) <= length


def test_span_lengths_follow_their_mean() -> None:
    rng = np.random.default_rng(0)
    for mean in (2.0, 6.0):
        rows = [infill(np.arange(1000), MASK, 0.35, mean, rng) for _ in range(20)]
        assert np.mean([350 / (row == MASK).sum() for row in rows]) == pytest.approx(mean, rel=0.25)


def test_sentences_stay_whole() -> None:
    ends = sentence_ends({"▁a": 1, ".": 2, "▁b": 3, "d.": 4, "？": 5, "▁.x": 6})
    assert ends == {2, 4, 5}
    ids = np.asarray([1, 3, 2, 10, 11, 4, 20, 21])
    seen = {tuple(permute_sentences(ids, ends, np.random.default_rng(seed)).tolist()) for seed in range(60)}
    parts = [(1, 3, 2), (10, 11, 4), (20, 21)]
    wanted = {
        sum((parts[i] for i in order), ())
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    }
    assert seen == wanted
    assert permute_sentences(ids[:2], ends, np.random.default_rng(0)).tolist() == [1, 3]


def test_the_same_draw_gives_the_same_noise() -> None:
    ids = list(range(50))
    one, two = (noised(ids, MASK, frozenset({10, 20}), np.random.default_rng(4)) for _ in range(2))
    assert one.tolist() == two.tolist()
    assert one.tolist() != noised(ids, MASK, frozenset({10, 20}), np.random.default_rng(5)).tolist()
    assert one.dtype == np.int64
