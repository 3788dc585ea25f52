"""Sweeps on a real SLURM, of one node, started here; skipped where Debian's slurm-wlm is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from graftlm.plan import Fingerprints, stage_keys
from graftlm.schema import Settings
from graftlm.search.study import open_storage
from graftlm.tracking import read_metrics

START = Path(__file__).with_name("slurm.sh")
WORDS = (
    *("run", "-m", "experiment=smoke", "transfer=none", "finetune.seed=1,2", "finetune.max_steps=100"),
    *("finetune.val_interval=20", "finetune.checkpoint_interval=5"),
)


def lacking() -> str:
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path=PATH)]
    if missing:
        return f"no {', '.join(missing)} (apt-get install slurm-wlm)"
    return "" if os.getuid() == 0 else "slurmd needs root"


PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "-")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of the cluster."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'graftlm[slurm]'")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([START, "start", folder], check=True, timeout=60)
    try:
        yield {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1", "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([START, "stop", folder], check=True, timeout=60)


@pytest.fixture(scope="module")
def swept(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of two jobs that nothing disturbed, and what it told."""
    folder = tmp_path_factory.mktemp("calm")
    command = [sys.executable, "-m", "graftlm", *WORDS, "launch=slurm", "launch.cores=1"]
    result = subprocess.run(command, cwd=folder, env=cluster, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return folder, result.stderr


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("multirun/*/*/job.json"))]


def test_a_sweep_is_a_job_array_and_ends_like_any_other(swept: tuple[Path, str]) -> None:
    folder, told = swept
    assert [record["status"] for record in records(folder)] == ["done", "done"]
    assert "2 done" in told
    assert len(list(folder.glob("multirun/*/report.html"))) == 1
    logs = [path.read_text() for path in sorted(folder.glob("multirun/*/.submitit/*_?/*_log.err"))]
    assert len({path.parent.name.split("_")[0] for path in folder.glob("multirun/*/.submitit/*_?/*.err")}) == 1
    assert ["done in" in log for log in logs] == [True, True], "each job ran in a task of the array"
    assert sum("corpus" in log and "waiting" in log for log in logs) <= 1
    assert len(list(folder.glob("multirun/store/corpus/*/artifact.json"))) == 1


def test_jobs_preempted_or_requeued_end_the_same(
    swept: tuple[Path, str], cluster: dict[str, str], tmp_path: Path
) -> None:
    """One is told by the preemption signal and has itself requeued, one is put back by SLURM."""
    calm, _ = swept
    shutil.copytree(calm / "multirun/store/corpus", tmp_path / "multirun/store/corpus")
    command = [sys.executable, "-m", "graftlm", *WORDS, "launch=slurm", "launch.cores=1"]
    process = subprocess.Popen(command, cwd=tmp_path, env=cluster, stderr=subprocess.PIPE, text=True)
    try:
        disturb = {1: ("scancel", "--signal=USR2"), 2: ("scontrol", "requeue")}
        while disturb:  # whichever trains first: it would have ended while the other one is waited for
            seed = wait(lambda: next((seed for seed in disturb if begun(tmp_path, seed)), None), process)
            (task,) = tmp_path.glob(f"multirun/*/.submitit/*_{seed - 1}")
            subprocess.run([*disturb.pop(seed), task.name], env=cluster, check=True)
        _, told = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert [record["status"] for record in records(tmp_path)] == ["done", "done"]
    logs = [path.read_text() for path in sorted(tmp_path.glob("multirun/*/.submitit/*_?/*_log.err"))]
    assert ["going on from step" in log for log in logs] == [True, True], logs
    for path in sorted(calm.glob("multirun/store/finetune/*/model/model.safetensors")):
        assert (tmp_path / path.relative_to(calm)).read_bytes() == path.read_bytes()
    for path in calm.glob("multirun/store/evaluate/*/scores.json"):
        assert json.loads((tmp_path / path.relative_to(calm)).read_text()) == json.loads(path.read_text())
    for path in calm.glob("multirun/store/finetune/*/metrics.jsonl"):
        assert without_seconds(tmp_path / path.relative_to(calm)) == without_seconds(path)


@pytest.mark.skipif(not os.environ.get("GRAFTLM_SOAK"), reason="half a minute more of what the others show (make soak)")
def test_a_search_is_an_array_a_batch_and_its_tasks_tell_the_study(
    swept: tuple[Path, str], cluster: dict[str, str], tmp_path: Path
) -> None:
    """No trial is given up here, which would depend on who is quicker; but each tells its curve."""
    shutil.copytree(swept[0] / "multirun/store/corpus", tmp_path / "multirun/store/corpus")
    search = ("sweep=tpe", "search.trials=3", "search.startup_trials=2", "finetune.lr=tag(log,interval(1e-4,1e-2))")
    pruner = ("search.pruner.kind=median", "search.pruner.startup_trials=9")
    words = ("run", "-m", "experiment=smoke", "transfer=none", *search, *pruner, "launch=slurm", "launch.cores=1")
    command = [sys.executable, "-m", "graftlm", *words]
    result = subprocess.run(command, cwd=tmp_path, env=cluster, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    # a task of an array has the array's number before its own; the last trial is alone
    tasks = [path.name.partition("_")[0] for path in tmp_path.glob("multirun/*/.submitit/*") if any(path.glob("*.err"))]
    assert sorted(Counter(tasks).values()) == [1, 2]
    (found,) = (json.loads(path.read_text()) for path in tmp_path.glob("multirun/*/search.json"))
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3
    (folder,) = tmp_path.glob("multirun/store/studies/*")
    study = optuna.load_study(study_name=folder.name, storage=open_storage(None, folder))
    assert [sorted(trial.intermediate_values) for trial in study.trials] == [[0, 1, 2, 5, 10]] * 3


def begun(folder: Path, seed: int) -> bool:
    """Whether the training of this seed has left a checkpoint."""
    for path in folder.glob("multirun/*/*/job.json"):
        record = json.loads(path.read_text())
        if record["seeds"]["finetune"] == seed and record["status"] == "running":
            keys = {stage.key for stage in stage_keys(Settings.from_mapping(record["settings"]), Fingerprints())}
            found = folder.glob("multirun/store/finetune/*.partial/scratch/last.ckpt")
            return any(path.parts[-3].removesuffix(".partial") in keys for path in found)
    return False


def without_seconds(path: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(path)]


def wait(holds: Any, process: subprocess.Popen[str]) -> Any:
    """What it gives, once it is true."""
    deadline = time.monotonic() + 200
    while not (found := holds()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
