"""Sweeps in several processes of this machine: what they share, and what is left when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import warm

SMOKE = ("run", "-m", "experiment=smoke", "launch=joblib")


def environment(folder: Path) -> dict[str, str]:
    """With leases of their own: tests must not wait for a sweep that runs beside them."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GRAFTLM_LEASES": str(folder / "leases")}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "graftlm", *words],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # tests run in the background of a shell have the signal ignored, and a child inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def graftlm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *words)
    out, told = process.communicate(timeout=280)
    return subprocess.CompletedProcess(words, process.returncode, out, told)


def records(folder: Path) -> list[dict[str, Any]]:
    """Of the last sweep."""
    last = max(folder.glob("multirun/2*"))
    return [json.loads(path.read_text()) for path in sorted(last.glob("*/job.json"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Three workers for two GPUs, which are names here: nothing looks for them with trainer=cpu."""
    folder = tmp_path_factory.mktemp("joblib")
    places = ("launch.workers=3", "launch.gpus=1", "launch.devices=[0,1]", "trainer=cpu")
    return folder, graftlm(folder, *SMOKE, *places, "transfer=embeddings", "finetune.lr=1e-3,2e-3,3e-3")


def test_workers_train_one_donor_graft_once_wait_for_their_places_and_the_sweep_ends_like_any_other(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = swept
    assert result.returncode == 0, result.stderr
    found = records(folder)
    assert [record["status"] for record in found] == ["done"] * 3
    made = [stage["stage"] for record in found for stage in record["stages"] if not stage["reused"]]
    assert sorted(made) == ["corpus", *["evaluate"] * 3, *["finetune"] * 3, "graft", "pretrain"], "each stage made once"
    first, *more = result.stderr.splitlines()
    assert first == "3 jobs at a time, each with 1 of 2 GPUs of its own; only 2 fit at once, the others wait"
    assert sum("waiting for 1 free gpu of 2" in line for line in more) == 1
    assert sum("another process makes it" in line for line in more) >= 1, "the jobs ran at the same time"
    assert any("3 done" in line for line in more)
    (page,) = folder.glob("multirun/*/report.html")
    assert result.stdout.rstrip().endswith(f"report: {page.relative_to(folder)}")
    assert [record["overrides"][-1] for record in found] == [f"finetune.lr=0.00{lr}" for lr in (1, 2, 3)]


def test_a_killed_worker_costs_its_sweep_but_not_what_was_done(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """The pool of joblib is lost with it; the sweep tells what became of each job, and the same command goes on."""
    folder, _ = swept
    # the first of the two was done by the sweep before
    given = ("transfer=embeddings", "finetune.lr=1e-3", "finetune.checkpoint_interval=5")
    words = (*SMOKE, *given, "finetune.max_steps=10,120")
    process = start(folder, *words)
    try:
        wait(lambda: list(folder.glob("multirun/store/finetune/*.partial/scratch/last.ckpt")), process)
        os.kill(next(worker for worker in workers(process.pid) if trains(worker, folder)), signal.SIGKILL)
        out, told = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, told
    assert "the launcher ended early: TerminatedWorkerError" in told
    assert "1 failed, 1 reused" in told
    assert "its end was never written: killed, or running still" in told
    assert "Traceback" not in told
    assert "TerminatedWorkerError" in (max(folder.glob("multirun/2*")) / "launcher.log").read_text()
    assert "report: " in out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTLM_LEASES", environment(folder)["GRAFTLM_LEASES"])
        # joblib begins no process for one worker
        again = warm.graftlm(folder, *words, "launch.workers=1", "launch.cores=1")
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stderr
    assert "1 done, 1 reused" in again.stderr


SOAK = pytest.mark.skipif(not os.environ.get("GRAFTLM_SOAK"), reason="SIGTERM takes the same way (make soak)")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=SOAK), signal.SIGTERM])
def test_after_a_signal_the_workers_save_and_end(
    swept: tuple[Path, subprocess.CompletedProcess[str]], number: signal.Signals
) -> None:
    """Also where the whole process group hears it, as it does Ctrl-C at a terminal; and a third job is not begun."""
    folder, _ = swept
    seeds = [int(f"{number}{seed}") for seed in (1, 2, 3)]
    long = (
        "finetune.max_steps=4000",
        "finetune.checkpoint_interval=4000",
        f"finetune.seed={','.join(map(str, seeds))}",
    )
    before = set(folder.glob("multirun/store/finetune/*.partial"))
    process = start(folder, *SMOKE, "launch.workers=2", "launch.cores=1", "transfer=none", *long)

    def unfinished() -> set[Path]:
        return set(folder.glob("multirun/store/finetune/*.partial")) - before

    try:
        wait(lambda: len([path for path in unfinished() if lines(path / "metrics.jsonl") > 5]) == 2, process)
        mine = workers(process.pid)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number, told
    assert f"{number.name}: the jobs save and end" in told
    assert f"interrupted ({number.name}); the same command goes on from here" in told
    assert "Traceback" not in told
    assert "resource_tracker" not in told
    assert "2 interrupted, 1 not begun" in told, "a line a job"
    jobs = [line for line in told.splitlines() if line.startswith("  ") and "finetune.seed=" in line]
    assert [line.rpartition(": ")[2] for line in jobs] == [
        "interrupted (SIGTERM); the same command goes on from here"
    ] * 2
    assert [(path / "scratch/last.ckpt").is_file() for path in unfinished()] == [True, True]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in mine):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def workers(parent: int) -> list[int]:
    """The processes below one, as Linux lists them."""
    found = [
        int(child) for path in Path(f"/proc/{parent}/task").glob("*/children") for child in path.read_text().split()
    ]
    return found + [deeper for child in found for deeper in workers(child)]


def trains(worker: int, folder: Path) -> bool:
    """Whether a process holds the lock of a stage."""
    handles = Path(f"/proc/{worker}/fd")
    return any(str(path.resolve()).startswith(str(folder / "multirun/store/finetune")) for path in handles.iterdir())


def wait(holds: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
