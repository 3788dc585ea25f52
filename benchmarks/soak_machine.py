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
    launch = [  # those that `make test` has no time for
        f"{tests}/launch/test_joblib.py::test_after_a_signal_the_workers_save_and_end",
        f"{tests}/launch/test_slurm.py::test_a_search_is_an_array_a_batch_and_its_tasks_tell_the_study",
    ]
    command = [sys.executable, "-m", "pytest", str(tests / "faults"), *launch, "-q", "--durations=5"]
    return subprocess.run(command, env={**os.environ, "GRAFTLM_SOAK": "1", "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
