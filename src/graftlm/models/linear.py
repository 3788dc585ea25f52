"""Linear maps in mixed precision on the processor that keep no copy of their weights.

Autocast rounds each weight to half precision once a step and keeps that copy until the backward pass: 14 MB a layer of
xlm-roberta-base, 0.7 GB for an mbart-large. It also rounds an input once for each map that reads it (query, key, value)
and keeps each. Here the weight is rounded again in the backward pass, which costs as much as reading it once, and maps
in a row share the rounded input. The products are the same ones, so are the bits of what comes out.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@contextmanager
def lean_linears(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within, under autocast on a CPU, the `nn.Linear` of these layers keep a rounded input and no rounded weight."""
    maps = [module for layer in layers for module in layer.modules() if type(module) is nn.Linear]
    rounded = _Rounded()
    for module in maps:
        module.forward = partial(_linear, module, rounded)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in maps:
            del module.forward


class _Rounded:
    """The last input in half precision, for maps in a row that read the same one."""

    def __init__(self) -> None:
        self._of: Any = lambda: None
        self._version = 0
        self._value: Tensor | None = None

    def __call__(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        if input.dtype == dtype:
            return input
        value = self._value
        if self._of() is not input or self._version != input._version or value is None or value.dtype != dtype:
            value = input.detach().to(dtype)
            self._of, self._version, self._value = weakref.ref(input), input._version, value
        return value


def _linear(module: nn.Linear, rounded: _Rounded, input: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    if not (
        torch.is_autocast_enabled("cpu")
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and any(tensor is not None and tensor.requires_grad for tensor in (input, weight, bias))
    ):
        return F.linear(input, weight, bias)
    narrow = rounded(input, torch.get_autocast_dtype("cpu"))
    made: Tensor = _Linear.apply(input, narrow.detach(), weight, bias)  # type: ignore[no-untyped-call]
    return made


class _Linear(torch.autograd.Function):
    """`input` is there for its gradient alone; the product is that of `narrow`, which is `input` in half precision."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, narrow: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(narrow, weight)
        ctx.dtypes = input.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            return F.linear(narrow, weight.to(narrow.dtype), None if bias is None else bias.to(narrow.dtype))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        narrow, weight = ctx.saved_tensors
        wide, bias_dtype = ctx.dtypes
        for_input, _, for_weight, for_bias = ctx.needs_input_grad
        rows = upstream.reshape(-1, upstream.shape[-1])
        with torch.autocast("cpu", enabled=False):
            input_grad = (rows @ weight.to(rows.dtype)).view(narrow.shape).to(wide) if for_input else None
            weight_grad = (rows.T @ narrow.reshape(-1, narrow.shape[-1])).to(weight.dtype) if for_weight else None
            bias_grad = rows.sum(dim=0).to(bias_dtype) if for_bias else None
        return input_grad, None, weight_grad, bias_grad
