from __future__ import annotations

import numpy as np
import pytest

from graftlm.data.batches import BatchPlan

LENGTHS = np.random.default_rng(0).integers(3, 60, 3000)


def test_an_epoch_holds_every_row_once_within_budget() -> None:
    plan = BatchPlan(LENGTHS, 600, seed=1)
    number = 0
    rows: list[int] = []
    while plan.epoch_of(number) == 0:
        batch = plan.indices(number)
        assert len(batch) * LENGTHS[batch].max() <= 600
        rows += batch.tolist()
        number += 1
    assert sorted(rows) == list(range(3000))
    assert LENGTHS.sum() / (number * 600) > 0.9  # full, and little padding


def test_stateless_in_number() -> None:
    one = BatchPlan(LENGTHS, 600, seed=1)
    forward = [one.indices(number).tolist() for number in range(400)]
    fresh = BatchPlan(LENGTHS, 600, seed=1)
    assert fresh.indices(399).tolist() == forward[399]
    assert fresh.indices(0).tolist() == forward[0]
    assert [fresh.indices(n).tolist() for n in (250, 10, 390)] == [forward[n] for n in (250, 10, 390)]


def test_epochs_and_seeds_differ_and_order_is_mixed() -> None:
    plan = BatchPlan(LENGTHS, 600, seed=1)
    first = next(number for number in range(10_000) if plan.epoch_of(number) == 1)
    assert plan.indices(0).tolist() != plan.indices(first).tolist()
    assert plan.indices(0).tolist() != BatchPlan(LENGTHS, 600, seed=2).indices(0).tolist()
    longest = [int(LENGTHS[plan.indices(number)].max()) for number in range(first)]
    assert abs(np.corrcoef(longest, np.arange(first))[0, 1]) < 0.3


def test_windows_of_a_large_corpus() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 60_000)
    plan = BatchPlan(lengths, 600, seed=1)
    rows = np.concatenate([plan.indices(number) for number in range(2 * 60_000 // 10) if plan.epoch_of(number) == 0])
    assert len(np.unique(rows)) == len(rows) == 60_000


def test_a_row_longer_than_the_budget_and_few_rows() -> None:
    plan = BatchPlan(np.asarray([5, 900, 7]), 600, seed=1)
    assert [len(plan.indices(number)) for number in range(2)] == [2, 1] or [
        len(plan.indices(number)) for number in range(2)
    ] == [1, 2]
    assert len(BatchPlan(np.asarray([5]), 600, seed=1).indices(1000)) == 1
    with pytest.raises(ValueError, match="no rows"):
        BatchPlan(np.asarray([], dtype=np.int64), 600, seed=1)
