"""Metrics: whole in the JSON Lines, whatever happens to a sink; W&B's own file read back."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from graftlm.running import LoggerSettings
from graftlm.tracking import METRICS, Tracker, read_metrics
from graftlm.tracking.sink import LateError
from graftlm.tracking.tracker import start_wandb


class Lines:
    """A progress that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def task(self, label: str, total: int | None) -> Any:
        raise AssertionError("not used")

    def say(self, line: str) -> None:
        self.said.append(line)


class FailingSink:
    def __init__(self) -> None:
        self.calls = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionError("the server is gone")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.calls += 1

    def summary(self, values: Mapping[str, Any]) -> None:
        self.calls += 1

    def finish(self, exit_code: int) -> None:
        self.calls += 1


def test_a_failing_sink_never_stops_a_run(tmp_path: Path) -> None:
    progress, sink = Lines(), FailingSink()
    tracker = Tracker(tmp_path, [sink], progress)
    for step in range(3):
        tracker.log({"train/loss": 1.0}, step, {"examples": step})
    tracker.summary({"x": 1})
    tracker.finish(0)
    assert sink.calls == 1
    assert progress.said == ["Failing: failed and is left out from here on (the server is gone); the run goes on"]
    assert [line["step"] for line in read_metrics(tmp_path / METRICS)] == [0, 1, 2]


def test_a_server_that_is_late_is_told_and_later_runs_of_the_process_are_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real server that goes away: tests/faults/test_network.py."""

    class LateSink(FailingSink):
        def finish(self, exit_code: int) -> None:
            raise LateError("the server has not taken all of this run")

    monkeypatch.setattr(sys.modules[Tracker.__module__], "_unreachable", [])
    progress = Lines()
    Tracker(tmp_path, [LateSink()], progress).finish(0)
    assert progress.said == ["W&B: the server has not taken all of this run"]
    asked: list[str] = []
    start_wandb(LoggerSettings(mode="online"), asked.append, progress.say)
    assert asked == ["offline"]


def test_a_nan_is_written_as_null(tmp_path: Path) -> None:
    Tracker(tmp_path, [], Lines()).log({"train/loss": math.nan}, 1, {})
    assert json.loads((tmp_path / METRICS).read_text())["train/loss"] is None


def test_rewinding_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, [], Lines())
    for step in (0, 5, 10, 15):
        tracker.log({"val/loss": float(step)}, step, {"seconds": step * 1.5})
    with (tmp_path / METRICS).open("a") as handle:
        handle.write('{"step": 20, "val/lo')  # cut short by a kill
    assert tracker.lines == 4
    again = Tracker(tmp_path, [], Lines())
    again.rewind(3)
    assert again.lines == 3
    assert [line["step"] for line in read_metrics(tmp_path / METRICS)] == [0, 5, 10]
    again.rewind(0)
    assert read_metrics(tmp_path / METRICS) == []
