"""Batches of pairs: few shapes, within the longest that is allowed, and nothing but padding added."""

from __future__ import annotations

import numpy as np
import pytest

from graftlm.data.pairs import MULTIPLE, pad, pad_sources, widths


def test_widths_are_multiples_up_to_the_longest_that_may_be() -> None:
    assert widths(np.array([1, 8, 9, 16, 17, 20]), 20).tolist() == [8, 8, 16, 16, 20, 20]
    assert set((widths(np.arange(1, 65), 64) % MULTIPLE).tolist()) == {0}


@pytest.mark.parametrize(("most", "width"), [(100, 8), (6, 6), (5, 5)])
def test_rows_are_padded_on_the_right_to_their_width(most: int, width: int) -> None:
    rows = [[7, 8, 9], [4, 5, 6, 7, 8]]
    ids, attention = pad_sources(rows, 1, most)
    assert ids.shape == (2, width)
    assert [row[:count].tolist() for row, count in zip(ids, attention.sum(dim=1).tolist(), strict=True)] == rows
    assert (ids[attention == 0] == 1).all()
    assert pad(rows, -100, most).tolist() == [[*row, *[-100] * (width - len(row))] for row in rows]
