"""The blocked loss and the folded lookups against the plain way: values and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftlm.models import blocked_loss, lookups
from graftlm.models.blocked_loss import forget, linear_cross_entropy, recycle
from graftlm.models.lookups import folded_lookups
from graftlm.models.loss import mlm_loss, seq2seq_loss

V, D, N = 53, 6, 11


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_loss, "ROWS", 16)
    monkeypatch.setattr(lookups, "_WORTH", 0)


def made(dtype: torch.dtype = torch.float32, bias: bool = True, scale: float = 1.0) -> tuple[Any, ...]:
    """States, weight, bias, labels: some places ignored, labels in the first, last and other blocks."""
    draw = torch.Generator().manual_seed(3)
    states, weight, offset = (
        (scale * torch.randn(*shape, generator=draw, dtype=dtype)).requires_grad_() for shape in ((N, D), (V, D), (V,))
    )
    labels = torch.randint(V, (N,), generator=draw)
    labels[0], labels[1], labels[2], labels[3] = 0, V - 1, -100, 16
    return states, weight, offset if bias else None, labels


def plain(states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    logits = F.linear(states, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def gradients(loss: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [tensor for tensor in tensors if tensor is not None]))


@pytest.mark.parametrize("kept", [2**28, 0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_in_double(
    bias: bool, smoothing: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked_loss, "KEPT_BYTES", kept)
    states, weight, offset, labels = made(torch.float64, bias)
    ours = linear_cross_entropy(states, weight, offset, labels, smoothing)
    theirs = plain(states, weight, offset, labels, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for one, two in zip(
        gradients(ours, states, weight, offset), gradients(theirs, states, weight, offset), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)

    def again(states: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        return linear_cross_entropy(states, weight, rest[0] if rest else None, labels, smoothing)

    assert torch.autograd.gradcheck(again, (states, weight, offset) if bias else (states, weight))


@pytest.mark.parametrize("kept", [2**28, 0])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_float32_gradients_are_within_1e_5(scale: float, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_loss, "KEPT_BYTES", kept)
    states, weight, offset, labels = made(scale=scale)  # at 30 the logits are in the thousands
    ours = linear_cross_entropy(states, weight, offset, labels)
    theirs = plain(states, weight, offset, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    for one, two in zip(
        gradients(ours, states, weight, offset), gradients(theirs, states, weight, offset), strict=True
    ):
        assert float((one - two).norm() / two.norm()) < 1e-5


def test_under_autocast_it_is_as_near_to_the_truth_as_the_plain_way() -> None:
    states, weight, offset, labels = made()
    weight.data *= 3  # some labels are nearly certain: there p - 1 is small, and easily lost
    truth = gradients(
        plain(*(t.double() if t.is_floating_point() else t for t in (states, weight, offset, labels))),
        states,
        weight,
        offset,
    )
    errors = []
    for way in (linear_cross_entropy, plain):
        with torch.autocast("cpu", torch.bfloat16):
            loss = way(states, weight, offset, labels)
        assert loss.dtype == torch.float32
        found = gradients(loss, states, weight, offset)
        assert all(one.dtype == torch.float32 for one in found)
        errors.append([float((one - two).norm() / two.norm()) for one, two in zip(found, truth, strict=True)])
    assert all(ours < 1.2 * theirs + 1e-3 for ours, theirs in zip(*errors, strict=True)), errors
    assert max(errors[0]) < 0.05


def test_a_certain_label_keeps_its_small_gradient_in_bfloat16() -> None:
    weight = torch.zeros(V, D).requires_grad_()
    weight.data[5, 0], states = 8.0, torch.zeros(1, D).requires_grad_()
    states.data[0, 0] = 1.25
    labels = torch.tensor([5])  # a logit of 10 against 52 of 0: p = .9976
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(states, weight, None, labels)
    (found,) = gradients(loss, states)
    (truth,) = gradients(plain(states, weight, None, labels), states)
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=0)


def test_frozen_parts_and_no_gradient_at_all() -> None:
    states, weight, offset, labels = made()
    expected = gradients(plain(states, weight, offset, labels), states)[0]
    for frozen in ((weight, offset), (weight,), (offset,)):
        for tensor in (weight, offset):
            tensor.requires_grad_(all(tensor is not other for other in frozen)).grad = None
        states.grad = None
        linear_cross_entropy(states, weight, offset, labels).backward()
        torch.testing.assert_close(states.grad, expected)
        assert all(tensor.grad is None for tensor in frozen)
        assert sum(tensor.grad is not None for tensor in (weight, offset)) == 2 - len(frozen)
    with torch.no_grad():
        loss = linear_cross_entropy(states, weight, offset, labels)
    torch.testing.assert_close(loss, plain(states, weight, offset, labels).detach())
    assert not loss.requires_grad


def test_all_ignored_is_no_number_as_in_torch() -> None:
    states, weight, offset, labels = made()
    assert linear_cross_entropy(states, weight, offset, torch.full_like(labels, -100)).isnan()


@pytest.mark.parametrize("padding", [None, 1])
def test_lookups_add_to_the_gradient_where_it_stands(padding: int | None) -> None:
    """Two lookups, as in encoder and decoder; the second micro-batch adds to what is there."""
    weight = nn.Parameter(torch.randn(V, D, generator=torch.Generator().manual_seed(0)))
    one, two = (nn.Embedding(V, D, padding_idx=padding, _weight=weight) for _ in range(2))
    one.weight = two.weight = weight
    ids, labels = torch.arange(N) % 4, torch.arange(N)

    def loss(fold: bool) -> Tensor:
        if not fold:
            return plain(one(ids) * 2 + two(ids.flip(0)), weight, None, labels)
        with folded_lookups(weight) as watched:
            states = one(ids) * 2 + two(ids.flip(0))
        assert watched is not None
        return linear_cross_entropy(states, weight, None, labels, lookups=watched)

    loss(False).backward()
    expected, weight.grad = weight.grad, None
    loss(True).backward()
    torch.testing.assert_close(weight.grad, expected)
    loss(True).backward()
    torch.testing.assert_close(weight.grad, 2 * expected)


def test_lookups_whose_output_layer_learns_nothing_keep_their_gradient() -> None:
    table = nn.Embedding(V, D)
    with folded_lookups(table.weight) as watched:
        states = table(torch.arange(N))
    linear_cross_entropy(states, table.weight.detach(), None, torch.arange(N), lookups=watched).backward()
    found, table.weight.grad = table.weight.grad, None
    plain(table(torch.arange(N)), table.weight.detach(), None, torch.arange(N)).backward()
    torch.testing.assert_close(found, table.weight.grad)


def test_the_memory_of_a_gradient_is_used_again() -> None:
    weight = nn.Parameter(torch.randn(V, D, generator=torch.Generator().manual_seed(0)))
    table = nn.Embedding(V, D, _weight=weight)
    table.weight = weight

    def backward() -> Tensor:
        with folded_lookups(weight) as watched:
            states = table(torch.arange(N))
        linear_cross_entropy(states, weight, None, torch.arange(N), lookups=watched).backward()
        assert weight.grad is not None
        return weight.grad

    first = backward()
    place, values = first.data_ptr(), first.clone()
    del first
    recycle(weight)
    assert weight.grad is None
    held = torch.empty(V, D)  # would take the place if it were free
    second = backward()
    assert second.data_ptr() == place != held.data_ptr()
    assert torch.equal(second, values)
    forget(weight)
    assert not [name for name in vars(weight) if "spare" in name]
    other = nn.Parameter(torch.zeros(2))
    other.grad = torch.ones(2)
    recycle(other)
    assert other.grad is None


@pytest.mark.parametrize("kind", ["mlm", "mbart", "untied"])
def test_a_models_gradients_are_those_of_the_plain_loss(kind: str, donor: Any, host: Any) -> None:
    draw = torch.Generator().manual_seed(1)
    model = copy.deepcopy(donor if kind == "mlm" else host).eval()
    if kind == "untied":
        from graftlm.models.tied import untie

        untie(model)
    ids = torch.randint(5, model.config.vocab_size, (3, 12), generator=draw)
    attention = torch.ones_like(ids)
    ids[0, 8:], attention[0, 8:] = 1, 0
    labels = torch.full((3, 12), -100)
    labels[:, 2:7:2] = torch.randint(5, model.config.vocab_size, (3, 3), generator=draw)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": attention}
    if kind == "mlm":
        whole = model(input_ids=ids, attention_mask=attention).logits
        batch |= {"positions": (labels.view(-1) != -100).nonzero()[:, 0], "labels": labels[labels != -100]}
    else:
        model.final_logits_bias.normal_(generator=draw)
        batch |= {"decoder_input_ids": ids.flip(1), "labels": labels}
        whole = model(input_ids=ids, attention_mask=attention, decoder_input_ids=ids.flip(1)).logits
    F.cross_entropy(whole.transpose(1, 2), labels, label_smoothing=0.0 if kind == "mlm" else 0.1).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = mlm_loss(model, batch) if kind == "mlm" else seq2seq_loss(model, batch, 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) < 1e-5 * max(float(gradient.norm()), 0.01 * largest), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mixed", [False, True])
def test_on_a_gpu(mixed: bool) -> None:
    states, weight, offset, labels = (
        tensor.detach().cuda().requires_grad_(tensor.is_floating_point()) for tensor in made()
    )
    found, expected = [], []
    for way, into in ((linear_cross_entropy, found), (plain, expected)):
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            loss = way(states, weight, offset, labels)
        into += [loss.detach(), *gradients(loss, states, weight, offset)]
    for one, two in zip(found, expected, strict=True):
        assert float((one - two).norm() / two.norm()) < (0.02 if mixed else 1e-4)
