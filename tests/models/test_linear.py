"""Lean linear maps against autocast's own: the same bits, and no rounded weight kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftlm.models.linear import lean_linears
from graftlm.models.loss import mlm_loss, seq2seq_loss
from graftlm.stages.modes import layers


class Maps(nn.Module):
    """Two maps of one input, and one of a sum: in half precision already."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(6, 5), nn.Linear(6, 5, bias=False), nn.Linear(5, 3)

    def forward(self, input: Tensor) -> Tensor:
        made: Tensor = self.last(self.one(input).relu() + self.two(input))
        return made


def gradients(maps: nn.Module, input: Tensor) -> list[Tensor]:
    input = input.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = maps(input * 1.0)  # autocast rounds a leaf once, and adds what comes back to it in half precision
    assert out.dtype == torch.bfloat16
    wanted = [input, *(p for p in maps.parameters() if p.requires_grad)]
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), wanted)]


@pytest.mark.parametrize("frozen", [(), ("one.weight",), ("one.weight", "one.bias", "two.weight", "last.bias")])
def test_values_and_gradients_are_autocasts_to_the_bit(frozen: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    maps, input = Maps(), torch.randn(2, 7, 6)
    for name in frozen:
        maps.get_parameter(name).requires_grad_(False)
    expected = gradients(maps, input)
    with lean_linears([maps]):
        found = gradients(maps, input)
    assert len(found) == len(expected) == 7 - len(frozen)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


def test_an_input_that_was_changed_is_rounded_again() -> None:
    torch.manual_seed(0)
    maps, input = Maps(), torch.randn(4, 6)
    with lean_linears([maps]), torch.autocast("cpu", torch.bfloat16):
        first = maps.one(input)
        assert torch.equal(first, maps.one(input))
        input.mul_(2)
        second = maps.one(input)
    assert torch.equal(second, nn.functional.linear(*(t.bfloat16() for t in (input, maps.one.weight, maps.one.bias))))
    assert not torch.equal(first, second)


def test_no_rows_at_all() -> None:
    maps, input = Maps(), torch.empty(0, 6, requires_grad=True)
    with lean_linears([maps]), torch.autocast("cpu", torch.bfloat16):
        maps(input).float().sum().backward()
    assert input.grad is not None
    assert input.grad.shape == (0, 6)
    assert maps.one.weight.grad is not None
    assert not maps.one.weight.grad.any()


def test_no_rounded_weight_is_kept_and_an_input_once() -> None:
    maps, kept = Maps(), {}
    with (
        lean_linears([maps]),
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (kept.setdefault(tensor.data_ptr(), tensor), tensor)[1], lambda tensor: tensor
        ),
    ):
        maps(torch.randn(8, 6))
    rounded = [tensor for tensor in kept.values() if tensor.dtype == torch.bfloat16]
    assert all(len(tensor) == 8 for tensor in rounded)
    assert sum(tensor.shape == (8, 6) for tensor in rounded) == 1


def test_without_autocast_and_afterwards_they_are_plain() -> None:
    maps, input = Maps(), torch.randn(3, 6)
    plain = maps(input)
    with lean_linears([maps]):
        assert torch.equal(maps(input), plain)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert maps(input).grad_fn is None
    assert "forward" not in vars(maps.one)


@pytest.mark.parametrize("kind", ["mlm", "mbart"])
def test_a_model_trains_with_them_as_without(kind: str, donor: Any, host: Any) -> None:
    model = copy.deepcopy(donor if kind == "mlm" else host).train()
    ids = torch.randint(5, 60, (3, 12), generator=torch.Generator().manual_seed(1))
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "mlm":
        batch |= {"positions": torch.tensor([1, 14, 30]), "labels": torch.tensor([7, 8, 9])}
    else:
        batch |= {"decoder_input_ids": ids.flip(1), "labels": ids}

    def found() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(4)
        with torch.autocast("cpu", torch.bfloat16):
            loss = mlm_loss(model, batch) if kind == "mlm" else seq2seq_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = found()
    with lean_linears(layers(model)):
        ours = found()
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(ours[name], gradient), name
