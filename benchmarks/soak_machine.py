"""The tests of faults and of launchers in their long form: after each fault the command is given again, and compared
with a calm run.

python benchmarks/soak_machine.py          part of what `make soak` runs; a few minutes
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    tests = Path(__file__).parents[1] / "tests"
    command = [sys.executable, "-m", "pytest", str(tests / "faults"), str(tests / "launch"), "-q", "--durations=5"]
    return subprocess.run(command, env={**os.environ, "GRAFTLM_SOAK": "1", "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
