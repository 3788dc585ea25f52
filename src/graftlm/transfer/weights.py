"""The tensors of a model by name, wherever they are: in a model in memory, or in files that are read as needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


# of a table that are read at once: blocks of more than 32 MB are new memory each time, and zeroed page by page
ROWS = 1024


class Weights(ABC):
    """Tensors by name. A tied tensor has several names; it counts under the first one.

    Attributes:
        shapes: each tensor once, by its first name.
        aliases: every name → the first name of that tensor.
    """

    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]

    def __contains__(self, name: object) -> bool:
        return name in self.aliases

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[self.aliases[name]]

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """A tensor, or its rows from `start` to `stop`, in float32; it may share memory with the model."""

    def copy(self, name: str) -> Tensor:
        """A tensor in float32 that shares no memory with the model."""
        return self.read(name).clone()

    @abstractmethod
    def write(self, name: str, value: Tensor) -> None:
        """Put a value of the tensor's shape in its place."""


class ModelWeights(Weights):
    """The tensors of a module: parameters and persistent buffers."""

    def __init__(self, model: nn.Module):
        self._tensors = dict(model.state_dict(keep_vars=True))
        first: dict[int, str] = {}
        # parameters before buffers, as `named_parameters` lists them
        for name, tensor in [*model.named_parameters(), *self._tensors.items()]:
            first.setdefault(id(tensor), name)
        self.aliases = {name: first[id(tensor)] for name, tensor in self._tensors.items()}
        self.shapes = {name: tuple(self._tensors[name].shape) for name in first.values()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        tensor: Tensor = self._tensors[name].detach()
        return (tensor if start == 0 and stop is None else tensor[start:stop]).float()

    def write(self, name: str, value: Tensor) -> None:
        import torch

        with torch.no_grad():
            self._tensors[name].copy_(value.to(self._tensors[name]))


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite, found out in blocks: `isfinite` alone needs twice the tensor's memory."""
    import torch

    flat, size = tensor.reshape(-1), 1 << 22
    return all(bool(torch.isfinite(flat[at : at + size]).all()) for at in range(0, len(flat), size))
