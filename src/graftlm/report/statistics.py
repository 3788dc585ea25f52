"""The statistics of a paired comparison: numpy, and scipy for Student's distribution.

One number a seed and an arm, seeds paired on the same data order. `docs/comparing.md` says in words what is claimed
and what is assumed. Every random draw comes from a generator with a fixed seed: the same records give the same report.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT_UP_TO = 16  # 2^16 sign patterns are enumerated, more are drawn
FEWEST_SEEDS = 3  # with two, the spread between seeds rests on one degree of freedom


@dataclass(frozen=True)
class Difference:
    """An arm minus its baseline: the mean, an interval, and p where seeds are paired.

    `low` and `high` come from the t-test over seeds or from the bootstrap over seeds × examples, as `method` says;
    `t_low` and `t_high` from the t-test in any case. `p` is the exact sign-flip test, `p_t` the paired t-test;
    `p_holm` and `p_t_holm` are corrected over the arms. `p_examples` is approximate randomisation over the `examples`:
    it speaks of these very models, not of other seeds. `word` is what `judge` says.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    sd: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_t: float | None = None
    p_t_holm: float | None = None
    method: str = "t"
    t_low: float | None = None
    t_high: float | None = None
    examples: int | None = None
    p_examples: float | None = None
    word: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def area(steps: Floats, values: Floats, first: float | None = None, last: float | None = None) -> float:
    """The mean of a curve over log(step + 1): the trapezoid area divided by the length of the axis.

    `first` and `last` cut the curve (its value there is interpolated), so that two curves are compared over the same
    steps. A curve of one point is its value; an empty one is nan.
    """
    if len(steps) == 0:
        return math.nan
    x = np.log1p(np.asarray(steps, dtype=np.float64))
    y = np.asarray(values, dtype=np.float64)
    low = x[0] if first is None else max(float(x[0]), math.log1p(first))
    high = x[-1] if last is None else min(float(x[-1]), math.log1p(last))
    if high <= low:
        return float(np.interp(low, x, y))
    inside = (x > low) & (x < high)
    grid = np.concatenate([[low], x[inside], [high]])
    return float(np.trapezoid(np.interp(grid, x, y), grid) / (high - low))


def first_reach(steps: Floats, values: Floats, goal: float) -> float | None:
    """The step at which a falling curve first comes down to `goal`, interpolated linearly; None if it never does."""
    below = np.flatnonzero(np.asarray(values) <= goal)
    if len(below) == 0:
        return None
    at = int(below[0])
    if at == 0:
        return float(steps[0])
    x0, x1, y0, y1 = float(steps[at - 1]), float(steps[at]), float(values[at - 1]), float(values[at])
    return x0 + (x1 - x0) * (y0 - goal) / (y0 - y1)


def sign_flip(differences: Sequence[float] | Floats, draws: int = 1 << 16) -> float:
    """Two-sided p of a mean of zero, were each seed's difference as likely to have the other sign.

    All 2^n patterns are enumerated up to n = 16; beyond, `draws` random ones, the observed one counted among them
    (Phipson and Smyth 2010). The smallest p that n seeds can give is 2^(1 - n).
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n == 0:
        return 1.0
    observed = abs(values.sum())
    tolerance = 1e-9 * max(float(np.abs(values).sum()), 1e-300)
    if n <= EXACT_UP_TO:
        return float(np.mean(np.abs(signs_of(n) @ values) >= observed - tolerance))
    hits = int(np.sum(np.abs(_random_signs(n, draws) @ values) >= observed - tolerance))
    return (hits + 1) / (draws + 1)


@functools.lru_cache(maxsize=2)
def _random_signs(n: int, draws: int) -> Floats:
    return (np.random.default_rng(20).integers(0, 2, size=(draws, n)) * 2 - 1).astype(np.float64)


@functools.lru_cache(maxsize=EXACT_UP_TO)
def signs_of(n: int) -> Floats:
    """Every pattern of n signs of which the first is a plus, [2^(n - 1), n]: the other half mirrors these."""
    bits = (np.arange(1 << (n - 1))[:, None] >> np.arange(n)) & 1
    return (1 - 2 * bits[:, ::-1]).astype(np.float64)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the order given."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def t_tails(t: float, df: float) -> float:
    """The probability of both tails of Student's t beyond |t|."""
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))


