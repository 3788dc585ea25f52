"""A graft that trains is ended by signals and kills, and goes on to the bits of one that nothing disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graftlm import interrupt
from graftlm.context import Labels, StageContext
from graftlm.data.corpus import write_corpus
from graftlm.data.settings import DataSettings
from graftlm.interrupt import Interrupted
from graftlm.running import LoggerSettings, TrainerSettings
from graftlm.schema import MaskSettings, Settings, TransferSettings
from graftlm.stages import graft as stage
from graftlm.store import SCRATCH
from graftlm.transfer import halfway

STEPS = [
    {"step": "embeddings"},
    {"step": "encoder", "tokens": 2000},
    {"step": "distill", "steps": 5, "noise": 0.1},
    {"step": "denoise", "steps": 5, "encoder_lr": 0.5, "max_length": 32, "batch_tokens": 400},
]


class Display:
    """Does something after so many units of a task; keeps what is said and how many units tasks were given."""

    def __init__(self, label: str = "", at: int = 0, act: Callable[[], None] | None = None):
        self.label, self.at, self.act = label, at, act
        self.lines: list[str] = []
        self.units: dict[str, int] = {}

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        def advance(units: int) -> None:
            self.units[label] = self.units.get(label, 0) + units
            if self.act and label.startswith(self.label) and self.units[label] == self.at:
                self.act()

        yield advance

    def say(self, line: str) -> None:
        self.lines.append(line)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def killed() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, divided: Any, model_settings: Any, _donor: Any, donor_tokenizer: Any
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("halfway")
    write_corpus(divided, model_settings, folder / "corpus")
    _donor.save_pretrained(folder / "pretrain" / "model")
    donor_tokenizer.save_pretrained(folder / "pretrain" / "model")
    return {name: folder / name for name in ("corpus", "pretrain")}


@pytest.fixture(scope="module")
def run(inputs: dict[str, Path], model_settings: Any) -> Callable[..., Path]:
    chosen = Settings(
        model=model_settings,
        data=DataSettings(name="files", kind="files"),
        mask=MaskSettings(),
        transfer=TransferSettings("mine", steps=STEPS, fidelity_texts=5, control=True),
        trainer=TrainerSettings(accelerator="cpu", threads=1),
        logger=LoggerSettings(kind="none"),
    )

    def once(work: Path, display: Display | None = None) -> Path:
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(random.randrange(10**6))  # whatever a new process has drawn before
        with interrupt.handled():
            stage.run(StageContext(chosen, inputs, work, display or Display(), Labels("s", "j", {})))
        return work

    return once


@pytest.fixture(scope="module")
def calm(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("calm"))


def same(one: Path, other: Path) -> None:
    for path in (one / "model").iterdir():
        assert path.read_bytes() == (other / "model" / path.name).read_bytes(), path.name
    reports = [_timeless(json.loads((work / "transfer.json").read_text(encoding="utf-8"))) for work in (one, other)]
    assert reports[0] == reports[1]
    assert reports[0]["flops"] > 0


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name != "seconds"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def test_signals_keep_what_was_trained(run: Any, calm: Path, tmp_path: Path) -> None:
    """In the distillation, at its end, and in the denoising behind it, which does not distil again."""
    places = [("distilling", 2), ("distilling", 5), ("denoising", 1), ("denoising", 4)]
    for label, at in places:
        with pytest.raises(Interrupted) as stopped:
            run(tmp_path, Display(label, at, terminate))
        assert stopped.value.code == 143
        assert not (tmp_path / "transfer.json").exists()
    kept = torch.load(tmp_path / SCRATCH / "denoise.pt", weights_only=True)
    assert kept["done"] == 4
    display = Display()
    same(run(tmp_path, display), calm)
    assert display.lines[:2] == ["distill: going on from step 5", "denoise: going on from step 4"]
    report = json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8"))
    steps = {item["step"]: item["seconds"] for item in report["steps"]}
    assert steps["denoise"] > kept["seconds"], "earlier attempts count"
    assert report["seconds"] > steps["distill"] + steps["denoise"]


def test_a_kill_loses_what_came_after_the_last_file(
    run: Any, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halfway, "EVERY", 0.0)
    for label, at in (("distilling", 3), ("denoising", 3)):
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path, Display(label, at, killed))
    assert torch.load(tmp_path / SCRATCH / "denoise.pt", weights_only=True)["done"] == 2
    same(run(tmp_path), calm)


def test_a_file_that_cannot_be_used_is_left_out(run: Any, calm: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, Display("denoising", 2, terminate))
    os.truncate(tmp_path / SCRATCH / "denoise.pt", 1000)
    display = Display()
    same(run(tmp_path, display), calm)
    assert "denoise.pt: cannot be used and is left out" in display.lines[1]


def test_a_signal_that_a_finaliser_swallowed_ends_a_training_that_keeps_nothing() -> None:
    """As of `graftlm transfer`: a handler has raised, Python has dropped it, and no other signal is to be hoped for."""
    nothing = SimpleNamespace(scratch=None)
    with pytest.raises(Interrupted), interrupt.handled(), halfway.halfway(nothing) as kept:  # noqa: PT012 - as signals come
        with contextlib.suppress(Interrupted):
            terminate()
        kept.after(1, dict)
        raise AssertionError("went on")
