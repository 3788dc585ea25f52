from __future__ import annotations

import numpy as np
import pytest

from graftlm.data.packing import Layout, PackPlan, best_fit

LENGTHS = np.clip(np.random.default_rng(0).lognormal(2.7, 0.7, 5000).astype(int), 6, 64)


def one_by_one(lengths: list[int], size: int) -> list[int]:
    """Best fit decreasing as books have it."""
    left: list[int] = []
    row_of = [-1] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fits = [row for row, space in enumerate(left) if space >= lengths[text]]
        row = min(fits, key=lambda row: left[row], default=len(left))
        if row == len(left):
            left.append(size)
        left[row] -= lengths[text]
        row_of[text] = row
    return row_of


@pytest.mark.parametrize("seed", range(20))
def test_best_fit_decreasing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, rng.integers(2, 41), rng.integers(1, 300))
    row_of = best_fit(lengths, 40)
    # which of two rows with equal space is taken is left open, and changes no row's sum
    wanted = np.asarray(one_by_one(lengths.tolist(), 40))
    sums, others = (np.bincount(rows, weights=lengths) for rows in (row_of, wanted))
    assert sorted(sums) == sorted(others)
    assert sums.max() <= 40
    assert sums.min() > 0


def test_what_cannot_be_packed() -> None:
    assert best_fit(np.asarray([], dtype=np.int64), 8).tolist() == []
    for lengths in ([3, 9], [0, 4]):
        with pytest.raises(ValueError, match="for rows of 8"):
            best_fit(np.asarray(lengths), 8)


def test_an_epoch_holds_every_text_once_in_full_rows() -> None:
    plan = PackPlan(LENGTHS, 64, 256, seed=1)
    texts: list[int] = []
    places = number = 0
    while plan.epoch_of(number) == 0:
        rows = plan.rows(number)
        assert 1 <= len(rows) <= 4
        assert all(LENGTHS[row].sum() <= 64 for row in rows)
        texts += plan.indices(number).tolist()
        places += 64 * len(rows)
        number += 1
    assert sorted(texts) == list(range(len(LENGTHS)))
    assert LENGTHS.sum() / places > 0.98
    assert plan._windows > 2, "several windows are what is to be tested"


def test_stateless_in_number() -> None:
    one = PackPlan(LENGTHS, 64, 256, seed=1)
    forward = [one.indices(number).tolist() for number in range(900)]
    for number in (899, 0, 450, 101):
        assert PackPlan(LENGTHS, 64, 256, seed=1).indices(number).tolist() == forward[number]
    assert [one.indices(number).tolist() for number in (250, 10, 890)] == [forward[n] for n in (250, 10, 890)]


def test_epochs_and_seeds_differ_and_few_texts_are_enough() -> None:
    plan = PackPlan(LENGTHS, 64, 256, seed=1)
    first = next(number for number in range(10_000) if plan.epoch_of(number) == 1)
    assert plan.indices(0).tolist() != plan.indices(first).tolist()
    assert plan.indices(0).tolist() != PackPlan(LENGTHS, 64, 256, seed=2).indices(0).tolist()
    assert PackPlan(np.asarray([5]), 64, 256, seed=1).indices(1000).tolist() == [0]
    with pytest.raises(ValueError, match="no texts"):
        PackPlan(np.asarray([], dtype=np.int64), 64, 256, seed=1)


def test_layout() -> None:
    layout = Layout.of([np.asarray([3, 2]), np.asarray([4])])
    assert layout.segments.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]]
    assert layout.offsets.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    assert layout.put(np.arange(10, 19), 1).tolist() == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 1]]
