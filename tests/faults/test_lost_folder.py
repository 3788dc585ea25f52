"""A store that is moved away in the midst of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftermath import PICO, clear


def test_a_folder_that_vanishes_is_told_and_made_again(forge: Any, mends: Any, tokenised: Path) -> None:
    running = forge.start(tokenised, *PICO, "pretrain.max_steps=4000")
    running.until(lambda: list(tokenised.glob("multirun/store/pretrain/*.partial/scratch/last.ckpt")))
    (tokenised / "multirun").rename(tokenised / "elsewhere")
    line = clear(running.end(), "failed (", "has vanished while pretrain ")
    assert "the same command makes what is missing again" in line
    assert "another process" not in line
    mends(tokenised)
