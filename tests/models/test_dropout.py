"""Dropout by sixteen bits a place: its share, its mean, its gradient; and where torch's is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftlm.models.dropout import kept_places, quick_dropout

LARGE = (128, 256)


class Dropped(nn.Module):
    """Drops as XLM-R's layers do, then as mBART's do."""

    def __init__(self, p: float):
        super().__init__()
        self.part, self.p = nn.Dropout(p), p

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.part(input), p=self.p, training=self.training)


@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 3])
def test_share_and_factor_fit_each_other_and_places_are_independent(p: float) -> None:
    torch.manual_seed(0)
    kept, factor = kept_places((1001, 1999), p)
    assert kept.shape == (1001, 1999)
    assert kept.dtype == torch.uint8
    assert kept.max() == 1
    assert abs(factor * (1 - p) - 1) < 1e-5
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.double().mean().item() - 1 / factor) < 4 * deviation
    flat = kept.flatten().double() - 1 / factor
    for step in (1, 2, 3, 4, 1999):  # places that share a draw of 64 bits, and others
        together = (flat[:-step] * flat[step:]).mean().item()
        assert abs(together) < 4 * p * (1 - p) / kept.numel() ** 0.5, step


def test_the_seed_decides_and_the_generator_goes_on() -> None:
    torch.manual_seed(1)
    first, second = kept_places(LARGE, 0.1)[0], kept_places(LARGE, 0.1)[0]
    torch.manual_seed(1)
    assert torch.equal(kept_places(LARGE, 0.1)[0], first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradient_are_those_of_the_places(dtype: torch.dtype) -> None:
    model, input = Dropped(0.25).train(), torch.randn(LARGE).to(dtype).requires_grad_()
    torch.manual_seed(2)
    with quick_dropout([model]):
        out = model(input)
    torch.manual_seed(2)
    (one, factor), (two, _) = kept_places(LARGE, 0.25), kept_places(LARGE, 0.25)
    expected = input * one * factor * two * factor
    torch.testing.assert_close(out, expected)
    assert out.dtype == dtype
    weight = torch.randn(LARGE).to(dtype)
    found, wanted = (torch.autograd.grad((x * weight).sum(), input)[0] for x in (out, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("case", ["small", "rare", "evaluation", "afterwards"])
def test_elsewhere_it_is_torchs(case: str) -> None:
    model = Dropped(0.001 if case == "rare" else 0.25).train(case != "evaluation")
    input = torch.randn((8, 8) if case == "small" else LARGE)

    def out(quick: bool) -> torch.Tensor:
        torch.manual_seed(3)
        if not quick:
            return model(input)
        with quick_dropout([model]):
            made = None if case == "afterwards" else model(input)
        return model(input) if made is None else made

    assert torch.equal(out(quick=True), out(quick=False))
    assert "forward" not in vars(model)


def test_recomputed_activations_drop_the_same_places() -> None:
    from torch.utils.checkpoint import checkpoint

    model, input = Dropped(0.25).train(), torch.randn(LARGE).requires_grad_()

    def gradient(again: bool) -> Any:
        torch.manual_seed(4)
        with quick_dropout([model]):
            out = checkpoint(model, input.sin(), use_reentrant=False) if again else model(input.sin())
            return torch.autograd.grad(out.square().sum(), input)[0]

    assert torch.equal(gradient(again=True), gradient(again=False))
