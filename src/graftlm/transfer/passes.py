"""Forward passes that only look: without dropout, and with what some modules gave kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def evaluation(*models: nn.Module) -> Iterator[None]:
    """Dropout off, and each module's own mode restored afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that fills with the outputs of `modules` in one forward pass; the hooks are removed afterwards."""
    found: list[Any] = [None] * len(modules)

    def keeper(index: int) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[index] = output

        return keep

    handles = [module.register_forward_hook(keeper(index)) for index, module in enumerate(modules)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
