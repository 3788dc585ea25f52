"""What a sweep's command says of its jobs when it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftlm.record import RECORD
from graftlm.store import write_json
from graftlm.sweep import _tell
from said import Said


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([["a=1", "b=1"], ["a=1", "b=2"]], ["  all: a=1", "  0: b=1: done in 2.0 s", "  1: b=2: done in 2.0 s"]),
        ([["b=1"], ["b=2"]], ["  0: b=1: done in 2.0 s", "  1: b=2: done in 2.0 s"]),
        ([["a=1"]], ["  0: a=1: done in 2.0 s"]),
        ([[]], ["  0: the defaults: done in 2.0 s"]),
    ],
)
def test_a_line_a_job_says_what_sets_it_apart(tmp_path: Path, overrides: list[list[str]], told: list[str]) -> None:
    for number, words in enumerate(overrides):
        (tmp_path / str(number)).mkdir()
        write_json(tmp_path / str(number) / RECORD, {"status": "done", "seconds": 2.0, "overrides": words})
    progress = Said()
    assert len(_tell(tmp_path, len(overrides), progress)) == len(overrides)
    assert progress.lines == [f"jobs of {tmp_path}: {len(overrides)} done", *told]
