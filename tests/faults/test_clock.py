"""A clock that was set back leaves files of a time to come; one that was wrong, files of long ago."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from aftermath import PICO
from benchmarks.soak_kills import differences


def test_no_stage_is_made_again_for_the_time_of_its_files(forge: Any, calm: Path, tmp_path: Path) -> None:
    """What counts is the content: of an artifact, of the marker beside it, of what a killed process has left."""
    shutil.copytree(calm / "multirun", tmp_path / "multirun")
    for place, path in enumerate(sorted(tmp_path.rglob("*"))):
        then = time.time() + (3 * 86400 if place % 2 else -50 * 365 * 86400)
        os.utime(path, (then, then))
    ended = forge.run(tmp_path, *PICO)
    assert (ended.code, differences(calm, tmp_path)) == (0, []), ended.err
    assert ": reused" in ended.err
    listed = forge.run(tmp_path, "store", "ls")
    assert listed.code == 0
    assert "-" not in "".join(line[30:60] for line in listed.out.splitlines()[1:]), f"no negative age: {listed.out}"
