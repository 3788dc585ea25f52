"""Where the sides of a case run: a process that has the libraries of others loaded, and a fork of it for each side.

    python -m benchmarks.speed.child REQUEST.json        (what `benchmarks.speed.running` starts)

It reads the path of a request from each line of its standard input, and answers with the process of the side and, once
that has ended, with its exit code (negative: the signal that ended it). A side is a fresh process but for the imports,
four seconds that are measured nowhere, and what its case has all sides load alike (`Case.preload`): before the fork
nothing else of graftlm is loaded, no thread runs, nothing is computed. It writes its figures, and the most memory it
held, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _end_with(asked["parent"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, asked["cores"])  # before any library counts the cores
    for name in asked["libraries"]:
        module, _, attribute = name.partition(":")
        loaded = import_module(module)
        if attribute:
            getattr(loaded, attribute)  # what transformers gives by its name alone loads a module of its own
    if asked["preload"] is not None:
        _preload(asked["preload"])
    _answer("ready")
    for line in sys.stdin:
        child = _fork(Path(line.strip()))
        _answer(child)
        _answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _answer(said: object) -> None:
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()


def _fork(request: Path) -> int:
    own = os.getpid()
    if child := os.fork():
        return child
    code = 1
    try:
        _end_with(own)
        with request.with_name("log.txt").open("wb") as log, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        _run(json.loads(request.read_text(encoding="utf-8")))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _preload(name: str) -> None:
    from benchmarks.speed.case import load

    preload = load(name).preload
    assert preload is not None
    preload()


def _run(asked: dict[str, Any]) -> None:
    from benchmarks.speed.case import Run, load

    case = load(asked["case"])
    run = Run(Path(asked["folder"]), asked["quick"])
    side = case.prepare if asked["side"] is None else case.sides[asked["side"]]
    assert side is not None
    begun, used = time.perf_counter(), time.process_time()
    figures = dict(side(run) or {})
    figures["process_seconds"] = time.perf_counter() - begun
    figures["process_cpu_seconds"] = time.process_time() - used
    figures.setdefault("peak_gb", peak_gb())
    Path(asked["out"]).write_text(json.dumps(figures), encoding="utf-8")


def _end_with(parent: int) -> None:
    """This process ends where that one does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def peak_gb() -> float:
    """The most memory that this process held so far, in GB of 10⁹ bytes (VmHWM; elsewhere what getrusage says)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()
