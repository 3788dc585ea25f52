"""Optuna's samplers, seeded anew for each trial by its place.

A study that was killed goes on with the very trials that it would have had: exactly so with `random` and `tpe`, while
`cmaes` and `nsga2` know their generations by the numbers of trials, and one that is begun again has a new number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from graftlm.search.cmaes import SafeCmaEs
from graftlm.search.settings import SearchSettings

VOID = "void"  # attribute of a trial that was begun again under another number


class Seeded(BaseSampler):
    """A sampler that is made anew for each trial. Optuna's own keep what they know in the study, not in themselves."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int):
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # a trial that is begun again has another number: those that do not count are left out
        trials = study.get_trials(deepcopy=False)
        place = sum(other.number < trial.number and not other.user_attrs.get(VOID) for other in trials)
        mixed = np.random.SeedSequence([self._seed, place]).generate_state(1)
        self._inner = self._make(int(mixed[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)


def make_sampler(settings: SearchSettings, parallel: bool) -> BaseSampler:
    """The sampler that is set. `parallel`: trials that run are taken to be bad ones, so that others keep away."""

    def make(seed: int) -> BaseSampler:
        if settings.sampler == "tpe":
            return TPESampler(n_startup_trials=settings.startup_trials, constant_liar=parallel, seed=seed)
        if settings.sampler == "cmaes":
            return SafeCmaEs(n_startup_trials=settings.startup_trials, warn_independent_sampling=False, seed=seed)
        if settings.sampler == "nsga2":
            return NSGAIISampler(population_size=settings.population, seed=seed)
        return RandomSampler(seed=seed)

    return Seeded(make, settings.seed)
