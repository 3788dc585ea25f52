from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from graftlm.models.base import StageModule
from graftlm.models.optim import build_optimizer, factor_at, freeze, host_parts, whole
from graftlm.schema import STAGED as STAGED_RATE
from graftlm.schema import FinetuneSettings, OptimSettings, PretrainSettings, TransferSettings

STAGED = TransferSettings(
    name="t",
    encoder_lr=0.1,
    embeddings_lr=0.5,
    cross_attention_lr=2.0,
    freeze_encoder=0.5,
    freeze_embeddings=0.25,
    freeze_decoder=0.1,
)


def test_every_parameter_is_in_one_part(host: Any) -> None:
    parts = {part.name: part for part in host_parts(host, STAGED, 100)}
    names = [name for part in parts.values() for name, _ in part.parameters]
    assert sorted(names) == sorted(name for name, _ in host.named_parameters())
    assert {name for name, _ in parts["embeddings"].parameters} == {
        "model.shared.weight",
        "model.encoder.embed_positions.weight",
    }
    assert all(name.startswith("model.encoder.") for name, _ in parts["encoder"].parameters)
    assert all(".encoder_attn" in name for name, _ in parts["cross_attention"].parameters)
    assert all(name.startswith("model.decoder.layers.") for name, _ in parts["decoder"].parameters)
    assert not any("encoder_attn" in name for name, _ in parts["decoder"].parameters)
    assert {name.split(".")[2] for name, _ in parts["rest"].parameters} == {
        "embed_positions",
        "layernorm_embedding",
        "layer_norm",
    }
    starts = {name: part.start for name, part in parts.items()}
    assert starts == {"rest": 0, "cross_attention": 0, "decoder": 10, "encoder": 50, "embeddings": 25}


def test_lower_layers_get_lower_rates(host: Any) -> None:
    transfer = TransferSettings(name="t", encoder_lr=0.4, encoder_layer_decay=0.5, freeze_encoder=0.5)
    parts = {part.name: part for part in host_parts(host, transfer, 100)}
    assert parts["encoder.1"].factor == pytest.approx(0.4)
    assert parts["encoder.0"].factor == pytest.approx(0.2)
    assert all(part.start == 50 for name, part in parts.items() if name.startswith("encoder."))
    names = [name for part in parts.values() for name, _ in part.parameters]
    assert sorted(names) == sorted(name for name, _ in host.named_parameters())
    assert any("encoder.layer_norm" in name for name, _ in parts["encoder.1"].parameters)
    assert any("layernorm_embedding" in name for name, _ in parts["encoder.0"].parameters)


@pytest.mark.parametrize(
    ("steps", "control", "expected"),
    [
        (["embeddings", "encoder"], False, STAGED_RATE),
        (["embeddings"], False, (1.0, 0.0)),
        (["naive"], True, (1.0, 0.0)),
        ([], False, (1.0, 0.0)),
    ],
)
def test_a_graft_of_layers_is_trained_in_stages_unless_told_otherwise(
    steps: list[str], control: bool, expected: tuple[float, float]
) -> None:
    listed = [{"step": step} for step in steps]
    assert TransferSettings("t", steps=listed, control=control).encoder_rate() == expected
    told = TransferSettings("t", steps=listed, control=control, encoder_lr=0.7, freeze_encoder=0.0)
    assert told.encoder_rate() == (0.7, 0.0)


