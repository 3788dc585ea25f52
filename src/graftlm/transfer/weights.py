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
    """The tensors of a module: parameters and persistent buffers.

    A tensor is looked up in its module each time: one that moves to another device or type gets new buffers, and what
    was kept here would then be read by nobody. A map that has an adapter of peft beside it keeps its name.
    """

    def __init__(self, model: nn.Module):
        tensors: dict[str, Tensor] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for path, tensor in model.state_dict(keep_vars=True).items():
            module, _, own = path.rpartition(".")
            tensors[plain(path)] = tensor
            self._places[plain(path)] = model.get_submodule(module), own
        first: dict[int, str] = {}
        # parameters before buffers, as `named_parameters` lists them
        for name, tensor in [*model.named_parameters(), *tensors.items()]:
            first.setdefault(id(tensor), plain(name))
        self.aliases = {name: first[id(tensor)] for name, tensor in tensors.items()}
        self.shapes = {name: tuple(tensors[name].shape) for name in first.values()}

    def _tensor(self, name: str) -> Tensor:
        module, own = self._places[name]
        found: Tensor = getattr(module, own)
        return found.detach()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        tensor = self._tensor(name)
        return (tensor if start == 0 and stop is None else tensor[start:stop]).float()

    def write(self, name: str, value: Tensor) -> None:
        tensor = self._tensor(name)
        tensor.copy_(value.to(tensor))


class NoWeights(Weights):
    """Of a model that is not there."""

    shapes: Mapping[str, tuple[int, ...]] = {}
    aliases: Mapping[str, str] = {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        raise KeyError(name)

    def write(self, name: str, value: Tensor) -> None:
        raise KeyError(name)


def plain(name: str) -> str:
    """A tensor's name without the module that peft puts around an adapted map."""
    return name.replace(".base_layer.", ".")


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite, found out in blocks: `isfinite` alone needs twice the tensor's memory."""
    import torch

    flat, size = tensor.reshape(-1), 1 << 22
    return all(bool(torch.isfinite(flat[at : at + size]).all()) for at in range(0, len(flat), size))
