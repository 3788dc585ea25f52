"""Lookups in a matrix that is the output layer as well (tied embeddings): their gradient goes into that layer's.

Autograd gives each use of a parameter a gradient of its own and adds them: for word embeddings a V × d matrix of zeros
around the few rows that were looked up (768 MB for XLM-R base), filled, held and added at each step. But the output
layer's gradient is computed before: here a lookup adds its rows to that one, where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_WORTH = 2**20  # elements of a matrix; below, what is saved is less than what watching for lookups costs


class Lookups:
    """The lookups in a matrix during a forward pass, and in the backward pass the gradient that they add to."""

    def __init__(self) -> None:
        self._waiting = 0
        self._gradient: Tensor | None = None

    def count(self) -> None:
        self._waiting += 1

    def offer(self, gradient: Tensor) -> None:
        """Takes the gradient of the output layer, for as long as lookups are waiting."""
        if self._waiting:
            self._gradient = gradient

    def add(self, ids: Tensor, rows: Tensor) -> bool:
        """Adds rows to the gradient, if there is one yet.

        The last lookup lets go of it: autograd makes a gradient the parameter's own, uncopied, if no one else has it.
        """
        gradient, self._waiting = self._gradient, self._waiting - 1
        if not self._waiting:
            self._gradient = None
        if gradient is None:
            return False
        gradient.index_add_(0, ids, rows.to(gradient.dtype))
        return True


@contextmanager
def folded_lookups(weight: Tensor) -> Iterator[Lookups | None]:
    """Within, lookups in `weight` (by `F.embedding`) add their gradient to what `linear_cross_entropy` makes for it.

    None, and nothing changes, where it would not pay, or on a GPU: the order of such additions is not fixed there, and
    a run that is resumed must end with the same bits.
    """
    if not (
        torch.is_grad_enabled()
        and weight.requires_grad
        and weight.device.type == "cpu"
        and weight.numel() >= _WORTH
        and not torch.compiler.is_compiling()
    ):
        yield None
        return
    lookups = Lookups()
    with _Watch(weight, lookups):
        yield lookups


class _Watch(TorchFunctionMode):
    """Sees each call of `F.embedding`, whatever module it comes from."""

    def __init__(self, weight: Tensor, lookups: Lookups):
        super().__init__()  # type: ignore[no-untyped-call]
        self._weight, self._lookups = weight, lookups

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.embedding and len(args) > 1 and args[1] is self._weight and not any(args[3:4]):
            padding = (kwargs or {}).get("padding_idx", args[2] if len(args) > 2 else None)
            return _Lookup.apply(self._weight, args[0], padding, self._lookups)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None, lookups: Lookups) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.lookups, ctx.rows = padding, lookups, len(weight)
        lookups.count()
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        rows, places = upstream.reshape(-1, upstream.shape[-1]), ids.reshape(-1)
        if ctx.padding is not None:
            counted = places != ctx.padding
            rows, places = rows[counted], places[counted]
        if ctx.lookups.add(places, rows):
            return None, None, None, None
        return rows.new_zeros(ctx.rows, rows.shape[1]).index_add_(0, places, rows), None, None, None
