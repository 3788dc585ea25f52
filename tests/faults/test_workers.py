"""A worker of the data loader is killed, as the system does it where memory runs out."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from aftermath import PICO, clear


def test_a_killed_loader_ends_the_job_and_the_next_one_goes_on(forge: Any, mends: Any, tokenised: Path) -> None:
    hold = (  # until the test has acted: the loader fills no queue meanwhile, so that its death is met in the training
        "import time; from pathlib import Path; from graftlm.models.base import StageModule as M\n"
        "real = M.on_train_batch_start\n"
        "def begin(module, batch, index):\n"
        "    while int(batch['number']) == 3 and not Path('go').exists(): time.sleep(0.01)\n"
        "    real(module, batch, index)\n"
        "M.on_train_batch_start = begin"
    )
    running = forge.start(tokenised, *PICO, "trainer.num_workers=1", code=hold)
    partial = running.until(lambda: list(tokenised.glob("multirun/store/pretrain/*.partial/scratch/last.ckpt")))
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    worker = int(running.until(lambda: children.read_text().split())[0])
    os.kill(worker, signal.SIGKILL)
    (tokenised / "go").touch()
    line = clear(running.end(), "failed (", "a worker of the data loader", "while pretrain ")
    assert "trainer.num_workers=0" in line
    assert partial[0].is_file()
    ended = mends(tokenised, always=True)
    assert "going on from step" in ended.err
