"""The statistics of a paired comparison, with numpy alone.

One number a seed and an arm, seeds paired on the same data order. `docs/comparison.md` says in words what is claimed
and what is assumed. Every random draw comes from a generator with a fixed seed: the same records give the same report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT_UP_TO = 16  # 2^16 sign patterns are enumerated, more are drawn
FEWEST_SEEDS = 3  # with two, the spread between seeds rests on one degree of freedom


@dataclass(frozen=True)
class Difference:
    """An arm minus its baseline: the mean, an interval, and p where seeds are paired.

    `p` is the exact sign-flip test, `p_t` the paired t-test; `p_holm` and `p_t_holm` are corrected over the arms.
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
        # the first sign may stay: the other half of the patterns mirrors this one
        bits = (np.arange(1 << (n - 1))[:, None] >> np.arange(n - 1)) & 1
        sums = values[0] + (1 - 2 * bits) @ values[1:]
        return float(np.mean(np.abs(sums) >= observed - tolerance))
    rng = np.random.default_rng(20)
    hits = 0
    for _ in range(16):
        signs = rng.integers(0, 2, size=(draws // 16, n)) * 2 - 1
        hits += int(np.sum(np.abs(signs @ values) >= observed - tolerance))
    return (hits + 1) / (draws // 16 * 16 + 1)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the order given."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 400):
        step = 1.0
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return value


def t_tails(t: float, df: float) -> float:
    """The probability of both tails of Student's t beyond |t|."""
    if not math.isfinite(t):
        return 0.0
    a, b, x = df / 2, 0.5, df / (df + t * t)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(max(1 - x, 1e-300))
    )
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _beta_fraction(a, b, x) / a)
    return max(0.0, 1 - front * _beta_fraction(b, a, 1 - x) / b)


def t_quantile(confidence: float, df: float) -> float:
    """The half-width of a two-sided interval of Student's t, in standard errors."""
    low, high = 0.0, 1.0
    while t_tails(high, df) > 1 - confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, df) > 1 - confidence else (low, middle)
    return (low + high) / 2


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
    return Difference(mean, mean - half, mean + half, n, sd, p=sign_flip(values), p_t=t_tails(mean / error, n - 1))


def bootstrap(
    differences: Floats, weights: Floats | None = None, confidence: float = 0.95, resamples: int = 2000
) -> Difference | None:
    """The paired bootstrap over seeds × examples of a weighted mean difference.

    Args:
        differences: [seeds, examples], arm minus baseline; the examples are the same ones for each seed.
        weights: [examples] (tokens of the reference), so that the mean is that of the corpus.

    Seeds and examples are drawn with replacement independently of each other, since they are crossed. The percentile
    interval is too narrow for few seeds; its distances from the mean are therefore widened by sqrt(n / (n - 1)) times
    the ratio of Student's to the normal quantile (after Hesterberg 2015, "expanded" intervals, here as a scale so
    that it holds for 2 to 5 seeds as well). A single seed has no interval.
    """
    table = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    seeds, examples = table.shape
    if examples == 0 or seeds == 0:
        return None
    weight = np.ones(examples) if weights is None else np.asarray(weights, dtype=np.float64)
    by_seed = table @ weight / weight.sum()
    mean = float(by_seed.mean())
    if seeds == 1:
        return Difference(mean, None, None, 1)
    sd = float(by_seed.std(ddof=1))
    rng = np.random.default_rng(20)
    drawn = np.empty(resamples)
    for start in range(0, resamples, 500):
        size = min(500, resamples - start)
        of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size) / seeds
        of_examples = rng.multinomial(examples, np.full(examples, 1 / examples), size=size) * weight
        drawn[start : start + size] = ((of_seeds @ table) * of_examples).sum(axis=1) / of_examples.sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    normal = NormalDist().inv_cdf(1 - tail)
    scale = math.sqrt(seeds / (seeds - 1)) * t_quantile(confidence, seeds - 1) / normal
    return Difference(
        mean, mean + float(low - mean) * scale, mean + float(high - mean) * scale, seeds, sd, p=sign_flip(by_seed)
    )


def seeds_needed(difference: Difference, level: float, power: float = 0.8) -> int | None:
    """Roughly how many paired seeds a t-test needs at `level` and `power`, were the effect what it seems to be.

    Guenther's normal approximation (1981). None where the spread is unknown; capped at 1,000.
    """
    if difference.sd is None or difference.sd == 0 or difference.mean == 0:
        return None
    z = NormalDist().inv_cdf(1 - level / 2)
    size = (z + NormalDist().inv_cdf(power)) * difference.sd / abs(difference.mean)
    return max(FEWEST_SEEDS, min(1000, math.ceil(size**2 + z * z / 2)))


def correct(family: Sequence[Difference | None]) -> list[Difference | None]:
    """The same differences with Holm's correction over those that have a p."""
    tested = [item for item in family if item is not None and item.p is not None and item.p_t is not None]
    exact = iter(holm([item.p for item in tested if item.p is not None]))
    student = iter(holm([item.p_t for item in tested if item.p_t is not None]))
    return [
        Difference(**{**asdict(item), "p_holm": next(exact), "p_t_holm": next(student)})
        if item is not None and item.p is not None and item.p_t is not None
        else item
        for item in family
    ]


def judge(difference: Difference | None, tested: int, confidence: float = 0.95) -> str:
    """`better`, `worse` or `cannot tell`, of a figure for which less is better.

    The one rule, for `tested` arms at the level 1 - confidence:
    1. at least three paired seeds;
    2. the t-interval of the paired differences excludes zero, and so does the t-test after Holm;
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
    return "better" if difference.mean < 0 else "worse"


def exact_can_speak(seeds: int, tested: int, confidence: float = 0.95) -> bool:
    """Whether the smallest p of an exact sign-flip test with `seeds` seeds survives Holm over `tested` arms."""
    return 2.0 ** (1 - seeds) * max(tested, 1) <= 1 - confidence + 1e-12


def median_censored(values: Sequence[float | None], bounds: Sequence[float]) -> tuple[float | None, float | None]:
    """The median of shares of which some (None) are only known to lie above their bound: (median, None), or
    (None, bound) where the median itself is censored, or (None, None) of nothing."""
    if not values:
        return None, None
    ordered = sorted(
        ((math.inf if value is None else value), bound) for value, bound in zip(values, bounds, strict=True)
    )
    middle = [ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]
    if math.isinf(middle[1][0]):
        return None, min(bound for value, bound in ordered if math.isinf(value))
    return (middle[0][0] + middle[1][0]) / 2, None
