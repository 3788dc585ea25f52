"""The harness of the speed benchmark, on a case whose sides take no time: what it runs, computes, says of failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

CASE = """
import os, time
from benchmarks.speed.case import Case, Row

def prepare(run):
    (run.folder / "order.txt").write_text("")

def preload():
    os.environ["PRELOADED_BY"] = str(os.getpid())

def note(run, name):
    with open(run.folder / "order.txt", "a") as file:
        file.write(name)
    return (run.folder / "order.txt").read_text()

def peer(run):
    turn = len(note(run, "p"))
    cores = len(os.sched_getaffinity(0))
    return {"seconds": 6.0 * turn, "rate": 10.0, "peak_gb": 4.0, "pid": os.getpid(), "cores": cores,
            "preloaded_by": int(os.environ["PRELOADED_BY"])}

def ours(run):
    turn = len(note(run, "o"))
    return {"seconds": 2.0 * turn, "rate": 30.0, "peak_gb": 1.0, "pid": os.getpid(), "quick": float(run.quick),
            "threads": float(os.environ["OMP_NUM_THREADS"]), "preloaded_by": int(os.environ["PRELOADED_BY"])}

def broken(run):
    raise RuntimeError("no such luck")

def dies(run):
    os.kill(os.getpid(), 9)

def hangs(run):
    time.sleep(600)

CASE = Case(
    sides={"peer": peer, "ours": ours, "broken": broken, "dies": dies, "hangs": hangs},
    prepare=prepare,
    preload=preload,
    seconds=SECONDS,
    libraries=(),
    rows=[
        Row("speed", goal=2.0, memory_goal=0.3),
        Row("rate", "rate", more=True, goal=4.0, unit="tok/s"),
        Row("loop", ratio="share", goal=1.03),
        Row("alone", peer=None, goal=100.0),
        Row("raises", peer="broken"),
        Row("killed", ours="dies"),
        Row("endless", ours="hangs"),
    ],
)
"""


def bench(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.speed", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "toy.py").write_text(CASE.replace("SECONDS", "2"))
    (folder / "page.md").write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    files = ["--json", str(folder / "out" / "bench.json"), "--docs", str(folder / "page.md")]
    result = bench("--quick", "--rounds", "3", *files, str(folder / "toy.py"))
    page = (folder / "page.md").read_text()
    assert page == f"before\n<!-- bench -->\n{result.stdout}<!-- /bench -->\nafter\n"
    return result, json.loads((folder / "out" / "bench.json").read_text())


def test_sides_run_in_turns_in_processes_of_their_own(done: Any) -> None:
    _, content = done
    ((_, case),) = content["cases"].items()
    peer, ours = case["sides"]["peer"], case["sides"]["ours"]
    assert [entry["seconds"] for entry in peer] == [6.0, 24.0, 30.0]  # p o, then o p, then p o
    assert [entry["seconds"] for entry in ours] == [4.0, 6.0, 12.0]
    assert len({entry["pid"] for entry in peer + ours}) == 6
    assert {entry["cores"] for entry in peer} == {1}
    assert {(entry["threads"], entry["quick"]) for entry in ours} == {(1.0, 1.0)}


def test_what_all_sides_load_is_loaded_once(done: Any) -> None:
    _, content = done
    ((_, case),) = content["cases"].items()
    entries = case["sides"]["peer"] + case["sides"]["ours"]
    loaded = {entry["preloaded_by"] for entry in entries}
    assert len(loaded) == 1
    assert not loaded & {entry["pid"] for entry in entries}


def test_the_minutes_of_each_case_are_told(done: Any) -> None:
    result, content = done
    ((name, case),) = content["cases"].items()
    assert f" minutes ({name} {case['seconds'] / 60:.1f}), --quick" in result.stdout


def test_rows_show_the_median_of_the_rounds_ratios(done: Any) -> None:
    result, content = done
    rows = {row["measure"]: row for row in content["rows"]}
    assert rows["speed"]["ratio"] == 2.5  # of 1.5, 4, 2.5; not the ratio of the medians, 4
    assert (rows["speed"]["memory"], rows["speed"]["met"]) == (0.25, True)
    assert rows["speed"]["interval"] == [1.5, 4.0]
    assert (rows["rate"]["ratio"], rows["rate"]["met"]) == (3.0, False)
    assert (rows["loop"]["ratio"], rows["loop"]["met"]) == (0.4, True)
    assert (rows["alone"]["ours"], rows["alone"]["ratio"], rows["alone"]["met"]) == (6.0, None, True)
    line = next(line for line in result.stdout.splitlines() if line.startswith("| speed"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["speed", "≥2.00×, memory ≤0.3", "24.0 s", "6.00 s", "2.50×", "1.50–4.00", "0.25×", "3/3", "met"]
    assert content["machine"]["torch"] in result.stdout


@pytest.mark.parametrize(
    ("measure", "reason"),
    [("raises", "no such luck"), ("killed", "ended by signal 9"), ("endless", "took more than 2 s")],
)
def test_what_failed_stands_in_the_table(done: Any, measure: str, reason: str) -> None:
    result, content = done
    assert result.returncode == 1
    row = next(row for row in content["rows"] if row["measure"] == measure)
    assert (row["ratio"], row["met"]) == (None, None)
    assert reason in row["failed"]
    line = next(line for line in result.stdout.splitlines() if line.startswith(f"| {measure}"))
    assert "| failed" in line
    assert "0/3" in line


def test_ctrl_c_leaves_a_table_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(CASE.replace("SECONDS", "60"))
    words = [sys.executable, "-m", "benchmarks.speed", "--rounds", "1", str(tmp_path / "toy.py")]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in a shell's background ignores it
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if " dies: " in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(100):
        if child := children.read_text().split():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "| speed" in stdout
    assert "1.50×" in stdout
    assert "interrupted" in next(line for line in stdout.splitlines() if line.startswith("| endless"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(child[0]), 0)


def test_a_case_that_is_not_there_is_named() -> None:
    result = bench("nothing_of_the_kind")
    assert result.returncode == 2
    assert "nothing_of_the_kind" in result.stderr


def test_all_cases_can_be_listed_without_torch() -> None:
    code = "import sys; sys.argv = ['speed', '--list']\nimport runpy\n"
    code += "try: runpy.run_module('benchmarks.speed', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.stdout.splitlines()[-1] == "False", result.stderr


def test_our_side_of_the_steps_is_what_the_stages_run_now() -> None:
    """`fit_batches` plays a stage to `graftlm.stages.training.fit`, which may come to ask more of it."""
    from benchmarks.speed.cases import _mlm

    from graftlm.models.mlm import MlmModule
    from graftlm.schema import MaskSettings, PretrainSettings

    shape, steps = _mlm.Shape(300, 1, 64, 2, 16), 2
    settings = PretrainSettings(max_steps=steps, val_interval=steps)
    module = MlmModule(shape.model(), settings, MaskSettings())
    _mlm.fit_mlm(module, settings, [_mlm.our_batch(shape, number) for number in range(steps)], "32-true", [])
    assert module.examples_seen == 2 * steps
