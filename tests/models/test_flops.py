from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graftlm.data.modules import MlmDataModule, Seq2SeqDataModule
from graftlm.models.build import build_host
from graftlm.models.flops import mlm_flops, seq2seq_flops
from graftlm.models.loss import mlm_loss, seq2seq_loss
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings

# the matrix products of linear layers; attention scores are left out on both sides
LINEAR = (torch.ops.aten.mm, torch.ops.aten.addmm)


def counted(loss: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if op in LINEAR)


def test_mlm_step_is_what_torch_counts(corpus: Any, donor: Any) -> None:
    settings = PretrainSettings(batch_tokens=400, max_length=32)
    batch = MlmDataModule(corpus, settings, MaskSettings(name="r15"), TrainerSettings()).train_batch(3)
    assert mlm_flops(donor, batch) == pytest.approx(counted(lambda: mlm_loss(donor, batch)), rel=0.01)


@pytest.mark.parametrize("architecture", ["mbart", "bart"])
@pytest.mark.parametrize("frozen", ["nothing", "encoder", "encoder and embeddings"])
def test_seq2seq_step_is_what_torch_counts(
    corpus: Any, model_settings: Any, donor: Any, architecture: str, frozen: str
) -> None:
    shape = dataclasses.replace(model_settings.host, architecture=architecture)
    host = build_host(dataclasses.replace(model_settings, host=shape), corpus.host_tokenizer, donor.config)
    settings = FinetuneSettings(batch_tokens=400, max_source_length=32, max_target_length=16)
    batch = Seq2SeqDataModule(corpus, settings, TrainerSettings()).train_batch(3)
    if frozen != "nothing":
        host.model.encoder.requires_grad_(False)
        host.model.shared.weight.requires_grad_("embeddings" not in frozen)
    assert seq2seq_flops(host, batch) == pytest.approx(counted(lambda: seq2seq_loss(host, batch)), rel=0.03)
