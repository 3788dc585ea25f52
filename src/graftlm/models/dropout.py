"""Dropout on the processor from sixteen random bits a place.

torch draws a number for each place that may be dropped: 4.5 ms for the 786,000 places of a sublayer of xlm-roberta-base
at 8 × 128, as much as its feed-forward map takes. Here one draw of 64 bits serves four places. The share that is
dropped is a multiple of 1/65536, the nearest to what was asked for (.1 is .100006); what stays is divided by exactly
what that share leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LEVELS = 2**16
_WORTH = 2**14  # places; below, torch's is as fast


def kept_places(shape: Iterable[int], dropout: float) -> tuple[Tensor, float]:
    """1 where a place stays, else 0, and by what to multiply those. Draws from torch's generator of the processor."""
    size = torch.Size(shape)
    count = size.numel()
    dropped = round(dropout * _LEVELS)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # type: ignore[call-overload]
    kept = bits.view(torch.int16)[:count].view(size) >= dropped - _LEVELS // 2
    return kept.view(torch.uint8), _LEVELS / (_LEVELS - dropped)  # as truth values they are converted one by one


@contextmanager
def quick_dropout(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within, dropout inside these layers is this one where their tensors are large and on a CPU."""
    layers = list(layers)
    for layer in layers:
        layer.forward = partial(_forward, layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def in_checkpoints() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For a layer whose activations are computed again, the `context_fn` of `torch.utils.checkpoint`.

    What computes them again calls the layer from inside, past what `quick_dropout` put around it.
    """
    return nullcontext(), _Watch()


def _forward(plain: Any, *args: Any, **options: Any) -> Any:
    with _Watch():  # in the layer alone: watching costs a little at each of torch's functions
        return plain(*args, **options)


class _Watch(TorchFunctionMode):
    """Sees each call of `F.dropout`, which `nn.Dropout` makes as well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.dropout:
            return _dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or inplace or input.numel() < _WORTH or input.device.type != "cpu" or not is_usual(p):
        return F.dropout(input, p, training, inplace)
    made: Tensor = _Dropout.apply(input, p)  # type: ignore[no-untyped-call]
    return made


def is_usual(p: float) -> bool:
    """Whether a share is one that `kept_places` has nearly."""
    return 1 / 256 <= p <= 1 - 1 / 256  # else the nearest share is not near


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float) -> Tensor:
        kept, ctx.factor = kept_places(input.shape, p)
        ctx.save_for_backward(kept)
        return (input * kept).mul_(ctx.factor)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (upstream * kept).mul_(ctx.factor), None
