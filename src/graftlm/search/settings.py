"""The settings of a search. None of them changes what a job leaves: they are no part of any key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from graftlm.errors import Problem
from graftlm.fields import setting

# what a search may aim at, and whether less of it is better
OBJECTIVES: dict[str, bool] = {
    "val_loss": True,  # the last validation loss
    "auc": True,  # the mean validation loss along the log-step axis, the primary figure of a comparison
    "test_loss": True,
    "gap": False,
    "chrf": False,
    "bleu": False,
    "rougeL": False,
    "flops": True,  # of fine-tuning, graft and donor, whether or not they came from the store
    "seconds": True,  # likewise
    "parameters": True,
}


@dataclass(frozen=True)
class PrunerSettings:
    """When a trial is given up. `after` is a share of `finetune.max_steps`.

    `median`: worse than the median of earlier trials at the same step, once `startup_trials` have ended (Golovin 2017).
    `successive_halving`: at `after`, and at each `reduction` times as many steps, all but the best 1 / `reduction` of
    the trials that came as far are given up (ASHA, Li 2020).
    """

    kind: Literal["none", "median", "successive_halving"] = "none"
    after: float = setting(0.2, above=0, below=1)
    startup_trials: int = setting(5, at_least=1)
    reduction: int = setting(3, at_least=2)


@dataclass(frozen=True)
class SearchSettings:
    """What is searched for, how, and where the study is kept.

    `sampler`: null for a grid, which is no search. `trials` is the total of the study, not what one command adds.
    `startup_trials`: random trials before `tpe` and `cmaes` begin; `population`: that of `nsga2`. `batch`: how many
    trials run at a time; null: as many as the launcher has workers, but no more than the sampler can do without results
    (`startup_trials`, `population`). `study`: null names it by its content, so that the
    same command goes on with the same study. `storage`: null keeps it in a file beside the store's artifacts; else a
    file, or the address of a database. `params`: settings and their ranges, as on the command line. `trial` is set for
    each job by the sweep.
    """

    sampler: Literal["random", "tpe", "cmaes", "nsga2"] | None = None
    objectives: list[
        Literal["val_loss", "auc", "test_loss", "gap", "chrf", "bleu", "rougeL", "flops", "seconds", "parameters"]
    ] = setting(["val_loss"])
    trials: int = setting(20, at_least=1)
    batch: int | None = setting(None, at_least=1)
    seed: int = setting(1, at_least=0, at_most=2**31 - 1)
    startup_trials: int = setting(10, at_least=1)
    population: int = setting(10, at_least=2)
    study: str | None = None
    storage: str | None = None
    params: dict[str, Any] = setting({})
    pruner: PrunerSettings = field(default_factory=PrunerSettings)
    trial: int | None = setting(None, at_least=0)

    @property
    def prunes(self) -> bool:
        return self.sampler is not None and self.pruner.kind != "none"

    def check(self, path: str) -> Iterator[Problem]:
        several = len(self.objectives) > 1
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            yield Problem(f"{path}.objectives", self.objectives, "must name one or several figures, each once")
        if several and self.pruner.kind != "none":
            reason = "one validation loss cannot tell that a trial is hopeless for several objectives"
            yield Problem(f"{path}.pruner.kind", self.pruner.kind, reason, "set it to none, or keep one objective")
        if several and self.sampler == "cmaes":
            yield Problem(f"{path}.sampler", "cmaes", "has one objective only", "take sweep=nsga2 or sweep=tpe")
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.study):
            yield Problem(f"{path}.study", self.study, "is no name", "letters, digits, hyphens, dots and underscores")
