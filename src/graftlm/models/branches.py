"""What beams have written, as a tree: nothing is copied when some of them go on and others do not.

transformers copies the keys and values of all that was written twice a step: once to append to them, and once to put
them in the order of the beams that go on. Here those of a source's beams are one row that only grows, and each beam
attends to the places on its own path to the root. To choose beams is to choose paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROOM = 16  # steps that memory is taken for at once


class Paths:
    """Which places of its source's row each beam has come by; a step has a place for each beam of the source."""

    def __init__(self, sources: int, beams: int, device: torch.device):
        self.sources, self.beams = sources, beams
        self._own = torch.eye(beams, dtype=torch.bool, device=device).repeat(sources, 1)
        self._seen = self._own

    def go_on(self, chosen: Tensor) -> None:
        """Beams by their number over all sources, each as often as it goes on; then what they write next."""
        self._seen = torch.cat([self._seen[chosen], self._own], dim=1)

    @property
    def mask(self) -> Tensor:
        """[sources, 1, beams, places]"""
        return self._seen.view(self.sources, 1, self.beams, -1)


def written(paths: Paths) -> Any:
    """A layer of a transformers cache: keys and values of what was written, [sources, heads, places, width]."""
    from transformers.cache_utils import DynamicLayer

    class Written(DynamicLayer):  # type: ignore[misc]
        keys: Tensor
        values: Tensor
        steps = 0

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
            """Takes one token of each beam: [sources × beams, heads, 1, width]."""
            _, heads, _, width = key_states.shape
            shape = (paths.sources, paths.beams, heads, width)
            if self.steps % _ROOM == 0:
                more = key_states.new_empty(paths.sources, heads, width, _ROOM * paths.beams)
                held = [self.keys, self.values] if self.steps else [more[..., :0]] * 2
                # places last: the products of a few queries with many keys are fastest so
                self.keys, self.values = (torch.cat([old, more], dim=-1) for old in held)
                self.is_initialized = True
            begin, end = self.steps * paths.beams, (self.steps + 1) * paths.beams
            for memory, states in ((self.keys, key_states), (self.values, value_states)):
                memory[..., begin:end] = states.view(shape).permute(0, 2, 3, 1)
            self.steps += 1
            return self.keys[..., :end].transpose(2, 3), self.values[..., :end].transpose(2, 3)

        def get_seq_length(self) -> int:
            return self.steps

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.steps + query_length, 0

    return Written()
