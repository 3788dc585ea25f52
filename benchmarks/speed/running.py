"""Runs the sides of a case in turns, each in a fresh process on its own cores, and keeps what they said."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.case import Case

ROOT = Path(__file__).parents[2]
Say = Callable[[str], None]


@dataclass
class Outcome:
    """What the rounds of a case gave: for each side and round its figures, or `{"failed": why}`."""

    name: str
    rounds: int
    sides: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0
    failed: str | None = None  # of the whole case: it could not be prepared, or was interrupted

    def values(self, side: str, figure: str) -> list[float | None]:
        """A figure of each round; None where a round did not give it."""
        given = self.sides.get(side, [])
        return [given[place].get(figure) if place < len(given) else None for place in range(self.rounds)]

    def why(self, *sides: str | None) -> str:
        """The first reason why some of these sides did not give a figure."""
        said = [entry["failed"] for side in sides if side for entry in self.sides.get(side, []) if "failed" in entry]
        return said[0] if said else self.failed or "did not run"


def run_case(name: str, case: Case, rounds: int, quick: bool, cores: list[int], say: Say, outcome: Outcome) -> None:
    """All rounds of a case; `outcome` has at any moment what is known.

    Raises:
        KeyboardInterrupt: Ctrl-C; the process that ran has been ended.
    """
    begun = time.monotonic()
    names = list(case.sides)
    outcome.sides = {side: [] for side in names}
    sides = Sides(cores, case.libraries, name if case.preload else None)
    try:
        with tempfile.TemporaryDirectory(prefix="graftlm-bench-") as folder:
            if case.prepare is not None:
                made = run_side(sides, name, None, Path(folder), quick, case.seconds)
                if "failed" in made:
                    outcome.failed = f"prepare: {made['failed']}"
                    return
            for number in range(rounds):
                for side in names if number % 2 == 0 else reversed(names):
                    needed = case.quick_memory_gb if quick else case.memory_gb
                    figures = (
                        {"failed": f"needs {needed:g} GB of free memory, there are {free_gb():.1f}"}
                        if free_gb() < needed
                        else run_side(sides, name, side, Path(folder), quick, case.seconds)
                    )
                    outcome.sides[side].append(figures)
                    say(f"{name} {number + 1}/{rounds} {side}: {_told(figures)}")
    except KeyboardInterrupt:
        outcome.failed = "interrupted"
        raise
    finally:
        sides.end()
        outcome.seconds = time.monotonic() - begun


def run_side(sides: Sides, name: str, side: str | None, folder: Path, quick: bool, seconds: float) -> dict[str, Any]:
    """One side (None: `prepare`) in a process of its own: its figures, or `{"failed": why}`."""
    with tempfile.TemporaryDirectory(prefix="graftlm-bench-") as scratch:
        request, log, out = (Path(scratch) / file for file in ("request.json", "log.txt", "figures.json"))
        asked = {"case": name, "side": side, "folder": str(folder), "quick": quick, "out": str(out)}
        request.write_text(json.dumps(asked), encoding="utf-8")
        code = sides.run(request, seconds)
        if code is None:
            return {"failed": f"took more than {seconds:.0f} s"}
        if code == 0 and out.exists():
            figures: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return figures
        written = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        last = [line.strip() for line in written.splitlines() if line.strip()]
        said = last[-1] if last else "said nothing"
        return {"failed": said if code > 0 else f"ended by signal {-code} (out of memory?)"}


class Sides:
    """The process whose forks are the sides (`benchmarks.speed.child`), started where there is none."""

    def __init__(self, cores: list[int], libraries: Sequence[str], preloaded: str | None):
        self._cores = cores
        self._libraries = list(libraries)
        self._preloaded = preloaded  # the case whose `preload` it does
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, request: Path, seconds: float) -> int | None:
        """The exit code of the side that the request asks for; None where it took longer than that, and was killed."""
        process = self._process or self._start(request.with_name("process.json"))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{request}\n".encode())
        side = process.stdout.readline()
        late = not select.select([process.stdout], [], [], seconds)[0]
        if late:
            os.kill(int(side), signal.SIGKILL)
        code = process.stdout.readline()
        if not code:  # it was killed itself
            self.end()
            return -signal.SIGKILL
        return None if late else int(code)

    def _start(self, request: Path) -> subprocess.Popen[bytes]:
        asked = {
            "parent": os.getpid(),
            "cores": self._cores,
            "libraries": self._libraries,
            "preload": self._preloaded,
        }
        request.write_text(json.dumps(asked), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.child", str(request)],
            cwd=ROOT,
            env=_environment(len(self._cores)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a line that waits in a buffer is none that select sees
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # that it is ready
        return self._process

    def end(self) -> None:
        """Nothing is left behind: a fork ends with it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def _environment(cores: int) -> dict[str, str]:
    """One thread a core, no hub, no telemetry."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(cores),
        "MKL_NUM_THREADS": str(cores),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
        "PYTHONWARNINGS": "ignore",
    }


def pick_cores(count: int, first: int | None = None) -> list[int]:
    """Cores for the sides: the last ones that this process may use, or those from `first` on."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if first is not None:
        allowed = [core for core in allowed if core >= first] or allowed
        return allowed[:count]
    return allowed[-count:]


def free_gb() -> float:
    """Memory that can be had without swapping, in GB; without /proc there is no telling, and it is endless."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return float("inf")
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024 / 1e9


def _told(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return f"failed: {figures['failed']}"
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if not name.startswith("process"))
