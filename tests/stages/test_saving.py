"""A signal saves first, wherever it comes; what goes on from there ends with the bits of a run never disturbed."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from graftlm import interrupt
from graftlm.context import Labels, StageContext
from graftlm.data.corpus import write_corpus
from graftlm.data.settings import DataSettings
from graftlm.interrupt import Interrupted
from graftlm.models.base import StageModule
from graftlm.running import LoggerSettings, TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings, Settings, TransferSettings
from graftlm.stages import finetune, graft, pretrain
from graftlm.stages.saving import CHECKPOINT, Course
from graftlm.tracking import METRICS
from graftlm.transfer import handover
from said import Said

STAGES = {"pretrain": pretrain, "finetune": finetune}
Act = Callable[[], None]


def settings(model: Any, precision: str = "32-true", accumulate: int = 2, workers: int = 2) -> Settings:
    return Settings(
        model=model,
        data=DataSettings(name="files", kind="files"),
        mask=MaskSettings(ratio=0.3, final_ratio=0.15),
        transfer=TransferSettings("mine", steps=[{"step": "embeddings"}], fidelity_texts=5, freeze_encoder=0.4),
        pretrain=PretrainSettings(max_steps=11, batch_tokens=600, max_length=32, lr=1e-2, val_interval=4, val_texts=60,
                                  checkpoint_interval=100),
        finetune=FinetuneSettings(max_steps=11, batch_tokens=600, max_source_length=64, max_target_length=64, lr=1e-2,
                                  val_interval=8, val_pairs=20, generate_pairs=2, checkpoint_interval=100),
        trainer=TrainerSettings(accelerator="cpu", threads=1, precision=precision, accumulate=accumulate,
                                num_workers=workers),
        logger=LoggerSettings(kind="none"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, divided: Any, model_settings: Any, _donor: Any, donor_tokenizer: Any
):
    folder = tmp_path_factory.mktemp("saving")
    write_corpus(divided, model_settings, folder / "corpus")
    _donor.save_pretrained(folder / "pretrain" / "model")
    donor_tokenizer.save_pretrained(folder / "pretrain" / "model")
    (folder / "graft").mkdir()
    inputs = {"corpus": folder / "corpus", "pretrain": folder / "pretrain"}
    graft.run(StageContext(settings(model_settings), inputs, folder / "graft", Said(), Labels("s", "j", {})))
    return folder


@pytest.fixture(scope="module")
def undisturbed(place: Path, model_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of runs that nothing disturbs, each made once."""

    @functools.cache
    def made(stage: str, precision: str = "32-true") -> Path:
        return run(stage, settings(model_settings, precision, workers=0), place, tmp_path_factory.mktemp(stage))

    return made


def run(stage: str, chosen: Settings, place: Path, work: Path, said: Said | None = None) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    # whatever a new process has drawn before
    torch.manual_seed(random.randrange(10**6))
    random.seed()
    np.random.seed()
    inputs = {"corpus": place / "corpus", "graft": place / "graft"}
    with interrupt.handled():
        STAGES[stage].run(StageContext(chosen, inputs, work, said or Said(), Labels("s", "j", {})))
    return work


def at_batch(patch: pytest.MonkeyPatch, number: int, act: Act) -> None:
    """Do something while a micro-batch is under way."""
    start = StageModule.on_train_batch_start

    def begin(module: Any, batch: Any, index: int) -> None:
        start(module, batch, index)
        if int(batch["number"]) == number:
            act()

    patch.setattr(StageModule, "on_train_batch_start", begin)


def at_validation(patch: pytest.MonkeyPatch, step: int, act: Act) -> None:
    """Do something after the first batch of the validation of a step."""
    start = Course.on_validation_batch_start

    def begin(course: Any, trainer: Any, module: Any, batch: Any, index: int, *rest: Any) -> None:
        if trainer.global_step == step and index == 1:
            act()
        start(course, trainer, module, batch, index, *rest)

    patch.setattr(Course, "on_validation_batch_start", begin)


def terminate() -> None:
    """As to a whole process group: to the loaders' workers too."""
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def outcome(work: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, Any]]:
    """Weights and tokenizer, metrics without the time, the cost without the time."""
    model = {path.name: path.read_bytes() for path in sorted((work / "model").iterdir())}
    lines = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    cost = json.loads((work / "cost.json").read_text())
    return model, lines, {name: value for name, value in cost.items() if "seconds" not in name}


