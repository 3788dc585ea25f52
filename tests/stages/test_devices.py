"""Several devices: two processes on the CPU (gloo) do the steps that one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import warm
from graftlm.tracking import read_metrics

SMOKE = ("experiment=smoke", "model.donor.dropout=0", "model.host.dropout=0", "trainer=cpu")


def graftlm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graftlm", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def curve(store: Path, stage: str) -> list[dict[str, Any]]:
    """Metrics by step of the one artifact of a stage in a store."""
    (path,) = store.glob(f"{stage}/*/metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(path)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `store1` and `store2`: the same job on one device and on two."""
    folder = tmp_path_factory.mktemp("devices")
    for devices, command in ((1, warm.graftlm), (2, graftlm)):
        words = ("transfer=calibrated", "trainer.accumulate=2", f"trainer.devices={devices}")
        result = command(folder, "run", "-m", *SMOKE, *words, f"store.dir=store{devices}")
        assert result.returncode == 0, result.stderr
        assert "Warning" not in result.stderr
    return folder


def test_two_devices_do_the_steps_of_one_in_a_sweep_too(trained: Path) -> None:
    """Without dropout all is equal but the order of sums; a part of the host is frozen at first."""
    for stage in ("pretrain", "finetune"):
        one, two = curve(trained / "store1", stage), curve(trained / "store2", stage)
        assert [set(line) for line in two] == [set(line) for line in one]
        for ours, theirs in zip(two, one, strict=True):
            # an argmax or an exponential of nearly equal figures may differ more
            for name in sorted(set(theirs) - {"val/chrf", "val/accuracy", "val/perplexity", "flops"}):
                assert ours[name] == pytest.approx(theirs[name], rel=2e-4, abs=2e-4), (stage, name, theirs["step"])
            # each device pads its own share of the rows, so there is a little less padding
            assert 0.95 * theirs["flops"] <= ours["flops"] <= theirs["flops"]
    costs = [json.loads(next((trained / f"store{n}").glob("pretrain/*/cost.json")).read_text()) for n in (1, 2)]
    for name in ("steps", "examples", "tokens"):
        assert costs[0][name] == costs[1][name]
    keys = [{path.name for path in (trained / f"store{n}").glob("*/*") if path.is_dir()} for n in (1, 2)]
    assert keys[0] == keys[1]
    grafts = [next((trained / f"store{n}").glob("graft/*/model/model.safetensors")) for n in (1, 2)]
    assert all(path.stat().st_size for path in grafts)
    assert not list(trained.glob("store2/*/*/scratch"))


def test_the_agents_signal_handlers_are_not_left_behind() -> None:
    from graftlm.stages.devices import _signals_restored

    names = ("SIGTERM", "SIGUSR1", "SIGUSR2")
    before = [signal.getsignal(getattr(signal, name)) for name in ("SIGINT", *names)]
    with _signals_restored(names):
        for name in ("SIGINT", *names):
            signal.signal(getattr(signal, name), lambda signum, frame: None)
    assert [signal.getsignal(getattr(signal, name)) for name in ("SIGINT", *names)] == before


def test_an_error_of_one_process_ends_all_and_is_told_as_on_one_device(trained: Path, tmp_path: Path) -> None:
    """Weights that are no numbers, in a format of which no check looks at the values beforehand."""
    import torch
    from safetensors.torch import load_file

    donor = shutil.copytree(next(trained.glob("store1/pretrain/*/model")), tmp_path / "donor")
    tensors = load_file(donor / "model.safetensors")
    tensors["roberta.embeddings.word_embeddings.weight"][7, 3] = float("nan")
    (donor / "model.safetensors").unlink()
    torch.save(tensors, donor / "pytorch_model.bin")
    result = warm.graftlm(
        tmp_path, "run", *SMOKE, "model.vocab_size=null", f"model.donor.checkpoint={donor}", "pretrain.max_steps=2",
        "transfer=embeddings", "trainer.devices=2",
    )  # fmt: skip
    assert result.returncode == 1
    assert "failed (pretrain.lr=0.005: the validation loss of step 0 is nan" in result.stderr
    assert len(list(tmp_path.glob("multirun/store/pretrain/*.partial/scratch/error.?.json"))) >= 1
    assert "Traceback" not in result.stderr


def test_an_interrupt_or_a_kill_ends_all_processes_and_the_run_goes_on(tmp_path: Path) -> None:
    """After the kill on two devices again, after the interrupt on one."""
    words = (*SMOKE, "transfer=none", "finetune.max_steps=150", "finetune.checkpoint_interval=10", "trainer.devices=2")
    words += ("store.lease=2",)  # two heartbeats a second
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "graftlm", "run", *words],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 120
        before = _written(tmp_path)
        while _written(tmp_path) == before:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        while not before and _told(tmp_path) == ("", 0):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=200)  # ends only once no process holds standard error
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert "Traceback" not in said
        assert ("going on from step" in said) == bool(before)
    result = warm.graftlm(tmp_path, "run", *words, "trainer.devices=1")
    assert result.returncode == 0, result.stderr
    assert "going on from step" in result.stderr
    steps = [line["step"] for line in curve(tmp_path / "multirun" / "store", "finetune") if "val/loss" in line]
    assert steps == sorted(set(steps))
    assert steps[-1] == 150


def _told(folder: Path) -> tuple[str, int]:
    """What the holder tells those who wait: the stage under way, and its steps."""
    (path,) = folder.glob("multirun/store/finetune/*.holder")
    beat = json.loads(path.read_text())
    return beat["label"], beat["done"]


def _written(folder: Path) -> float:
    paths = list(folder.glob("multirun/store/finetune/*.partial/scratch/last.ckpt"))
    return paths[0].stat().st_mtime if paths else 0.0
