"""No file handle is left, or no memory for one arm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from aftermath import PICO, clear
from benchmarks.soak_kills import differences


def test_file_handles_that_run_out(forge: Any, mends: Any, tokenised: Path) -> None:
    ended = forge.run(tokenised, *PICO, limits={"files": 12})
    line = clear(ended, "failed (", "file handles: too many open files while pretrain ")
    assert "ulimit -n" in line
    assert "delete" not in line, "no file is to blame"
    mends(tokenised)


def test_an_arm_without_memory_leaves_the_others_theirs(forge: Any, calm: Path, tmp_path: Path) -> None:
    for stage in ("corpus", "pretrain", "graft"):  # of the second arm, which is to fine-tune
        shutil.copytree(calm / "multirun/store" / stage, tmp_path / "multirun/store" / stage)
    ended = forge.run(tmp_path, "run", "-m", *PICO[1:], "model.donor.ffn=8000000,64", limits={"memory": 1_000_000_000})
    line = clear(ended, "model.donor.ffn=8000000: failed (", "memory: is exhausted while pretrain ")
    assert "(1 GB were asked for)" in line
    assert "trainer.checkpointing=true" in line
    assert ended.code == 1
    assert any("1 done, 1 failed" in line for line in ended.lines)
    left = [line for line in differences(calm, tmp_path) if not line.endswith((".claim-1", ".holder"))]
    assert left == [], "the other arm was done, with its bits"
