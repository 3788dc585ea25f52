"""What the command costs before it does any work: processor seconds of a whole process."""

from __future__ import annotations

import resource
import subprocess
import sys

from benchmarks.speed.case import Case, Row, Run


def _cpu(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "graftlm", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def help_(run: Run) -> dict[str, float]:
    _cpu("--help")  # compiles what is not compiled yet
    return {"seconds": min(_cpu("--help") for _ in range(3))}


CASE = Case(
    sides={"help": help_},
    rows=[Row("`graftlm --help`, seconds of processor", peer=None, ours="help", goal=0.3)],
    seconds=120,
)
