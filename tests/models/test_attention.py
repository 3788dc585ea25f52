"""Lean attention against torch's own: the same values, gradients and dropped places; within a model too."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graftlm.models.attention import NAME, attend, lean_attention
from graftlm.models.loss import mlm_loss, seq2seq_loss

B, H, Q, D = 2, 3, 7, 4


def made(dtype: torch.dtype, keys: int = Q) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, n, D, generator=draw).to(dtype).requires_grad_() for n in (Q, keys, keys)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["all", "padded", "causal", "cross"])
def test_values_and_gradients_are_torchs(dtype: torch.dtype, kind: str) -> None:
    tensors = made(dtype, keys=5 if kind == "cross" else Q)
    mask = torch.ones(B, 1, Q, Q, dtype=torch.bool) if kind == "padded" else None
    if mask is not None:
        mask[0, :, :, 4:] = False
    module: Any = SimpleNamespace(is_causal=kind == "causal")
    torch.manual_seed(3)
    ours, _ = attend(module, *tensors, mask, dropout=0.3, scaling=0.4)
    torch.manual_seed(3)
    theirs = F.scaled_dot_product_attention(
        *tensors, attn_mask=mask, dropout_p=0.3, is_causal=kind == "causal", scale=0.4
    ).transpose(1, 2)
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(ours, theirs, rtol=close, atol=close)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, expected = (torch.autograd.grad((out * weight).sum(), tensors) for out in (ours, theirs))
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, two, rtol=close, atol=close)
    torch.manual_seed(3)
    assert not torch.equal(attend(module, *tensors, mask, dropout=0.31, scaling=0.4)[0], ours)


def test_it_keeps_no_matrix_but_the_dropped_places() -> None:
    tensors = made(torch.bfloat16)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor
    ):
        attend(SimpleNamespace(is_causal=False), *tensors, None, dropout=0.1, scaling=0.5)
    assert [tensor.dtype for tensor in kept if tensor.shape == (B, H, Q, Q)] == [torch.bool]
    assert all(tensor.dtype == torch.bfloat16 for tensor in kept if tensor.shape != (B, H, Q, Q))


@pytest.mark.parametrize("kind", ["mlm", "mbart"])
def test_a_model_trains_with_it_as_without(kind: str, donor: Any, host: Any) -> None:
    model = copy.deepcopy(donor if kind == "mlm" else host).train()
    model.config.attention_dropout = 0.1
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(ids)
    ids[0, 8:], attention[0, 8:] = 1, 0
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": attention}
    if kind == "mlm":
        batch |= {"positions": torch.tensor([1, 14, 30]), "labels": torch.tensor([7, 8, 9])}
    else:
        batch |= {"decoder_input_ids": ids.flip(1), "labels": ids}

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(4)
        loss = mlm_loss(model, batch) if kind == "mlm" else seq2seq_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    with lean_attention(model):
        assert model.config._attn_implementation == NAME
        found = gradients()
    assert model.config._attn_implementation == "sdpa"
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
