"""Linear maps of generation on the processor with weights in the layout that its matrix product works in.

MKL copies a weight into that layout within each product. In training that is little beside thousands of rows; a step of
generation has as many rows as there are beams, 64 say, and reads each weight once more for every token. Here each is
laid out once and used for all steps: at 64 rows, 1024 × 4096 in float32, 106 → 143 billion operations a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def prepacked(layers: Iterable[nn.Module], rows: int) -> Iterator[None]:
    """Within, the `nn.Linear` of these layers are ready for inputs of that many rows; others they take as before.

    Nothing changes where torch has no MKL, on a GPU, in other types than float32, or where maps are wrapped (adapters).
    """
    maps = [module for layer in layers for module in layer.modules() if type(module) is nn.Linear and _fits(module)]
    for module in maps:
        # torch gives these to its compiler, which lays out the weights of a frozen model so
        packed = torch.ops.mkl._mkl_reorder_linear_weight(module.weight.detach(), rows)
        module.forward = partial(_linear, module, packed, rows)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in maps:
            del module.forward


def _fits(module: nn.Linear) -> bool:
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkl, "_mkl_linear")
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and "forward" not in vars(module)
    )


def _linear(module: nn.Linear, packed: Tensor, rows: int, input: Tensor) -> Tensor:
    if input.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or input.numel() != rows * input.shape[-1]:
        return F.linear(input, module.weight, module.bias)
    made: Tensor = torch.ops.mkl._mkl_linear(input, packed, module.weight, module.bias, rows)
    return made
