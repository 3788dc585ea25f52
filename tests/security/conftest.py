"""Sweeps of a known truth, which the tests of reports make."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("report_fixtures", Path(__file__).parents[1] / "report" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_reports = sys.modules["report_fixtures"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_reports)
fake_sweep, fake_arm = _reports.fake_sweep, _reports.fake_arm
