"""TensorBoard and Trackio, each read back from its own files; a package that is not there; cells."""

from __future__ import annotations

import importlib.util
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftlm.running import LoggerSettings
from graftlm.tracking import cells, tracker
from graftlm.tracking.tables import transfer_tables

SHOWN = {"val/loss": [(0, 3.0), (5, 1.5)]}


def log(context: Any, hostile: tuple[str, ...]) -> None:
    with tracker(context) as track:
        for step, loss in SHOWN["val/loss"]:
            track.log({"val/loss": loss}, step, {"flops": 100 * step})
        track.table("samples", ["text", "loss"], [[text, 1.0] for text in hostile])
        track.summary({"cost/seconds": 2.0})
    assert context.progress.lines == []


def test_tensorboard_reads_its_files_back(tmp_path: Path, stage_context: Any, hostile: tuple[str, ...]) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra graftlm[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(stage_context("finetune", kind="tensorboard"), hostile)
    (folder,) = (tmp_path / "logs" / "tensorboard" / "sweep-1").iterdir()
    read = EventAccumulator(str(folder))
    read.Reload()
    assert [(item.step, item.value) for item in read.Scalars("val/loss")] == SHOWN["val/loss"]
    assert read.Scalars("summary/cost/seconds")[0].value == 2.0
    (text,) = read.Tensors("samples/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert "&lt;script&gt;" in table
    assert "<script>" not in table
    assert len(table.splitlines()) == len(hostile) + 2, "no text opens a line of its own"


def test_trackio_reads_its_file_back(tmp_path: Path, stage_context: Any, hostile: tuple[str, ...]) -> None:
    if importlib.util.find_spec("trackio") is None:  # not imported here: it takes its folder when it is
        pytest.skip("needs the extra graftlm[trackio], which wants an older pillow than the pinned one")
    context = stage_context("finetune", kind="trackio", project="mine")
    log(context, hostile)
    (file,) = (tmp_path / "logs" / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select step, metrics from metrics order by step, id").fetchall()
    text = " ".join(str(row) for row in rows)
    assert '"val/loss":1.5' in text.replace(" ", "")
    assert "summary/cost/seconds" in text
    assert "x" * 3000 not in text


def test_a_package_that_is_missing_is_told_before_anything_runs(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'trackio' else real(name, *more)\n"
        "from graftlm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["run", "experiment=smoke", "logger=trackio"]
    result = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line == (
        "graftlm: logger=trackio: its package is not installed; pip install 'graftlm[trackio]', or take logger=none"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_the_settings_refuse() -> None:
    for kind in ("tensorboard", "trackio", "none"):
        (problem,) = LoggerSettings(kind=kind, log_models="files").check("logger")  # type: ignore[arg-type]
        assert str(problem).startswith(f"logger.log_models=files: says nothing to logger={kind}; set ")
    assert list(LoggerSettings(log_models="references").check("logger")) == []
    (problem,) = LoggerSettings(project="a/b").check("logger")
    assert problem.path == "logger.project"
    assert importlib.util.find_spec("wandb") is not None
    assert list(LoggerSettings().missing("logger")) == []


def test_cells_of_one_column_are_of_one_kind(hostile: tuple[str, ...]) -> None:
    rows = cells.table(["a", "b", "c"], [[1, "x", True], [None, 2, None], [math.nan, hostile[2], 1.5]])
    assert rows[0] == [1.0, "x", "True"]
    assert rows[1] == [None, "2", None]
    assert rows[2][0] is None
    assert len(rows[2][1]) < 2100
    assert cells.text("a\x00b\ud800c\td\n") == "a\ufffdb\ufffdc\td\n"


def test_the_transfer_report_as_tables() -> None:
    report = {
        "host_tensors": [{"name": "a.weight", "shape": [3, 4], "status": "copied", "source": None, "step": "x"}],
        "fidelity": {"layers": [{"layer": 0, "before": {"cka": 0.1}, "after": {"cka": 0.9, "cosine": 0.8}}]},
    }
    tensors, layers = transfer_tables(report)
    assert tensors[2] == [["a.weight", "3 × 4", "copied", "", "x", ""]]
    assert dict(zip(layers[1], layers[2][0], strict=True))["cka after"] == 0.9
    assert list(transfer_tables({"fidelity": None})) == []