def same(one: Path, other: Path) -> None:
    (model, lines, cost), (model_, lines_, cost_) = outcome(one), outcome(other)
    assert lines == lines_
    assert cost == cost_
    assert model.keys() == model_.keys()
    assert [name for name in model if model[name] != model_[name]] == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_terminated_run_goes_on_with_the_same_bits(
    stage: str,
    precision: str,
    place: Path,
    model_settings: Any,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With accumulated gradients, workers and dropout: in the midst of a step, at its end, in validations."""
    chosen = settings(model_settings, precision)
    disturbed, said = tmp_path / "disturbed", Said()
    places = [(at_batch, 4, 3), (at_batch, 7, 4), (at_validation, 8, 8), (at_batch, 20, 11)]
    for where, number, step in places:
        with monkeypatch.context() as patch:
            where(patch, number, terminate)
            with pytest.raises(Interrupted) as stopped:
                run(stage, chosen, place, disturbed, said)
        assert stopped.value.code == 143
        assert torch.load(disturbed / CHECKPOINT, weights_only=True)["global_step"] == step
        assert not (disturbed / "model").exists()
    run(stage, chosen, place, disturbed, said)
    assert [line.rsplit(" ", 1)[-1] for line in said.lines if "going on from step" in line] == ["3", "4", "8", "11"]
    same(disturbed, undisturbed(stage, precision))


def test_the_loss_scaler_goes_on_too(
    place: Path, model_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16-mixed, which Lightning turns into bf16-mixed on a processor: here it is handed in ready-made."""
    scalers: list[Any] = []
    trainer = pl.Trainer

    def mixed(*arguments: Any, **options: Any) -> pl.Trainer:
        scalers.append(torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3))
        precision = pl.plugins.MixedPrecision("16-mixed", "cpu", scalers[-1])
        return trainer(*arguments, **{**options, "precision": None, "plugins": [*options["plugins"], precision]})

    monkeypatch.setattr(pl, "Trainer", mixed)
    chosen = settings(model_settings, workers=0)
    calm = run("pretrain", chosen, place, tmp_path / "calm")
    with monkeypatch.context() as patch:
        at_batch(patch, 9, terminate)
        with pytest.raises(Interrupted):
            run("pretrain", chosen, place, tmp_path / "disturbed")
    same(run("pretrain", chosen, place, tmp_path / "disturbed"), calm)
    undisturbed, stopped, resumed = (scaler.state_dict() for scaler in scalers)
    assert (stopped["scale"], stopped["_growth_tracker"]) == (16.0, 2), "five steps"
    assert resumed == undisturbed
    assert (resumed["scale"], resumed["_growth_tracker"]) == (64.0, 2), "eleven"


def test_before_the_first_step_the_graft_is_kept(
    place: Path, model_settings: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(model_settings, workers=0)
    with monkeypatch.context() as patch:
        at_validation(patch, 0, terminate)
        with pytest.raises(Interrupted):
            run("finetune", chosen, place, tmp_path / "disturbed")
    undisturbed("finetune")  # made before nothing may graft any more

    def load(host: Any, folder: Path, values: bool = True, real: Any = handover.load) -> None:
        assert not values, "the checkpoint brings them"
        real(host, folder, values)

    monkeypatch.setattr(handover, "load", load)
    same(run("finetune", chosen, place, tmp_path / "disturbed"), undisturbed("finetune"))


def test_the_last_validation_is_not_given_up(
    place: Path, model_settings: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained after it, so no later run would make it."""
    chosen = settings(model_settings, workers=0)
    with monkeypatch.context() as patch:
        at_validation(patch, 11, terminate)
        with pytest.raises(Interrupted):
            run("pretrain", chosen, place, tmp_path / "disturbed")
    same(run("pretrain", chosen, place, tmp_path / "disturbed"), undisturbed("pretrain"))


def test_a_kill_between_a_checkpoint_and_what_follows_loses_no_line(
    place: Path, model_settings: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of a step stands before its checkpoint; lines after it, torn ones too, are dropped and made again."""
    chosen = settings(model_settings, workers=0)
    for step in (4, 8, 11):
        work = tmp_path / f"disturbed{step}"

        def save(course: Course, trainer: Any, step: int = step, real: Any = Course.save) -> None:
            real(course, trainer)
            if trainer.global_step == step:
                raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(Course, "save", save)
            patch.setattr(Course, "on_train_batch_end", saving_each_step(Course.on_train_batch_end))
            with pytest.raises(RuntimeError, match="killed"):
                run("pretrain", chosen, place, work)
        with (work / METRICS).open("a") as handle:
            handle.write('{"step": 9, "examples": 3, "val/loss": 1.0}\n{"step": 9, "ex')
        same(run("pretrain", chosen, place, work), undisturbed("pretrain"))


def saving_each_step(real: Any) -> Any:
    def end(course: Any, *rest: Any) -> None:
        course._save_every = 1
        real(course, *rest)

    return end


def test_a_checkpoint_that_cannot_be_used_is_said_to_be_so(
    place: Path, model_settings: Any, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(model_settings, workers=0)
    for hurt in ("checkpoint", "metrics"):
        work, said = tmp_path / hurt, Said()
        with monkeypatch.context() as patch:
            at_batch(patch, 9, terminate)
            with pytest.raises(Interrupted):
                run("pretrain", chosen, place, work)
        if hurt == "checkpoint":
            os.truncate(work / CHECKPOINT, 1000)
        else:
            (work / METRICS).write_text("")
        same(run("pretrain", chosen, place, work, said), undisturbed("pretrain"))
        assert any("cannot be used" in line for line in said.lines)


def test_a_second_interrupt_ends_at_once(
    place: Path, model_settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
    try:
        at_batch(monkeypatch, 4, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])  # type: ignore[arg-type]
        with pytest.raises(Interrupted) as stopped:
            run("pretrain", settings(model_settings), place, tmp_path / "work")
        assert stopped.value.code == 130
        assert not (tmp_path / "work" / CHECKPOINT).exists()
        assert "Ctrl-C again ends at once" in capfd.readouterr().err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
