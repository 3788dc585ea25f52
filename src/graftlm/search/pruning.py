"""Giving up hopeless trials: a job tells the study each validation loss and asks whether it may go on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graftlm.console import Progress
from graftlm.schema import Settings
from graftlm.search.settings import OBJECTIVES, PrunerSettings
from graftlm.tracking import validation_losses

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Watch = Callable[[int, float], bool]


def make_watch(settings: Settings, progress: Progress, leader: bool = True) -> Watch | None:
    """A function that takes step and loss of a validation and says whether the trial is hopeless; None outside one.

    `leader`: of several processes that train together one asks, and the others hear from it what is to be done.
    A study that cannot be reached is named once and left alone: it never stops a run.
    """
    search = settings.search
    if search.trial is None or search.study is None or not search.prunes:
        return None
    if not leader:
        return lambda step, loss: False
    import optuna

    from graftlm.search.study import open_storage, study_folder

    number = search.trial
    storage = open_storage(search.storage, study_folder(Path(settings.store.dir), search.study))
    pruner = make_pruner(search.pruner, settings.finetune.max_steps)
    study = optuna.load_study(study_name=search.study, storage=storage, pruner=pruner)
    identity = next(trial._trial_id for trial in study.get_trials(deepcopy=False) if trial.number == number)
    # Optuna compares in the direction of the objective: of one that is to rise, the loss is turned round
    sign = 1.0 if OBJECTIVES[search.objectives[0]] else -1.0
    gone = False

    def watch(step: int, loss: float) -> bool:
        nonlocal gone
        if gone or not math.isfinite(loss):
            return False
        try:
            storage.set_trial_intermediate_value(identity, step, sign * loss)
            return pruner.prune(study, copy.deepcopy(storage.get_trial(identity)))
        except Exception as error:
            gone = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            progress.say(f"study {search.study}: cannot be told ({reason}); the run goes on unpruned")
            return False

    return watch


def tell_curve(settings: Settings, finetune: Path, progress: Progress) -> None:
    """Tell the study the curve of a training that was there already: later trials are compared with it too."""
    watch = make_watch(settings, progress)
    if watch is not None:
        for step, loss in validation_losses(finetune):
            watch(step, loss)


def make_pruner(settings: PrunerSettings, max_steps: int) -> BasePruner:
    """The pruner that is set, its steps counted in those of the fine-tuning."""
    from optuna.pruners import MedianPruner, SuccessiveHalvingPruner

    first = max(1, round(settings.after * max_steps))
    if settings.kind == "median":
        return MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=first)
    return SuccessiveHalvingPruner(min_resource=first, reduction_factor=settings.reduction)
