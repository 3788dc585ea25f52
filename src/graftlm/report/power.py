"""How many seeds a verdict needs, and how small a difference so many seeds can find: power by the rule of `judge`.

The t-test's power is that of the noncentral t distribution (scipy). Where the exact sign-flip test has a say and seeds
are few, it costs power: there the whole rule is simulated, always with the same normal draws.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from graftlm.report.statistics import FEWEST_SEEDS, Difference, Floats, exact_can_speak, signs_of, t_quantile

MOST = 1000  # more seeds than this are "over 1,000"
POWER = 0.8
_SIMULATED_UP_TO = 10  # beyond, the sign-flip test is as good as the t-test
_DRAWS = 2000


def power(seeds: int, effect: float, confidence: float = 0.95, tested: int = 1) -> float:
    """How often `judge` finds an effect of so many standard deviations of the paired differences, in `seeds` seeds.

    The first of `tested` arms is meant: Holm compares it with level / tested. Normal differences are assumed.
    """
    if seeds < FEWEST_SEEDS:
        return 0.0
    level = (1 - confidence) / max(tested, 1)
    if seeds <= _SIMULATED_UP_TO and exact_can_speak(seeds, tested, confidence):
        return _simulated(seeds, effect, level)
    from scipy.special import nctdtr

    critical, shift = t_quantile(1 - level, seeds - 1), abs(effect) * math.sqrt(seeds)
    if shift > critical + 30:
        return 1.0  # far out scipy's distribution is not to be relied on
    return float(1 - nctdtr(seeds - 1, shift, critical) + nctdtr(seeds - 1, shift, -critical))


def seeds_needed(
    difference: Difference, confidence: float = 0.95, tested: int = 1, more_than: int = 0, wanted: float = POWER
) -> int | None:
    """The fewest paired seeds, more than `more_than`, that would give the power `wanted`, were the effect and the
    spread what they seem to be. None where the spread is unknown; capped at `MOST`.
    """
    if not difference.sd or difference.mean == 0:
        return None
    effect = abs(difference.mean) / difference.sd
    low = max(FEWEST_SEEDS, more_than + 1)
    while low <= _SIMULATED_UP_TO + 1:  # not monotonic: where the exact test begins to speak, power is lost
        if power(low, effect, confidence, tested) >= wanted:
            return low
        low += 1
    high = low
    while high < MOST and power(high, effect, confidence, tested) < wanted:
        low, high = high, min(2 * high, MOST)
    while low < high:
        middle = (low + high) // 2
        if power(middle, effect, confidence, tested) >= wanted:
            high = middle
        else:
            low = middle + 1
    return high


def detectable(difference: Difference, confidence: float = 0.95, tested: int = 1) -> float | None:
    """The smallest difference that as many seeds would find with the power `POWER`, at the spread seen."""
    if not difference.sd or difference.n < FEWEST_SEEDS:
        return None
    return _detectable(difference.n, confidence, tested) * difference.sd


@functools.lru_cache(maxsize=256)
def _detectable(seeds: int, confidence: float, tested: int) -> float:
    low, high = 0.0, 1.0
    while power(seeds, high, confidence, tested) < POWER and high < 1000:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if power(seeds, middle, confidence, tested) >= POWER else (middle, high)
    return high


@functools.lru_cache(maxsize=_SIMULATED_UP_TO)
def _draws(seeds: int) -> Floats:
    return np.random.default_rng(7).normal(size=(_DRAWS, seeds))


def _simulated(seeds: int, effect: float, level: float) -> float:
    values = _draws(seeds) + abs(effect)
    mean, sd = values.mean(axis=1), values.std(axis=1, ddof=1)
    student = np.abs(mean) * math.sqrt(seeds) / sd >= t_quantile(1 - level, seeds - 1)
    sums = np.abs(values @ signs_of(seeds).T)
    exact = np.mean(sums >= np.abs(values.sum(axis=1, keepdims=True)) - 1e-9, axis=1)
    return float(np.mean(student & (exact <= level + 1e-12)))
