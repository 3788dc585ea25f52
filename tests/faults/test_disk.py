"""A disk that is full, or may not be written: one line, and the same command goes on once there is room."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aftermath import PICO, clear, mounted


def test_a_full_disk_in_training_and_in_front_of_it(forge: Any, calm: Path, mends: Any, tmp_path: Path) -> None:
    with mounted(tmp_path / "multirun", "1500k"):
        ended = forge.run(tmp_path, *PICO)
        line = clear(ended, "failed (", "no space left on device", "while finetune ")
        assert f"{tmp_path}/multirun" in line
        assert "the same command goes on from here" in line
        assert not list(tmp_path.glob("multirun/store/**/*.tmp")), "what a full disk took of a file would keep it full"
        with suppress(OSError), (tmp_path / "multirun" / "ballast").open("wb", buffering=0) as handle:
            while handle.write(bytes(4096)):
                pass
        clear(forge.run(tmp_path, "run", "-m", *PICO[1:]), "no space left on device (0 bytes free) while the sweep")
        (tmp_path / "multirun" / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=30m", str(tmp_path / "multirun")], check=True)
        mends(tmp_path, always=True)
        last = json.loads(max(tmp_path.glob("multirun/2*/job.json")).read_text())
        assert [stage["reused"] for stage in last["stages"]] == [True, True, True, False, False]


@pytest.mark.skipif(os.getuid() == 0, reason="a full disk is mounted instead")
def test_a_file_that_may_not_grow(forge: Any, mends: Any, tokenised: Path) -> None:
    """Without the right to mount: what is written is cut off at so many bytes."""
    ended = forge.run(tokenised, *PICO, limits={"file_size": 100_000})
    line = clear(ended, "failed (", "file too large while pretrain ")
    assert "ulimit -f" in line
    mends(tokenised)


def test_a_stage_whose_folder_may_only_be_read(forge: Any, mends: Any, tokenised: Path) -> None:
    with mounted(tokenised / "multirun/store/graft", "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(tokenised / "multirun/store/graft")], check=True)
        ended = forge.run(tokenised, *PICO)
        line = clear(ended, "failed (", "cannot be written (Read-only file system)", "name another folder")
        assert "store.dir=" in line
    mends(tokenised)