def test_rates_and_decay_by_group(host: Any) -> None:
    settings = FinetuneSettings(max_steps=100, lr=1e-3, weight_decay=0.02)
    optimizer = build_optimizer(host_parts(host, STAGED, 100), settings)["optimizer"]
    assert optimizer.param_groups[0]["part"] == "rest"
    rates = {group["part"]: group["initial_lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {"rest": 1e-3, "cross_attention": 2e-3, "decoder": 1e-3, "encoder": 1e-4, "embeddings": 5e-4}
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert (parameter.ndim > 1) == (group["weight_decay"] == 0.02)


def test_freezing_follows_the_step(host: Any) -> None:
    parts = host_parts(host, STAGED, 100)
    for step, encoder, embeddings in ((0, False, False), (30, False, True), (60, True, True), (10, False, False)):
        freeze(parts, step)
        for part in parts:
            expected = {"encoder": encoder, "embeddings": embeddings, "decoder": step >= 10}
            wanted = expected.get(part.name, True)
            assert all(parameter.requires_grad == wanted for _, parameter in part.parameters)


def test_an_adapters_frozen_base_stays_frozen(host: Any) -> None:
    host.model.encoder.requires_grad_(False)
    freeze(host_parts(host, TransferSettings(name="t"), 100), 50)
    assert not any(parameter.requires_grad for parameter in host.model.encoder.parameters())
    assert not {name for part in host_parts(host, STAGED, 100) for name, _ in part.parameters if ".encoder." in name}


@pytest.mark.parametrize(
    "transfer", [TransferSettings(name="t", encoder_lr=0), TransferSettings(name="t", freeze_encoder=1)]
)
def test_never_trained(host: Any, transfer: Any) -> None:
    (encoder,) = [part for part in host_parts(host, transfer, 100) if part.name == "encoder"]
    assert encoder.start is None
    freeze([encoder], 10_000)
    assert not any(parameter.requires_grad for _, parameter in encoder.parameters)


def test_schedules() -> None:
    linear = PretrainSettings(max_steps=100, warmup=0.1)
    rates = [factor_at(step, 0, linear) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0
    assert all(a < b for a, b in pairwise(rates[:11]))
    cosine = PretrainSettings(max_steps=100, warmup=0.1, schedule="cosine")
    assert factor_at(55, 0, cosine) == pytest.approx(0.5)
    constant = PretrainSettings(max_steps=100, warmup=0.0, schedule="constant")
    assert {factor_at(step, 0, constant) for step in range(100)} == {1.0}


def test_a_late_part_warms_up_when_it_joins() -> None:
    settings = PretrainSettings(max_steps=100, warmup=0.1)
    late = [factor_at(step, 50, settings) for step in range(100)]
    base = [factor_at(step, 0, settings) for step in range(100)]
    assert set(late[:50]) == {0.0}
    assert 0 < late[50] < 0.2 * base[50]
    assert late[60:] == base[60:]


def test_frozen_parameters_do_not_move(host: Any) -> None:
    settings = FinetuneSettings(max_steps=10, lr=1e-2)
    parts = host_parts(host, TransferSettings(name="t", freeze_encoder=0.5, freeze_embeddings=1), 10)
    made = build_optimizer(parts, settings)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    before = {name: parameter.detach().clone() for name, parameter in host.named_parameters()}
    ids = torch.tensor([[4, 5, 6, 2]])
    for step in range(10):
        freeze(parts, step)
        host(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        moved = {name for name, parameter in host.named_parameters() if not torch.equal(parameter, before[name])}
        assert any(".decoder." in name for name in moved)
        assert any(".encoder.layers" in name for name in moved) == (step >= 5)
        assert not any("shared" in name or "encoder.embed_positions" in name for name in moved)


def test_whole_model_is_one_part(donor: Any) -> None:
    (part,) = whole(donor)
    assert len(part.parameters) == len(list(donor.parameters()))


@pytest.mark.parametrize("most", [0.5, 1e3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clipping_within_the_step_is_clipping(most: float, precision: str) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))

    settings = OptimSettings(lr=0.1, schedule="constant", warmup=0.0, grad_clip=most)
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    ours = model()
    theirs = copy.deepcopy(ours)

    class Module(StageModule):
        def parts(self) -> Any:
            return whole(self.model)

        def step_flops(self, batch: Any) -> int:
            return 0

        def training_step(self, batch: Any, number: int) -> Any:
            return 10 * self.model(inputs).square().sum()

    trainer = pl.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=most, precision=precision,
    )  # fmt: skip
    batches = torch.utils.data.DataLoader([{"number": number} for number in range(4)], batch_size=None)
    trainer.fit(Module(ours, settings), batches)
    assert all(parameter.grad is None for parameter in ours.parameters())

    optimizer = build_optimizer(whole(theirs), settings, fused=False)["optimizer"]
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            loss = 10 * theirs(inputs).square().sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), most)
        optimizer.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
