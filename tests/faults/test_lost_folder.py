"""A store that is moved away in the midst of a training, and a single file of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftermath import PICO, clear
from benchmarks.soak_kills import differences


def test_a_folder_that_vanishes_is_told_and_made_again(forge: Any, mends: Any, tokenised: Path) -> None:
    running = forge.start(tokenised, *PICO, "pretrain.max_steps=4000")
    running.until(lambda: list(tokenised.glob("multirun/store/pretrain/*.partial/scratch/last.ckpt")))
    (tokenised / "multirun").rename(tokenised / "elsewhere")
    line = clear(running.end(), "failed (", "has vanished while pretrain ")
    assert "the same command makes what is missing again" in line
    assert "another process" not in line
    mends(tokenised)


def test_a_file_that_vanishes_from_what_a_stage_builds_on(forge: Any, calm: Path, tokenised: Path) -> None:
    """Not a mistake of ours, whatever the reader of such a file makes of it."""
    code = (
        "import graftlm.stages.finetune as stage; real = stage.run\n"
        "def run(context):\n"
        "    (context.inputs['corpus'] / 'pairs.validation.jsonl').unlink(); real(context)\n"
        "stage.run = run"
    )
    ended = forge.run(tokenised, *PICO, code=code)
    line = clear(ended, "failed (", "pairs.validation.jsonl is missing, lost while finetune ")
    assert "the same command makes it again" in line
    assert forge.run(tokenised, *PICO).code == 0
    assert differences(calm, tokenised) == []
