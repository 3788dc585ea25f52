"""What the command costs before it does any work: processor seconds of a whole process, user and system.

The plan is that of a sweep of 100 jobs whose stages are all in the store (`benchmarks/plan_speed.py`).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from benchmarks.speed.case import Case, Row, Run


def prepare(run: Run) -> dict[str, float]:
    from benchmarks.plan_speed import fill, measure, sweep

    os.environ["GRAFTLM_CACHE"] = str(run.folder / "cache")
    words = sweep(run.folder / "store", "docstrings_small")
    fill(run.folder / "store", words)
    measure(words)  # composes, and remembers what it composed
    return {}


def help_(run: Run) -> dict[str, float]:
    _cpu("--help")  # compiles what is not compiled yet
    return {"seconds": min(_cpu("--help") for _ in range(3))}


def plan(run: Run) -> dict[str, float]:
    from benchmarks.plan_speed import measure, sweep

    os.environ["GRAFTLM_CACHE"] = str(run.folder / "cache")
    words = sweep(run.folder / "store", "docstrings_small")
    plans = [measure(words) for _ in range(4)][1:]
    assert all(" run" not in line for _, _, line in plans), plans
    return {"seconds": min(processor for processor, _, _ in plans)}


def _cpu(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "graftlm", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


CASE = Case(
    sides={"help": help_, "plan": plan},
    rows=[
        Row("`graftlm --help`, seconds of processor", peer=None, ours="help", goal=0.3),
        Row("`graftlm plan` of 100 jobs, all stored", peer=None, ours="plan", goal=0.3),
    ],
    prepare=prepare,
    seconds=120,
    libraries=(),
)
