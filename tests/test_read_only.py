"""A store that may be read only: somebody else's, or one on a file system that is mounted so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm.compose import compose_jobs
from graftlm.job import Words
from graftlm.plan import Fingerprints, stage_keys
from test_inventory import make

WORDS = ("experiment=smoke", "transfer=none")


def read_only(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder whose store cannot be written. For root, whom no permission stops, it is mounted so."""
    command = [sys.executable, "-m", "graftlm", *words]
    if os.getuid() == 0:
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, str(folder / "multirun/store"), *command]
    else:
        for place, _, _ in os.walk(folder / "multirun/store"):
            Path(place).chmod(0o555)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("unshare"), reason="no unshare to mount a folder read-only")
def test_a_finished_command_is_given_what_a_store_to_be_read_only_holds(tmp_path: Path) -> None:
    if os.getuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("may not mount here")
    (job,) = compose_jobs(Words(WORDS))
    make(tmp_path / "multirun/store", *stage_keys(job.settings, Fingerprints()))
    ran = read_only(tmp_path, "run", *WORDS)
    assert "done" in ran.stderr or "reused" in ran.stderr, ran.stderr
    assert ran.returncode == 0
    planned = read_only(tmp_path, "plan", "-m", *WORDS, "finetune.seed=1,2")
    assert planned.returncode == 2
    assert planned.stderr == "graftlm: store.dir=multirun/store: cannot be written; name another folder\n"
