from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftlm.data.tokens import TokenFile, TokenWriter
from graftlm.errors import StoreError

ROWS = [[5, 6, 7], [], [65535], [1] * 1000, []]


@pytest.mark.parametrize(("vocab_size", "width"), [(65536, 2), (65537, 4), (250054, 4)])
def test_rows_come_back(tmp_path: Path, vocab_size: int, width: int) -> None:
    with TokenWriter(tmp_path / "a.train", vocab_size) as writer:
        for row in ROWS:
            writer.append(row)
    assert (tmp_path / "a.train.bin").stat().st_size == 1004 * width
    read = TokenFile(tmp_path / "a.train")
    assert [row.tolist() for row in read] == ROWS
    assert read.lengths.tolist() == [3, 0, 1, 1000, 0]
    assert read.tokens == 1004
    assert read[-2].tolist() == [1] * 1000
    with pytest.raises(IndexError):
        read[5]
    again = pickle.loads(pickle.dumps(read))
    assert [row.tolist() for row in again] == ROWS


@given(st.lists(st.lists(st.integers(0, 299), max_size=6), max_size=8))
def test_any_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("any") / "rows"
    with TokenWriter(path, 300) as writer:
        for row in rows:
            writer.append(np.asarray(row, dtype=np.int64))
    assert [row.tolist() for row in TokenFile(path)] == rows


def test_damage_is_noticed(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "a", 300) as writer:
        writer.append([1, 2, 3])
    (tmp_path / "a.bin").write_bytes(b"\0\0")
    with pytest.raises(StoreError, match="holds 2 bytes for 3 tokens"):
        TokenFile(tmp_path / "a")
    with pytest.raises(StoreError, match="cannot be read"):
        TokenFile(tmp_path / "absent")


def test_an_id_too_large_is_refused(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "a", 300) as writer, pytest.raises(OverflowError):
        writer.append([70000])
