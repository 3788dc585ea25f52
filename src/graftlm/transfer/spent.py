"""What a step of a graft takes, and the operations of one that trains by those of a few of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Spent:
    """What the current step took, in earlier attempts at it too.

    Operations are those of matrix products. A step that trains counts them by itself (`training`); what other steps do
    is counted around them.
    """

    flops: int = 0
    seconds: float = 0.0
    _counted: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    @contextmanager
    def training(self, *terms: int) -> Iterator[None]:
        """Around one training step, whose operations are the same linear function of these terms in every step.

        They are counted until the terms of a step are a combination of those of counted steps, and follow from these
        then: counting sends every operation through Python, which makes a step take half as long again.
        """
        from torch.utils.flop_counter import FlopCounterMode

        known = self._combined(terms)
        if known is not None:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            known = counter.get_total_flops()
            self._counted.append((terms, known))
        self.flops += known

    def _combined(self, terms: tuple[int, ...]) -> int | None:
        """The operations of a step by those of counted steps, if its terms are a combination of theirs."""
        import numpy as np

        if not self._counted:
            return None
        scale = np.abs([counted for counted, _ in self._counted]).max(0).clip(1)
        matrix = np.array([counted for counted, _ in self._counted]) / scale
        wanted = np.array(terms) / scale
        shares = np.linalg.lstsq(matrix.T, wanted, rcond=None)[0]
        if np.abs(matrix.T @ shares - wanted).max() > 1e-9 * max(1.0, np.abs(wanted).max()):
            return None
        return round(float(shares @ np.array([flops for _, flops in self._counted], dtype=np.float64)))
