"""Real commands in real processes, and what a fault must leave.

That is a store that is whole, and a command that, given again, ends with the bits of a run that nothing disturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aftermath import LONG, PICO, Ended
from benchmarks.soak_kills import differences


class Running:
    """A command under way."""

    def __init__(self, forge: Forge, pid: int, out: Path, err: Path):
        self._forge, self.pid, self._out, self._err = forge, pid, out, err

    @property
    def said(self) -> str:
        return self._err.read_text()

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
        self._process.kill()
        self._process.wait()


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
def mends(forge: Forge, calm: Path) -> Callable[..., Ended | None]:
    """Checks what a fault has left, gives the command again, and compares the store with that of the calm run.

    `always`: not in the long form of these tests alone (`benchmarks/soak_machine.py`).
    """

    def check(folder: Path, always: bool = False) -> Ended | None:
        if not (always or LONG):
            return None
        if (folder / "multirun" / "store").is_dir():
            verified = forge.run(folder, "store", "verify")
            assert verified.code == 0, verified.out + verified.err
        ended = forge.run(folder, *PICO)
        assert ended.code == 0, ended.err
        assert differences(calm, folder) == []
        return ended

    return check
