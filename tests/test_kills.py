"""A sweep that is killed again and again ends as if nothing had happened: the short form of `make soak`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak_kills.py"


def test_a_sweep_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    words = [sys.executable, str(SOAK), "--short", "--kills", "3", "--seed", "3", "--keep", str(tmp_path / "soak")]
    result = subprocess.run(words, capture_output=True, text=True, timeout=290)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kills" in result.stdout
    assert "identical to the bit" in result.stdout