def t_quantile(confidence: float, df: float) -> float:
    """The half-width of a two-sided interval of Student's t, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2))


def paired(differences: Sequence[float], confidence: float = 0.95) -> Difference | None:
    """The mean of paired differences with its t-interval, the exact sign-flip p and the t-test's p. None if empty.

    One seed has no interval. Where all seeds give exactly the same difference they are no independent repetitions
    (the seed did not reach what was measured): again no interval and no p.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n == 0:
        return None
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if n > 1 else 0.0
    if sd <= 1e-12 * max(1.0, abs(mean)):
        return Difference(mean, None, None, n, sd if n > 1 else None)
    error = sd / math.sqrt(n)
    half = t_quantile(confidence, n - 1) * error
    low, high = mean - half, mean + half
    p_t = t_tails(mean / error, n - 1)
    return Difference(mean, low, high, n, sd, p=sign_flip(values), p_t=p_t, t_low=low, t_high=high)


def correct(family: Sequence[Difference | None]) -> list[Difference | None]:
    """The same differences with Holm's correction over those that have a p."""
    tested = [item for item in family if item is not None and item.p is not None and item.p_t is not None]
    exact = iter(holm([item.p for item in tested if item.p is not None]))
    student = iter(holm([item.p_t for item in tested if item.p_t is not None]))
    return [
        replace(item, p_holm=next(exact), p_t_holm=next(student))
        if item is not None and item.p is not None and item.p_t is not None
        else item
        for item in family
    ]


def judge(difference: Difference | None, tested: int, confidence: float = 0.95, less: bool = True) -> str:
    """`better`, `worse` or `cannot tell`; `less`: whether less of the figure is better.

    The one rule, for `tested` arms at the level 1 - confidence:
    1. at least three paired seeds;
    2. the interval of the paired differences excludes zero, and so does the t-test after Holm;
    3. where the exact sign-flip test can speak at all (2^(1 - n) × tested ≤ level), its p after Holm agrees.
    """
    level = 1 - confidence + 1e-12
    if difference is None or difference.n < FEWEST_SEEDS or difference.low is None or difference.high is None:
        return "cannot tell"
    student = difference.p_t if difference.p_t_holm is None else difference.p_t_holm
    exact = difference.p if difference.p_holm is None else difference.p_holm
    if difference.low <= 0 <= difference.high or student is None or student > level:
        return "cannot tell"
    if exact_can_speak(difference.n, tested, confidence) and (exact is None or exact > level):
        return "cannot tell"
    return "better" if (difference.mean < 0) == less else "worse"


def exact_can_speak(seeds: int, tested: int, confidence: float = 0.95) -> bool:
    """Whether the smallest p of an exact sign-flip test with `seeds` seeds survives Holm over `tested` arms."""
    return 2.0 ** (1 - seeds) * max(tested, 1) <= 1 - confidence + 1e-12


@dataclass(frozen=True)
class Censored:
    """The median of values of which `censored` are only known to lie above their bounds.

    `above`: the bound where the median itself is censored. `low` and `high` are order statistics that hold the true
    median at least as often as the confidence says, whatever the distribution (None: too few values, or censored).
    """

    median: float | None
    above: float | None
    low: float | None
    high: float | None
    n: int
    censored: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def median_censored(values: Sequence[float | None], bounds: Sequence[float]) -> tuple[float | None, float | None]:
    """The median of shares of which some (None) are only known to lie above their bound: (median, None), or
    (None, bound) where the median itself is censored, or (None, None) of nothing."""
    found = censored(values, bounds)
    return found.median, found.above


def censored(values: Sequence[float | None], bounds: Sequence[float], confidence: float = 0.95) -> Censored:
    """The median of values that are censored (None) above `bounds`, with its exact binomial interval.

    Both ends are on the safe side: below, a censored value counts as its bound; above, as infinite. Six values are the
    fewest of which a 95% interval of the median exists.
    """
    if not values:
        return Censored(None, None, None, None, 0, 0)
    pairs = list(zip(values, bounds, strict=True))
    unknown = sum(value is None for value in values)
    n = len(pairs)
    highest = sorted(math.inf if value is None else value for value in values)
    lowest = sorted(bound if value is None else value for value, bound in pairs)
    median, above = (highest[(n - 1) // 2] + highest[n // 2]) / 2, None
    if math.isinf(median):
        above = (lowest[(n - 1) // 2] + lowest[n // 2]) / 2  # of an even number a value that is known may be in it
    rank = _median_rank(n, confidence)
    low, high = (None, None) if rank is None else (lowest[rank], highest[n - 1 - rank])
    return Censored(_finite(median), above, _finite(low), _finite(high), n, unknown)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def _median_rank(n: int, confidence: float) -> int | None:
    """The greatest k, from 0, whose order statistics from below and from above enclose the median often enough."""
    rank, below = None, 0.0
    for k in range(n // 2):
        below += math.comb(n, k) / 2**n
        if 2 * below > 1 - confidence:
            break
        rank = k
    return rank
