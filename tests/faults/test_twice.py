"""Ctrl-C a second time ends a real command at once; nothing that it leaves is in the way of the next."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from aftermath import PICO, clear

HOLD = (  # in the midst of a step that never ends
    "import time; from pathlib import Path; from graftlm.models.base import StageModule as M\n"
    "real = M.on_train_batch_start\n"
    "def begin(module, batch, index):\n"
    "    while int(batch['number']) == 3 and Path('held').touch() is None: time.sleep(0.01)\n"
    "    real(module, batch, index)\n"
    "M.on_train_batch_start = begin"
)


def test_ctrl_c_twice(forge: Any, mends: Any, tokenised: Path) -> None:
    running = forge.start(tokenised, *PICO, code=HOLD)
    running.until(lambda: (tokenised / "held").exists())
    os.kill(running.pid, signal.SIGINT)
    running.until(lambda: "saving after this step; Ctrl-C again ends at once" in running.said)
    os.kill(running.pid, signal.SIGINT)
    ended = running.end(seconds=20)
    assert ended.code == 130
    clear(ended, "graftlm: interrupted (SIGINT); the same command goes on from here")
    mended = mends(tokenised)
    assert mended is None or "going on from step 2" in mended.err, "from the last checkpoint, as after a kill"
