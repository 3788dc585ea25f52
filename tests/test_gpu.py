"""The path on a GPU. Skipped where there is none: nothing here has been seen to pass yet (see the README)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graftlm.cli import main


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_smoke_on_two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=smoke", "transfer=calibrated", f"trainer={trainer}", "trainer.devices=2"]) == 0
    (record,) = tmp_path.glob("multirun/*/job.json")
    assert json.loads(record.read_text())["status"] == "done"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_smoke_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=smoke", "transfer=calibrated", "trainer=gpu"]) == 0
    (record,) = tmp_path.glob("multirun/*/job.json")
    assert json.loads(record.read_text())["status"] == "done"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "mode", ["trainer.compile=true", "trainer.checkpointing=true", "trainer.accumulate=2", "trainer.profile=3"]
)
def test_modes_of_training_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=smoke", "transfer=calibrated", "trainer=gpu", mode]) == 0
    (record,) = tmp_path.glob("multirun/*/job.json")
    assert json.loads(record.read_text())["status"] == "done"
