"""One side of a case, in a fresh process: writes its figures, and the most memory it held, as JSON.

python -m benchmarks.speed.child REQUEST.json        (what `benchmarks.speed.running` starts)
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sys.platform == "linux":  # ends with the process that wants the figures, however that ends
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != asked["parent"]:
            return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, asked["cores"])  # before any library counts the cores
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
