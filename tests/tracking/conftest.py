"""Stages that train nothing but leave real files, and W&B's own reader of what it wrote offline."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftlm.context import Labels, StageContext
from graftlm.data.settings import DataSettings
from graftlm.running import LoggerSettings
from graftlm.schema import MaskSettings, Settings, TransferSettings
from said import Said

# sweeps of a known truth, which the tests of reports make
_spec = importlib.util.spec_from_file_location("report_fixtures", Path(__file__).parents[1] / "report" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_reports = sys.modules["report_fixtures"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_reports)
fake_sweep, fake_arm = _reports.fake_sweep, _reports.fake_arm

KEYS = {
    stage: f"{place:020x}" for place, stage in enumerate(("corpus", "pretrain", "graft", "finetune", "evaluate"), 10)
}
HOSTILE = (
    "<script>alert(1)</script>",
    "quotes \" ' ` and | pipes \\ \n\n# newline",
    "x" * 100_000,
    "\u202eשלום עולם\u202c",
    "emoji 👩‍👩‍👧 \x00 \ud800",
    '=HYPERLINK("http://x")',
    "100% of {braces} & $dollars_ ~^",
)


@pytest.fixture
def hostile() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture
def stage_context(tmp_path: Path, model_settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StageContext]:
    """The context of a stage in a store that holds what is before it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))  # so that no other test's folder is kept in it

    def made(stage: str, inputs: tuple[str, ...] = (), **logger: Any) -> StageContext:
        store = tmp_path / "store"
        for name in inputs:
            _fill(store / name / KEYS[name], name)
        work = store / stage / f"{KEYS[stage]}.partial"
        work.mkdir(parents=True)
        settings = Settings(
            model=model_settings,
            data=DataSettings(name="files", kind="files"),
            mask=MaskSettings(),
            transfer=TransferSettings("mine", steps=[{"step": "embeddings"}]),
            logger=LoggerSettings(dir=str(tmp_path / "logs"), **logger),
        )
        folders = {name: store / name / KEYS[name] for name in inputs}
        labels = Labels("sweep-1", "0", {"transfer": "mine", "mask": "r15"})
        return StageContext(settings, folders, work, Said(), labels)

    return made


def _fill(folder: Path, stage: str) -> None:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    before = {"graft": ("corpus", "pretrain"), "finetune": ("corpus", "graft")}
    inputs = {name: KEYS[name] for name in before.get(stage, ())}
    transfer = {"counts": {"donor": {"used": 3}}}
    for name, value in {
        "artifact.json": {"inputs": inputs},
        "summary.json": {"pairs": {"train": {"count": 7}}},
        "cost.json": {"flops": {"pretrain": 1000, "graft": 500, "finetune": 20_000}.get(stage, 0), "seconds": 2.0},
        "transfer.json": transfer,
        "model/config.json": {"d_model": 32},
    }.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "metrics.jsonl").write_text('{"step": 1, "val/loss": 2.0}\n')


@pytest.fixture
def fill() -> Callable[[Path, str], None]:
    return _fill


@pytest.fixture
def read_wandb() -> Callable[[Path], list[list[dict[str, Any]]]]:
    """The records of each offline run below a folder, in their order, as W&B's own reader tells them."""

    def read(folder: Path) -> list[list[dict[str, Any]]]:
        files = sorted(folder.rglob("offline-run-*/run-*.wandb"))
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
        environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
        told = [
            subprocess.run([*command, str(path)], capture_output=True, text=True, check=True, env=environment).stdout
            for path in files
        ]
        return [[json.loads(line) for line in text.splitlines()] for text in told]

    return read
