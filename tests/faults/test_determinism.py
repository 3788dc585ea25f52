"""The same command and seed give the same bits, wherever and however they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aftermath import LONG, PICO
from benchmarks.soak_kills import differences

FREE = ("trainer.num_workers=2", "store.dir=../elsewhere/store", "finetune.checkpoint_interval=1")


def test_a_fresh_process_elsewhere_with_workers_and_another_order_of_hashes(calm: Path, tmp_path: Path) -> None:
    """With packed rows, masks and dropout; settings that are none of the outcome are others; all is made anew."""
    words = [word for word in PICO if not word.startswith("finetune.checkpoint_interval")]
    (tmp_path / "here").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "-m", "graftlm", *words, *FREE]
    ran = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (tmp_path / "elsewhere" / "multirun").mkdir()
    (tmp_path / "elsewhere" / "store").rename(tmp_path / "elsewhere" / "multirun" / "store")
    assert differences(calm, tmp_path / "elsewhere") == []


@pytest.mark.skipif(not LONG, reason="the short form is in tests/stages/test_saving.py and tests/test_kills.py")
def test_resumed_at_each_checkpoint(forge: Any, calm: Path, tokenised: Path) -> None:
    """Each process does two steps and is killed: what it has drawn, counted and packed is not with the next one."""
    kill = (
        "import os; from graftlm.stages.saving import Course\n"
        "real = Course.save\n"
        "def save(course, trainer):\n"
        "    real(course, trainer); os.kill(os.getpid(), 9)\n"
        "Course.save = save"
    )
    codes = [forge.run(tokenised, *PICO, code=kill).code for _ in range(3)]
    assert codes == [-9] * 3
    ended = forge.run(tokenised, *PICO)
    assert ended.code == 0, ended.err
    assert "going on from step 6" in ended.err
    assert differences(calm, tokenised) == []
