"""Lean attention against that of the book: the same values and gradients; within a model too."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graftlm.models import attention
from graftlm.models.attention import NAME, attend, lean_attention
from graftlm.models.dropout import kept_places
from graftlm.models.loss import mlm_loss, seq2seq_loss

B, H, Q, D = 2, 3, 7, 4
K = 5  # keys, where they are not those of the queries


def made(dtype: torch.dtype, keys: int = Q) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, n, D, generator=draw).to(dtype).requires_grad_() for n in (Q, keys, keys)]


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, dropout: float
) -> torch.Tensor:
    """By the book, in the widest type, with the places that the seed drops."""
    scores = query.double() @ key.double().transpose(-1, -2) * 0.4
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
    if dropout:
        kept, factor = kept_places(weights.shape, dropout)
        weights = weights * kept * factor
    return (weights @ value.double()).transpose(1, 2).to(query.dtype)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["all", "padded", "causal", "cross"])
def test_values_and_gradients_are_those_of_the_book(dtype: torch.dtype, kind: str, dropout: float) -> None:
    tensors = made(dtype, keys=5 if kind == "cross" else Q)
    mask = torch.ones(B, 1, Q, Q, dtype=torch.bool) if kind == "padded" else None
    if mask is not None:
        mask[0, :, :, 4:] = False
    module: Any = SimpleNamespace(is_causal=kind == "causal")
    torch.manual_seed(3)
    ours, _ = attend(module, *tensors, mask, dropout=dropout, scaling=0.4)
    assert ("_Attention" in name_of(ours)) == (dropout > 0 or dtype == torch.bfloat16)  # else torch's is as good
    torch.manual_seed(3)
    theirs = plain(*tensors, torch.ones(Q, Q, dtype=torch.bool).tril() if kind == "causal" else mask, dropout)
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(ours, theirs, rtol=close, atol=close)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, expected = (torch.autograd.grad((out * weight).sum(), tensors) for out in (ours, theirs))
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, two, rtol=close, atol=close)


MASKS = {"row": (B, 1, Q, K), "head": (1, H, Q, K), "heads": (H, Q, K), "each": (B, H, Q, K), "all": (Q, K)}


@pytest.mark.parametrize("mask", ["none", *MASKS])
@pytest.mark.parametrize("cached", [1, 2 * Q * K, H * Q * K])
def test_rows_and_heads_apart_give_the_bits_of_all_at_once(
    cached: int, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a head, of two heads, of a row; a mask for each row, each head, both, or the same for all."""
    places = None
    if mask in MASKS:
        places = torch.rand(MASKS[mask], generator=torch.Generator().manual_seed(4)) < 0.7
        places[..., 0] = True

    def run() -> list[torch.Tensor]:
        return [tensor for dtype in (torch.bfloat16, torch.float32) for tensor in in_type(dtype)]

    def in_type(dtype: torch.dtype) -> list[torch.Tensor]:
        tensors = made(dtype, keys=K)
        tensors[2] = torch.cat([tensors[2], tensors[2]], dim=-1).detach().requires_grad_()  # wider than the queries
        torch.manual_seed(3)
        states, _ = attend(SimpleNamespace(is_causal=False), *tensors, places, dropout=0.3, scaling=0.4)
        states.float().square().sum().backward()
        return [states, *(tensor.grad for tensor in tensors if tensor.grad is not None)]

    whole = run()
    monkeypatch.setattr(attention, "_CACHED", cached)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert len(list(attention._blocks(*made(torch.bfloat16, keys=K)[:2]))) > 1
    apart = run()
    assert len(apart) == 8
    for one, two in zip(whole, apart, strict=True):
        assert torch.equal(one, two)


def name_of(states: torch.Tensor) -> str:
    """Of the operation before the places were put in front of the heads."""
    node: Any = states.grad_fn
    while "Transpose" in node.name() or "Clone" in node.name():
        node = node.next_functions[0][0]
    return str(node.name())


def test_without_dropout_long_texts_go_by_torchs_own() -> None:
    draw = torch.Generator().manual_seed(0)
    short, long = (torch.randn(1, 1, n, D, generator=draw).bfloat16().requires_grad_() for n in (181, 182))
    module: Any = SimpleNamespace(is_causal=False)
    states = {len_: attend(module, one, one, one, None, scaling=0.4)[0] for len_, one in ((181, short), (182, long))}
    assert "_Attention" in name_of(states[181])
    assert "_Attention" not in name_of(states[182])


@pytest.mark.parametrize("share", [1.0, 1 - 1e-6, 1e-6])
def test_shares_at_the_ends_are_torchs(share: float) -> None:
    """Sixteen bits a place have none that is near."""
    states, _ = attend(SimpleNamespace(is_causal=False), *made(torch.float32), None, dropout=share, scaling=0.4)
    assert "_Attention" not in name_of(states)


def test_it_keeps_no_matrix_but_the_dropped_places() -> None:
    tensors = made(torch.bfloat16)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor
    ):
        attend(SimpleNamespace(is_causal=False), *tensors, None, dropout=0.1, scaling=0.5)
    assert [tensor.dtype for tensor in kept if tensor.shape == (B, H, Q, Q)] == [torch.uint8]
    assert all(tensor.dtype == torch.bfloat16 for tensor in kept if tensor.shape != (B, H, Q, Q))


@pytest.mark.parametrize("kind", ["mlm", "mbart"])
def test_a_model_trains_with_it_as_without(kind: str, donor: Any, host: Any) -> None:
    model = copy.deepcopy(donor if kind == "mlm" else host).train()
    for part in model.modules():  # torch drops other places
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0
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
        with torch.autocast("cpu", torch.bfloat16):
            loss = mlm_loss(model, batch) if kind == "mlm" else seq2seq_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    with lean_attention(model):
        assert model.config._attn_implementation == NAME
        found = gradients()
    assert model.config._attn_implementation == "sdpa"
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-2, atol=2e-3 * largest, msg=name)
    assert any(not torch.equal(found[name], gradient) for name, gradient in expected.items())  # it was another way
