"""Compiled layers and recomputed activations give the gradients of the plain way, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graftlm.errors import SettingsError
from graftlm.models import dropout
from graftlm.models.loss import mlm_loss, seq2seq_loss
from graftlm.running import TrainerSettings
from graftlm.stages import modes as subject
from graftlm.stages.modes import layers, modes


def mlm_batch() -> dict[str, Any]:
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "positions": torch.tensor([1, 5, 14, 30]),
        "labels": torch.tensor([7, 8, 9, 10]),
    }


def seq2seq_batch() -> dict[str, Any]:
    batch = mlm_batch()
    return {**batch, "decoder_input_ids": batch["input_ids"].flip(1), "labels": batch["input_ids"]}


def gradients(model: Any, loss: Callable[[], Any], settings: TrainerSettings) -> tuple[dict[str, Any], list[bool]]:
    model.train().zero_grad()
    torch.manual_seed(5)  # dropout
    with modes(model, settings):
        during = [layer._compiled_call_impl is not None for layer in layers(model)]
        loss().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, during


@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
def test_recomputed_activations_change_no_bit(kind: str, donor: Any, host: Any) -> None:
    model, loss = (
        (donor, lambda: mlm_loss(donor, mlm_batch()))
        if kind == "mlm"
        else (host, lambda: seq2seq_loss(host, seq2seq_batch(), 0.1))
    )
    plain, _ = gradients(model, loss, TrainerSettings())
    calls: list[int] = []
    next(layers(model)[0].children()).register_forward_pre_hook(lambda *given: calls.append(1))
    again, _ = gradients(model, loss, TrainerSettings(checkpointing=True))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert len(calls) == 2
    calls.clear()
    gradients(model, loss, TrainerSettings())
    assert len(calls) == 1


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
def test_what_is_recomputed_drops_the_same_places_where_dropout_is_ours(
    kind: str, mixed: bool, donor: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a length at which `graftlm.models.dropout` takes over from torch."""
    ours: list[Any] = []
    real = dropout.kept_places

    def watched(shape: Any, p: float) -> Any:
        ours.append(shape)
        return real(shape, p)

    monkeypatch.setattr(dropout, "kept_places", watched)
    ids = torch.randint(5, 60, (16, 40), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "mlm":
        model, batch = donor, batch | {"positions": torch.tensor([1, 50, 300]), "labels": torch.tensor([7, 8, 9])}
    else:
        model, batch = host, batch | {"decoder_input_ids": ids.flip(1), "labels": ids}

    def loss() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return mlm_loss(model, batch) if kind == "mlm" else seq2seq_loss(model, batch)

    plain, _ = gradients(model, loss, TrainerSettings(accelerator="cpu"))
    once = len(ours)
    again, _ = gradients(model, loss, TrainerSettings(accelerator="cpu", checkpointing=True))
    assert 0 < once < len(ours) - once
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(again[name], gradient), name


def test_compiled_layers_give_the_same_gradients(donor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_BACKEND", "eager")  # traced and called as compiled code is, without a compiler
    for module in donor.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    donor.config.attention_probs_dropout_prob = 0.0
    names = list(donor.state_dict())
    plain, off = gradients(donor, lambda: mlm_loss(donor, mlm_batch()), TrainerSettings())
    compiled, on = gradients(donor, lambda: mlm_loss(donor, mlm_batch()), TrainerSettings(compile=True))
    assert (set(off), set(on)) == ({False}, {True})
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6)
    assert list(donor.state_dict()) == names
    assert all(layer._compiled_call_impl is None for layer in layers(donor))


def test_without_a_compiler_it_is_said_before_training(
    donor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with (
        pytest.raises(SettingsError, match=r"trainer.compile.*needs a C\+\+ compiler.*trainer.compile=false"),
        modes(donor, TrainerSettings(accelerator="cpu", compile=True)),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        (TrainerSettings(compile=True, detect_anomaly=True), "trainer.compile"),
        (TrainerSettings(profile=3, devices=2), "trainer.profile"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: TrainerSettings, path: str) -> None:
    assert [problem.path for problem in settings.check("trainer")] == [path]


def test_attention_is_fused(donor: Any, host: Any) -> None:
    assert donor.config._attn_implementation == host.config._attn_implementation == "sdpa"
