"""Leases between real processes: no two have the same core or GPU, and one whose holder was killed is free again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graftlm import leases
from graftlm.errors import SettingsError
from graftlm.running import LaunchSettings, TrainerSettings


class Heard:
    """Keeps the lines that a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, label: str, total: int | None) -> object:
        raise AssertionError("no task")

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    monkeypatch.setattr(leases, "_bound", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return tmp_path / "leases"


def gpu(*devices: str, count: int = 1) -> LaunchSettings:
    return LaunchSettings(name="joblib", lease=True, devices=list(devices), gpus=count)


CPU = TrainerSettings(accelerator="cpu")
# takes what `launch` gives, tells what it sees in a line each, and holds it until told to end
HOLDER = """
import ast, os, sys
from graftlm.console import Lines
from graftlm.leases import leased
from graftlm.running import LaunchSettings, TrainerSettings
launch = LaunchSettings(**ast.literal_eval(sys.argv[1]))
with leased(launch, TrainerSettings(accelerator="cpu"), Lines()):
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), found, sep=";", flush=True)
    sys.stdin.readline()
"""


def holder(**launch: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, repr({"name": "joblib", "lease": True, **launch})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout
    return process.stdout.readline().strip().split(";")


def test_processes_get_gpus_of_their_own_and_the_third_waits_for_a_killed_one() -> None:
    wants = {"devices": ["0", "1"], "gpus": 1}
    first, second = holder(**wants), holder(**wants)
    try:
        seen = {told(first)[0], told(second)[0]}
        assert seen == {"0", "1"}
        third = holder(**wants)
        try:
            assert third.stderr
            assert third.stderr.readline() == "waiting for 1 free gpu of 2: other jobs have them\n"
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert told(third)[0] in seen
            third.communicate("\n", timeout=200)
            assert third.returncode == 0
        finally:
            third.kill()
            third.wait()
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(leases.cores()) < 2, reason="needs two cores of Linux")
def test_cores_are_leased_and_bind_the_job() -> None:
    first, second = holder(cores=1), holder(cores=1)
    try:
        seen = [told(first), told(second)]
        assert [threads for _, threads, _ in seen] == ["1", "1"]
        assert seen[0][2] != seen[1][2]
        assert all(len(places.split(",")) == 1 for _, _, places in seen)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_what_a_lease_changed_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = torch.get_num_threads()
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with contextlib.suppress(ZeroDivisionError), leases.leased(LaunchSettings(lease=True, cores=1), CPU, Heard()):
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert torch.get_num_threads() == before
    assert (os.sched_getaffinity(0) if affinity else None) == affinity


def test_threads_are_left_alone_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with leases.leased(LaunchSettings(lease=True, cores=1), TrainerSettings(accelerator="cpu", threads=3), Heard()):
        assert os.environ["OMP_NUM_THREADS"] == "7"


def test_the_cores_that_slurm_gave_are_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    with leases.leased(LaunchSettings(name="slurm"), CPU, Heard()):
        assert os.environ["OMP_NUM_THREADS"] == "5"


def test_all_or_nothing_so_that_two_with_a_part_each_never_wait_for_each_other(folder: Path) -> None:
    from filelock import FileLock

    folder.mkdir()
    other = FileLock(folder / "gpu-1.lock")
    other.acquire()
    process = holder(devices=["0", "1"], gpus=2)
    try:
        assert process.stderr
        assert process.stderr.readline().startswith("waiting for 2 free gpus of 2")
        with leases.leased(gpu("0"), CPU, Heard()):  # it waits without holding the one that is free
            other.release()
            time.sleep(0.5)
            assert process.poll() is None
        assert told(process)[0] == "0,1"
    finally:
        process.kill()
        process.communicate()


def test_a_worker_keeps_the_gpu_it_has_used() -> None:
    """CUDA reads which GPUs it may see once a process."""
    with leases.leased(gpu("0", "1"), CPU, Heard()):
        first = os.environ["CUDA_VISIBLE_DEVICES"]
    beside = holder(devices=["0", "1"], gpus=1)
    try:
        assert told(beside)[0] == first
        heard = Heard()
        threading.Timer(0.5, beside.kill).start()
        with leases.leased(gpu("0", "1"), CPU, heard):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == first
        assert heard.lines == ["waiting for 1 free gpu of 1: other jobs have them", f"gpu {first}: free now"]
    finally:
        beside.kill()
        beside.communicate()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_gpus_are_what_is_set_or_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    auto = TrainerSettings()
    assert leases.gpus(LaunchSettings()) == ["2", "3"]
    assert leases.gpus(LaunchSettings(devices=["7"])) == ["7"]
    assert leases.gpus_of_job(LaunchSettings(), auto) == 1
    assert leases.gpus_of_job(LaunchSettings(), CPU) == 0
    assert leases.workers(LaunchSettings(), auto) == 2
    assert leases.workers(LaunchSettings(workers=5), auto) == 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert leases.gpus(LaunchSettings()) == []
    assert leases.gpus_of_job(LaunchSettings(), auto) == 0


def test_a_workers_second_job_leases_one_of_the_gpus_that_were_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    launch = LaunchSettings(name="joblib", lease=True)
    for _ in range(2):
        with leases.leased(launch, TrainerSettings(accelerator="gpu"), Heard()):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
            beside = holder(devices=["2", "3"], gpus=1)
            try:
                assert told(beside)[0] == "3", "the first one is leased"
            finally:
                beside.kill()
                beside.communicate()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_a_failed_job_leaves_the_threads_as_they_were() -> None:
    import torch

    before = torch.get_num_threads()
    launch = LaunchSettings(name="joblib", lease=True, cores=1)
    with pytest.raises(ValueError, match="a job"), leases.leased(launch, CPU, Heard()):  # noqa: PT012
        torch.set_num_threads(before + 1)
        raise ValueError("a job")
    assert torch.get_num_threads() == before


def test_more_than_there_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"launch\.gpus=2: only 1"), leases.leased(gpu("0", count=2), CPU, Heard()):
        pass
    launch = LaunchSettings(lease=True, cores=10_000)
    with pytest.raises(SettingsError, match=r"launch\.cores=10000"), leases.leased(launch, CPU, Heard()):
        pass
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=leases.FOLDER), leases.leased(gpu("0"), CPU, Heard()):
        pass


def test_a_job_that_got_fewer_gpus_than_it_takes_ends_before_its_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node of a cluster, of which the command knows nothing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch = LaunchSettings(name="slurm")
    trainer = TrainerSettings(accelerator="gpu", devices=2)
    with (
        pytest.raises(SettingsError, match=r"trainer\.devices=2: there is no GPU for it"),
        leases.leased(launch, trainer, Heard()),
    ):
        pass
    with leases.leased(launch, TrainerSettings(accelerator="auto", devices=2), Heard()):
        pass
