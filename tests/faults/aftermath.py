"""What tests of faults share: the command they disturb, a small file system, and how a failure must look."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

LONG = bool(os.environ.get("GRAFTLM_SOAK"))
PICO = (
    "run", "experiment=smoke", "trainer=cpu", "trainer.threads=1", "data.max_pairs=120", "data.max_texts=200",
    "model.vocab_size=500", "pretrain.max_steps=6", "pretrain.checkpoint_interval=2", "pretrain.val_interval=3",
    "pretrain.batch_tokens=512", "pretrain.val_texts=8", "finetune.max_steps=6", "finetune.checkpoint_interval=2",
    "finetune.batch_tokens=512", "finetune.val_pairs=8", "finetune.val_interval=3", "finetune.generate_pairs=2",
    "evaluate.max_pairs=8", "transfer=embeddings", "transfer.fidelity_texts=5",
)  # fmt: skip


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A file system of so many bytes, where this process may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def clear(ended: Ended, *words: str) -> str:
    """The one line that tells of the fault, in the command's failure; no traceback, and a code that says so."""
    assert ended.code not in (0, 70), (ended.code, ended.err)
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert "mistake of graftlm" not in ended.err, ended.err
    found = [line for line in ended.lines if all(word in line for word in words)]
    assert found, (words, ended.err)
    return found[-1]
