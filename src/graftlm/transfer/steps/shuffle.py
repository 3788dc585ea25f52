"""Control: the encoder's weights with their entries in random order, of the same norms and the same distribution."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from graftlm.fields import setting
from graftlm.transfer.graft import Graft, Step


@dataclass(frozen=True)
class Shuffle(Step):
    """What is left of a graft's gain if only the sizes of the weights were carried over, not what they say."""

    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = "a control of this project"
    after: ClassVar[tuple[str, ...]] = ("encoder", "exact", "distill")
    reads_donor: ClassVar[bool] = False

    def builds_on(self) -> tuple[str, ...]:
        return self.refines()

    def refines(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*",)

    def apply(self, graft: Graft) -> None:
        import torch

        draw = torch.Generator().manual_seed(self.seed)
        for name in graft.host_weights.shapes:
            if any(fnmatchcase(name, pattern) for pattern in self.refines()):
                value = graft.current(name)
                order = torch.randperm(value.numel(), generator=draw)
                graft.refine(name, value.flatten()[order].view_as(value), "mapped", "its entries in random order")


STEP = Shuffle
