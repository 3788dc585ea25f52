"""Choices of `launch`: what they hand to Hydra's plugins, and what a user gets wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm import leases
from graftlm.compose import compose_jobs
from graftlm.engines import check_launch, stopped, stopping, what_to_expect, words_for_hydra
from graftlm.errors import SettingsError
from graftlm.fields import outcome
from graftlm.interrupt import Interrupted
from graftlm.job import Words
from graftlm.plan import Fingerprints, stage_keys

SMOKE = ("run", "-m", "experiment=smoke", "transfer=none")
# the command in a Python that has none of the launchers' packages
WITHOUT = "import sys, hydra_plugins; hydra_plugins.__path__ = []; from graftlm.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("launch=joblib", "launch.workers=0"), "launch.workers=0: must be at least 1"),
        (("launch=joblib", "launch.cores=10000"), "launch.cores=10000: this process may use"),
        (("launch=joblib", "launch.gpus=3", "launch.devices=[0,1]"), "launch.gpus=3: there are 2 to give out"),
        (("launch=joblib", "launch.devices=[0,0]"), "names a GPU twice"),
        (("launch=joblib,local",), "launch=joblib,local: must be the same for all jobs of a sweep"),
        (
            ("launch=joblib", "launch.worker=2"),
            "launch.worker=2: is no setting and no group; did you mean launch.workers?",
        ),
        (("launch.address=auto",), "launch.address=auto: says nothing to launch=local"),
        (
            ("launch=submitit_local", "launch.lease=true"),
            "launch.lease=True: launch=submitit_local gives each job its own",
        ),
        (("launch=slurm",), "launch=slurm: srun is not on this machine's PATH; launch=submitit_local runs the same"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_left(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from graftlm.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun there
    assert main([*SMOKE, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not list(tmp_path.iterdir())


def test_a_single_run_takes_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graftlm.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=smoke", "launch=joblib"]) == 2
    assert capsys.readouterr().err == "graftlm: launch=joblib: is for sweeps, and this is a single run; add -m\n"


@pytest.mark.parametrize(
    ("choice", "package"),
    [("joblib", "hydra-joblib-launcher"), ("slurm", "'graftlm[slurm]'"), ("ray_cluster", "'graftlm[ray]'")],
)
def test_a_package_that_is_not_installed_is_named(choice: str, package: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, *SMOKE, f"launch={choice}", "launch.address=auto"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    wanted = f"graftlm: launch={choice}: needs a package that is not installed; pip install {package}"
    assert result.stderr.splitlines()[0] == wanted


def test_an_engine_changes_no_key_and_a_worker_elsewhere_finds_the_sweep(tmp_path: Path) -> None:
    (local,) = compose_jobs(Words(("experiment=smoke", "transfer=none")))
    words = ("experiment=smoke", "transfer=none", "launch=joblib", "launch.workers=3", "launch.devices=[4]")
    (spread,) = compose_jobs(Words(words))
    assert "launch" not in outcome(spread.settings)
    prints = Fingerprints()
    assert stage_keys(local.settings, prints) == stage_keys(spread.settings, prints)
    folder = tmp_path / "it's a sweep"
    found = words_for_hydra(spread.settings, folder)
    assert found[1:] == ["hydra.launcher.n_jobs=3"]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(found[0]).value() == str(folder)


def test_a_line_says_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_USABLE", [0, 1, 2, 3])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def line(*words: str) -> str | None:
        (job,) = compose_jobs(Words(("experiment=smoke", "transfer=none", "trainer=cpu", *words)))
        return what_to_expect(job.settings, Path("sweep"))

    assert line() is None
    assert line("launch=joblib") == "2 jobs at a time, each with 2 of 4 cores of its own"
    assert line("launch=joblib", "launch.workers=9", "launch.cores=2") == (
        "9 jobs at a time, each with 2 of 4 cores of its own; only 2 fit at once, the others wait"
    )
    assert line("launch=joblib", "launch.gpus=1", "launch.devices=[0,1]", "launch.workers=4") == (
        "4 jobs at a time, each with 1 of 2 GPUs of its own; only 2 fit at once, the others wait"
    )
    assert line("launch=joblib", "launch.lease=false") == "2 jobs at a time, which share this machine"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trainer.devices=2",), None),
        (("trainer.devices=3",), "trainer.devices=3: there are 2 GPUs for it; lower it, or take trainer=cpu"),
        (("launch=joblib", "launch.devices=[0]", "trainer=gpu", "trainer.devices=2"), "there is one GPU for it"),
        (("launch=joblib", "launch.gpus=1", "trainer=gpu", "trainer.devices=2"), "a job gets launch.gpus=1; lower it"),
        (("launch=slurm", "launch.gpus=1", "trainer=gpu", "trainer.devices=4"), "or set launch.gpus=4"),
        # what another machine has is not known here
        (("launch=slurm", "launch.gpus=4", "trainer=gpu", "trainer.devices=4"), None),
        (("trainer=cpu", "trainer.devices=9"), None),  # processes, as many as one likes
        (("trainer.accelerator=mps", "trainer.devices=2"), "trainer.devices=2: mps is one device"),
    ],
)
def test_fewer_gpus_than_the_trainer_takes_are_told_beforehand(
    words: tuple[str, ...], told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, lines in (("nvidia-smi", "echo 'GPU 0: one'; echo 'GPU 1: another'"), ("srun", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    leases.driver_gpus.cache_clear()
    try:
        command = ("experiment=smoke", "transfer=none", *words)
        if told is None:
            check_launch(compose_jobs(Words(command, multirun=True)), multirun=True)
            return
        with pytest.raises(SettingsError) as raised:
            check_launch(compose_jobs(Words(command, multirun=True)), multirun=True)
        assert told in str(raised.value)
    finally:
        leases.driver_gpus.cache_clear()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_sweep_of_workers_is_left_to_them_and_a_second_ends_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    (job,) = compose_jobs(Words(("experiment=smoke", "transfer=none", "launch=joblib")))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted, match=number.name), stopping(job.settings, tmp_path):  # noqa: PT012
            os.kill(os.getpid(), number)  # the block goes on to its end, as the launcher does
            assert stopped(tmp_path)
        with pytest.raises(Interrupted, match="SIGTERM"), stopping(job.settings, tmp_path):  # noqa: PT012
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it went on")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    finally:
        signal.signal(signal.SIGINT, handler)


def test_sigterm_to_a_sweep_on_slurm_ends_it_at_once(tmp_path: Path) -> None:
    (job,) = compose_jobs(Words(("experiment=smoke", "transfer=none", "launch=slurm")))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), stopping(job.settings, tmp_path):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stopped(tmp_path)


def test_a_cluster_needs_its_address() -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'graftlm[ray]'")
    with pytest.raises(SettingsError, match=r"launch\.address=null: does not say which cluster"):
        compose_jobs(Words(("experiment=smoke", "launch=ray_cluster")))
    with pytest.raises(SettingsError, match=r"launch\.workers=2: Ray runs as many"):
        compose_jobs(Words(("experiment=smoke", "launch=ray", "launch.workers=2")))
