"""Real commands in real processes, forked with the libraries loaded; and what a fault must leave: a whole store, and a
command that, given again, ends with the bits of a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PICO = (
    "run", "experiment=smoke", "trainer=cpu", "trainer.threads=1", "data.max_pairs=120", "data.max_texts=200",
    "model.vocab_size=500", "pretrain.max_steps=6", "pretrain.checkpoint_interval=2", "pretrain.val_interval=3",
    "pretrain.batch_tokens=512", "pretrain.val_texts=8", "finetune.max_steps=6", "finetune.checkpoint_interval=2",
    "finetune.batch_tokens=512", "finetune.val_pairs=8", "finetune.val_interval=3", "finetune.generate_pairs=2",
    "evaluate.max_pairs=8", "transfer=embeddings", "transfer.fidelity_texts=5",
)  # fmt: skip


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


class Running:
    """A command under way."""

    def __init__(self, forge: Forge, pid: int, out: Path, err: Path):
        self._forge, self.pid, self._out, self._err = forge, pid, out, err

    def until(self, holds: Callable[[], Any], seconds: float = 120.0) -> Any:
        """What `holds` gives, once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            code = self._forge.ask(do="wait", child=self.pid, seconds=0.02)
            assert code is None, f"ended with {code}: {self._err.read_text()}"
            assert time.monotonic() < deadline, self._err.read_text()
        return found

    def end(self, seconds: float = 120.0) -> Ended:
        code = self._forge.ask(do="wait", child=self.pid, seconds=seconds)
        if code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._forge.ask(do="wait", child=self.pid, seconds=10)
            pytest.fail(f"hangs: {self._err.read_text()}")
        return Ended(code, self._out.read_text(), self._err.read_text())


class Forge:
    """Starts commands (`forge.py`)."""

    def __init__(self, logs: Path):
        self._logs = logs
        self._count = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRAFTLM_LEASES": str(logs / "leases")}
        command = [sys.executable, str(Path(__file__).with_name("forge.py"))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._line()

    def start(
        self,
        folder: Path,
        *words: str,
        code: str = "",
        limits: dict[str, int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        out, err = (self._logs / f"{self._count}.{name}" for name in ("out", "err"))
        pid = self.ask(
            do="start", folder=str(folder), words=words, code=code, limits=limits or {},
            environment=environment or {}, out=str(out), err=str(err),
        )  # fmt: skip
        return Running(self, pid, out, err)

    def run(self, folder: Path, *words: str, **more: Any) -> Ended:
        return self.start(folder, *words, **more).end()

    def ask(self, **asked: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    made = Forge(tmp_path_factory.mktemp("forge"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def calm(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command of `PICO` ran, and nothing disturbed it."""
    folder = tmp_path_factory.mktemp("calm")
    ended = forge.run(folder, *PICO)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def tokenised(calm: Path, tmp_path: Path) -> Path:
    """A folder with the corpus alone."""
    shutil.copytree(calm / "multirun" / "store" / "corpus", tmp_path / "multirun" / "store" / "corpus")
    return tmp_path


@pytest.fixture
def mends(forge: Forge, calm: Path) -> Callable[[Path], Ended]:
    """Checks what a fault has left, gives the command again, and compares the store with that of the calm run."""

    def check(folder: Path, *words: str) -> Ended:
        if (folder / "multirun" / "store").is_dir():
            verified = forge.run(folder, "store", "verify")
            assert verified.code == 0, verified.out + verified.err
        ended = forge.run(folder, *PICO, *words)
        assert ended.code == 0, ended.err
        assert differences(calm, folder) == []
        return ended

    return check


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


def differences(one: Path, other: Path) -> list[str]:
    """Files of two stores that are not the same, times apart."""
    places = [folder / "multirun" / "store" for folder in (one, other)]
    names = [{str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} for place in places]
    found = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if not name.endswith("artifact.json") and content(places[0] / name) != content(places[1] / name):
            found.append(f"differs: {name}")
    return found


def content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return timeless(json.loads(path.read_text(encoding="utf-8"))) if path.suffix == ".json" else path.read_bytes()


def timeless(value: Any) -> Any:
    """JSON without what a clock told."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if "seconds" not in name}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def clear(ended: Ended, *words: str) -> str:
    """The one line that tells of the fault, in the command's failure; no traceback, and a code that says so."""
    assert ended.code not in (0, 70), (ended.code, ended.err)
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert "please report" not in ended.err, ended.err
    found = [line for line in ended.lines if all(word in line for word in words)]
    assert found, (words, ended.err)
    return found[-1]
