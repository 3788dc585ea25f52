"""What a stage on several devices tells the process that waits for it, and how it is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from graftlm.claims import LostError
from graftlm.console import Silent, Watched
from graftlm.stages.relay import followed

TRAINS = """
    import sys, time
    from pathlib import Path
    from graftlm import interrupt
    from graftlm.console import Silent, Watched
    from graftlm.stages.relay import told

    watched = Watched(Silent())
    with interrupt.handled([]), told(Path(sys.argv[1]), watched), interrupt.saves():
        with watched.task("training", 9) as advance:
            advance(4)
            while not interrupt.pending():
                time.sleep(0.02)
        print("saved", flush=True)
"""


def start(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAINS), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait(watched: Watched) -> None:
    deadline = time.monotonic() + 60
    while watched.now[1] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_waits_knows_how_far_it_is_and_a_lost_claim_ends_it(tmp_path: Path) -> None:
    file, watched = tmp_path / "progress.json", Watched(Silent())
    file.write_text('{"pid": 1, "now": ["of an earlier attempt", 7, 9]}')
    with pytest.raises(LostError), followed(file, watched), start(file) as process:  # noqa: PT012
        wait(watched)
        assert watched.now == ("training", 4, 9)
        watched.stop = LostError()
        out, said = process.communicate(timeout=200)
        assert out == "saved\n", "it was asked to end, and not killed"
        assert "SIGINT: saving after this step" in said
        raise RuntimeError("the others ended")
    assert watched.now == ("", 0, None)


def test_its_own_error_is_told_where_nothing_was_lost(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed"), followed(tmp_path / "progress.json", Watched(Silent())):
        raise RuntimeError("failed")
