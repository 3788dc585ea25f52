"""The loss of a trimmed model over the whole vocabulary is that of the model it grows back into."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from graftlm.data.corpus import Corpus, write_corpus
from graftlm.data.modules import MlmDataModule, Seq2SeqDataModule
from graftlm.models import full_loss
from graftlm.models.build import build_donor, build_host, load_model, model_class
from graftlm.models.full_loss import CutRows, is_chosen
from graftlm.models.loss import mlm_logits, seq2seq_loss
from graftlm.models.mlm import MlmModule
from graftlm.models.seq2seq import Seq2SeqModule
from graftlm.models.trim import expand
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings, TransferSettings


@pytest.fixture
def settings(
    _donor: Any, _host: Any, donor_tokenizer: Any, host_tokenizer: Any, model_settings: Any, tmp_path: Path
) -> Any:
    """Checkpoints with a bias, of which a corpus uses a part."""
    places = {}
    for role, model, tokenizer in (("donor", _donor, donor_tokenizer), ("host", _host, host_tokenizer)):
        model = copy.deepcopy(model)
        with torch.no_grad():
            (model.lm_head.bias if role == "donor" else model.final_logits_bias).normal_()
        model.save_pretrained(tmp_path / role)
        tokenizer.save_pretrained(tmp_path / role)
        places[role] = str(tmp_path / role)
    return dataclasses.replace(
        model_settings,
        vocab_size=None,
        trim=5,
        donor=dataclasses.replace(model_settings.donor, checkpoint=places["donor"]),
        host=dataclasses.replace(model_settings.host, checkpoint=places["host"]),
    )


@pytest.fixture
def corpus(settings: Any, few_rows: Any, tmp_path: Path) -> Corpus:
    everything = dataclasses.replace(
        few_rows,
        pairs=dict.fromkeys(("train", "validation", "test"), few_rows.pairs["train"]),
        texts=dict.fromkeys(("train", "validation"), few_rows.texts["train"]),
    )
    write_corpus(everything, settings, tmp_path / "corpus")
    return Corpus(tmp_path / "corpus")


def trained(model: Any) -> Any:
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def validate(module: Any, data: Any) -> dict[str, float]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet)
    (figures,) = trainer.validate(module, datamodule=data, verbose=False)
    return dict(figures)


@pytest.mark.parametrize("weights", ["model.safetensors", "none of that name"])
@pytest.mark.parametrize("role", ["donor", "host"])
def test_loss_over_the_whole_vocabulary(
    role: str, weights: str, settings: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_loss, "_ROWS", 37)  # several blocks of this small vocabulary
    monkeypatch.setattr(full_loss, "PLACES", 10_000)  # all places, so that the figure is exact
    if weights != "model.safetensors":
        monkeypatch.setattr(full_loss, "_NAMES", {role: ((), ())})
    trainer = TrainerSettings(accelerator="cpu", devices=1)
    donor = build_donor(settings, corpus.donor_tokenizer, corpus.donor_rows)
    if role == "donor":
        model = trained(donor)
        pretrain = PretrainSettings(max_steps=1, batch_tokens=64, max_length=24)
        data: Any = MlmDataModule(corpus, pretrain, MaskSettings(name="m"), trainer)
        module: Any = MlmModule(model, pretrain, MaskSettings(name="m"))
        kind, rows = "xlm-roberta", corpus.donor_rows
    else:
        model = trained(build_host(settings, corpus.host_tokenizer, donor.config, corpus.host_rows))
        finetune = FinetuneSettings(
            max_steps=1, batch_tokens=200, max_source_length=64, max_target_length=32, val_pairs=4, generate_pairs=0
        )
        data = Seq2SeqDataModule(corpus, finetune, trainer)
        module = Seq2SeqModule(model, corpus.host_tokenizer, finetune, TransferSettings(name="t"))
        kind, rows = "mbart", corpus.host_rows
    assert rows is not None
    assert CutRows.of(getattr(settings, role), role, kind, None) is None
    assert "val/loss_full" not in validate(module, data)
    module.cut = CutRows.of(getattr(settings, role), role, kind, rows)
    figures = validate(module, data)

    place = getattr(settings, role).checkpoint
    grown = expand(model, load_model(model_class(kind), place, None, kind, "x"), rows).eval()
    index = torch.as_tensor(np.concatenate([rows, [-100]]))  # -1 and -100 are to stay what they are
    losses, counts = [], []
    for number in range(data.val_batches):
        batch = {k: v for k, v in data.val_batch(number).items() if isinstance(v, torch.Tensor)}
        batch["labels"] = torch.where(batch["labels"] < 0, -100, index[batch["labels"].clamp(min=-1)])
        for name in ("input_ids", "decoder_input_ids"):
            if name in batch:
                batch[name] = index[batch[name]]
        with torch.no_grad():
            one = F.cross_entropy(mlm_logits(grown, batch), batch["labels"]) if role == "donor" else None
            losses.append(float(seq2seq_loss(grown, batch) if one is None else one))
        counts.append(int((batch["labels"] >= 0).sum()))
    wanted = float(np.average(losses, weights=counts))
    assert figures["val/loss_full"] == pytest.approx(wanted, rel=1e-5)
    assert figures["val/loss_full"] > figures["val/loss"] + 0.01


def test_batches_are_spread_over_a_validation() -> None:
    for batches in (1, 5, 8, 9, 40, 101):
        chosen = [number for number in range(batches) if is_chosen(number, batches)]
        assert len(chosen) == min(batches, full_loss.BATCHES)
        assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True
