"""What a job hands to its stages: settings, inputs, a folder to fill, whom to tell; and how a stage gives up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftlm.console import Progress
from graftlm.schema import Settings


@dataclass(frozen=True)
class Labels:
    """What tells a job apart in logs and dashboards."""

    sweep: str
    job: str
    choices: Mapping[str, str]

    @property
    def arm(self) -> str:
        return self.choices.get("transfer", "custom")


class Pruned(Exception):  # noqa: N818 - an end, no error
    """A trial of a search is given up after a step; its stage stays unfinished, with a checkpoint."""

    def __init__(self, step: int, of: int, loss: float):
        super().__init__(f"given up at step {step} of {of}: val loss {loss:.4g} is worse than that of other trials")
        self.step, self.of, self.loss = step, of, loss


@dataclass(frozen=True)
class StageContext:
    """What a stage gets: settings, the artifacts it builds on, its own unfinished folder, and whom to tell.

    `leader`: of the processes that run a stage on several devices, the one that writes.
    """

    settings: Settings
    inputs: Mapping[str, Path]
    work: Path
    progress: Progress
    labels: Labels
    leader: bool = True
