"""Both modules under a real Trainer: they learn, and a stopped run ends with the very weights of one that was not."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from graftlm.data.modules import MlmDataModule, Seq2SeqDataModule
from graftlm.errors import TrainingError
from graftlm.models.build import build_host
from graftlm.models.mlm import MlmModule
from graftlm.models.seq2seq import Seq2SeqModule
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings, TransferSettings

PRETRAIN = PretrainSettings(
    seed=5, max_steps=60, batch_tokens=1000, max_length=32, lr=1e-2, val_interval=30, val_texts=60
)
FINETUNE = FinetuneSettings(
    seed=5,
    max_steps=60,
    batch_tokens=1000,
    max_source_length=64,
    max_target_length=64,
    lr=1e-2,
    val_interval=30,
    val_pairs=30,
    generate_pairs=4,
)
STAGED = TransferSettings(name="t", encoder_lr=0.5, freeze_encoder=0.4)


class Record(pl.Callback):
    """Keeps what was logged, and can stop as a kill would."""

    def __init__(self, stop: int | None = None):
        self.stop = stop
        self.train: list[float] = []
        self.val: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.train.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.val.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})

    def on_train_batch_start(self, trainer: Any, module: Any, *rest: Any) -> None:
        if self.stop is not None and trainer.global_step == self.stop:
            raise KeyboardInterrupt


def make(
    kind: str, corpus: Any, donor: Any, host: Any, steps: int, accumulate: int = 1, workers: int = 0
) -> tuple[Any, Any]:
    trainer = TrainerSettings(accelerator="cpu", devices=1, accumulate=accumulate, num_workers=workers)
    if kind == "mlm":
        mask = MaskSettings(name="m", ratio=0.3, final_ratio=0.15)
        settings = dataclasses.replace(PRETRAIN, max_steps=steps)
        return MlmModule(copy.deepcopy(donor), settings, mask), MlmDataModule(corpus, settings, mask, trainer)
    finetune = dataclasses.replace(FINETUNE, max_steps=steps)
    module = Seq2SeqModule(copy.deepcopy(host), corpus.host_tokenizer, finetune, STAGED)
    return module, Seq2SeqDataModule(corpus, finetune, trainer)


def run(
    module: Any,
    data: Any,
    folder: Path,
    record: Any,
    resume: Path | None = None,
    every: int = 0,
    val: int = 10,
    precision: Any = "32-true",
) -> pl.Trainer:
    torch.set_num_threads(1)
    accumulate = data.settings.accumulate
    saver = pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=every, filename="{step}")
    trainer = pl.Trainer(
        max_steps=data.steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        accumulate_grad_batches=accumulate,
        val_check_interval=val * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        precision=precision,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record, *([saver] if every else [])],
        enable_checkpointing=bool(every),
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return trainer


def validate(module: Any, data: Any) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    (figures,) = trainer.validate(module, datamodule=data, verbose=False)
    return dict(figures)


@pytest.mark.parametrize(("kind", "accumulate"), [("mlm", 1), ("seq2seq", 1), ("mlm", 2), ("seq2seq", 3)])
@pytest.mark.filterwarnings("error:.*dataloader is not resumable")
def test_a_killed_run_ends_with_the_same_bits(
    kind: str, accumulate: int, corpus: Any, donor: Any, host: Any, tmp_path: Path
) -> None:
    steps, stop, every = 14, 9, 4
    whole, undisturbed = make(kind, corpus, donor, host, steps, accumulate), Record()
    trainer = run(*whole, tmp_path / "whole", undisturbed, val=5)
    assert trainer.global_step == steps

    killed, before = make(kind, corpus, donor, host, steps, accumulate), Record(stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(*killed, tmp_path / "cut", before, every=every, val=5)
    checkpoint = max((tmp_path / "cut").glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    assert checkpoint.stem == "step=8"

    torch.manual_seed(999)  # whatever the new process drew before
    torch.rand(17)
    resumed, after = make(kind, corpus, donor, host, steps, accumulate), Record()
    trainer = run(*resumed, tmp_path / "resumed", after, resume=checkpoint, val=5)
    assert trainer.global_step == steps
    assert len(after.train) == (steps - 8) * accumulate
    assert after.train == undisturbed.train[8 * accumulate :]
    assert after.val[-1] == undisturbed.val[-1]
    wanted = whole[0].model.state_dict()
    for name, value in resumed[0].model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    assert resumed[0].examples_seen == whole[0].examples_seen > 0
    assert resumed[0].tokens_seen == whole[0].tokens_seen > 0


def test_mlm_learns(corpus: Any, donor: Any, tmp_path: Path) -> None:
    module, data = make("mlm", corpus, donor, None, 150)
    module.model.eval()  # as from_pretrained leaves it
    record = Record()
    first = validate(module, data)
    run(module, data, tmp_path, record, val=20)
    assert module.model.training
    last = record.val[-1]
    assert set(last) == {"val/loss", "val/accuracy", "val/perplexity"}
    assert sum(record.train[-10:]) / 10 < 0.75 * sum(record.train[:5]) / 5
    assert last["val/loss"] < first["val/loss"]
    assert last["val/accuracy"] > first["val/accuracy"]
    assert last["val/perplexity"] == pytest.approx(math.exp(last["val/loss"]), rel=1e-5)


@pytest.mark.parametrize("architecture", ["mbart", "bart"])
def test_seq2seq_learns_and_reports(
    architecture: str, corpus: Any, donor: Any, model_settings: Any, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    shape = dataclasses.replace(model_settings.host, architecture=architecture)
    host = build_host(dataclasses.replace(model_settings, host=shape), corpus.host_tokenizer, donor.config)
    module, data = make("seq2seq", corpus, None, host, 60)
    record = Record()
    first = validate(module, data)
    run(module, data, tmp_path, record, val=20)
    last = record.val[-1]
    assert set(last) == {"val/loss", "val/loss_shuffled", "val/gap", "val/chrf"}
    assert sum(record.train[-10:]) / 10 < 0.8 * sum(record.train[:5]) / 5
    assert last["val/loss"] < first["val/loss"]
    assert last["val/gap"] == pytest.approx(last["val/loss_shuffled"] - last["val/loss"], abs=1e-5)
    assert len(module.samples) == 4
    assert set(module.samples[0]) == {"source", "reference", "prediction", "target_lang"}
    assert module.samples[0]["reference"] in {pair.target for pair in corpus.pairs("validation")}
    assert module.samples[0]["source"] in {pair.source for pair in corpus.pairs("validation")}


@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
def test_dropout_is_at_work_in_training_and_validation_is_weighted_by_tokens(
    kind: str, corpus: Any, donor: Any, host: Any, tmp_path: Path
) -> None:
    figures = {}
    for budget in (200, 5000):
        module, data = make(kind, corpus, donor, host, 2)
        name = "pretrain" if kind == "mlm" else "finetune"
        settings = dataclasses.replace(getattr(data, name), batch_tokens=budget)
        data = (
            MlmDataModule(corpus, settings, data.mask, data.settings)
            if kind == "mlm"
            else Seq2SeqDataModule(corpus, settings, data.settings)
        )
        figures[budget] = validate(module, data)
    gaps = [figure.pop("val/gap", 0.0) for figure in figures.values()]  # a small difference of large figures
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)
    assert figures[200] == pytest.approx(figures[5000], rel=1e-5)

    module, data = make(kind, corpus, donor, host, 2)
    module.model.eval()
    seen: list[bool] = []
    for layer in module.model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.register_forward_hook(lambda layer, given, output: seen.append(layer.training))
    run(module, data, tmp_path, Record(), val=1000)
    assert all(layer.training for layer in module.model.modules())
    assert all(seen)


@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
def test_a_loss_that_is_no_number_stops_the_run(kind: str, corpus: Any, donor: Any, host: Any, tmp_path: Path) -> None:
    module, data = make(kind, corpus, donor, host, 5)
    with torch.no_grad():
        next(module.model.parameters())[5:] = float("nan")
    with pytest.raises(TrainingError, match=r"the loss of step 0 is nan .*lower (pretrain|finetune)\.lr"):
        run(module, data, tmp_path, Record())


def test_data_order_is_the_same_for_every_arm(corpus: Any, donor: Any, host: Any) -> None:
    one = make("seq2seq", corpus, donor, host, 10)[1]
    torch.manual_seed(4)
    two = make("seq2seq", corpus, donor, copy.deepcopy(host), 10)[1]
    for number in range(10):
        assert torch.equal(one.train_batch(number)["input_ids"], two.train_batch(number)["input_ids"])


def test_the_encoder_joins_at_its_step(corpus: Any, host: Any, tmp_path: Path) -> None:
    module, data = make("seq2seq", corpus, None, host, 10)
    watched = module.model.model.encoder.layers[0].fc1.weight
    start = watched.detach().clone()
    moved: list[bool] = []

    class Watch(Record):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            moved.append(not torch.equal(watched, start))

    run(module, data, tmp_path, Watch(), val=1000)
    assert moved == [False] * 4 + [True] * 6


@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
def test_mixed_precision_with_clipping(kind: str, corpus: Any, donor: Any, host: Any, tmp_path: Path) -> None:
    module, data = make(kind, corpus, donor, host, 6)
    record = Record()
    run(module, data, tmp_path, record, val=6, precision="bf16-mixed")
    assert len(record.train) == 6
    assert all(math.isfinite(loss) for loss in record.train)
    assert record.val[-1]["val/loss"] > 0
