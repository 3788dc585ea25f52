"""Runs the sides of a case in turns, each in a fresh process on its own cores, and keeps what they said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    try:
        with tempfile.TemporaryDirectory(prefix="graftlm-bench-") as folder:
            if case.prepare is not None:
                made = run_side(name, None, Path(folder), quick, cores, case.seconds)
                if "failed" in made:
                    outcome.failed = f"prepare: {made['failed']}"
                    return
            for number in range(rounds):
                for side in names if number % 2 == 0 else reversed(names):
                    needed = case.quick_memory_gb if quick else case.memory_gb
                    figures = (
                        {"failed": f"needs {needed:g} GB of free memory, there are {free_gb():.1f}"}
                        if free_gb() < needed
                        else run_side(name, side, Path(folder), quick, cores, case.seconds)
                    )
                    outcome.sides[side].append(figures)
                    say(f"{name} {number + 1}/{rounds} {side}: {_told(figures)}")
    except KeyboardInterrupt:
        outcome.failed = "interrupted"
        raise
    finally:
        outcome.seconds = time.monotonic() - begun


def run_side(
    name: str, side: str | None, folder: Path, quick: bool, cores: list[int], seconds: float
) -> dict[str, Any]:
    """One side (None: `prepare`) in a process of its own: its figures, or `{"failed": why}`."""
    with tempfile.TemporaryDirectory(prefix="graftlm-bench-") as scratch:
        request, out = Path(scratch) / "request.json", Path(scratch) / "figures.json"
        request.write_text(
            json.dumps(
                {
                    "parent": os.getpid(),
                    "case": name,
                    "side": side,
                    "folder": str(folder),
                    "quick": quick,
                    "cores": cores,
                    "out": str(out),
                }
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "benchmarks.speed.child", str(request)]
        with (Path(scratch) / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(len(cores)), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            with _ended(process):
                try:
                    code = process.wait(seconds)
                except subprocess.TimeoutExpired:
                    return {"failed": f"took more than {seconds:.0f} s"}
            if code == 0 and out.exists():
                figures: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
                return figures
            log.seek(0)
            last = [line.strip() for line in log.read().splitlines() if line.strip()]
            said = last[-1] if last else "said nothing"
            return {"failed": said if code > 0 else f"ended by signal {-code} (out of memory?)"}


@contextmanager
def _ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    """No process is left behind, whatever ends the wait."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


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
