"""Intervals over seeds × examples, for figures of which single examples are known.

An example is the same text for every seed and for both arms: a crossed design. Resampling both (the pigeonhole
bootstrap, Owen 2007) gives the shape; its width is set by the variance of two crossed samples (Cameron, Gelbach and
Miller 2011) and Student's t with Satterthwaite's degrees of freedom, because a percentile bootstrap over a handful of
seeds is too narrow. Coverage is tested where seeds, where examples and where both carry the spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graftlm.report.statistics import Difference, Floats, paired, t_quantile

Draws = NDArray[np.float32]
# how often each example is drawn, [draws, examples], → the difference of each seed, [draws, seeds]
Measure = Callable[[Draws], Floats]

_CHUNK = 4_000_000  # numbers held at a time


def crossed(
    measure: Measure,
    examples: int,
    effective: float | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Difference | None:
    """The mean over seeds of a difference that `measure` takes over weighted examples, with its bootstrap interval.

    `effective`: how many examples of one weight the weighted ones are worth (Kish). One seed has no interval, and
    neither have seeds that all gave the same.
    """
    if examples < 1:
        return None
    by_seed = measure(np.ones((1, examples), dtype=np.float32))[0]
    if not np.all(np.isfinite(by_seed)):
        return None
    found = paired(by_seed.tolist(), confidence)
    if found is None:
        return None
    found = replace(found, method="bootstrap", examples=examples)
    if found.low is None or examples < 2:
        return found
    drawn = np.concatenate([measure(weights) for weights in resampled(examples, resamples)])
    drawn = drawn[np.all(np.isfinite(drawn), axis=1)]
    if len(drawn) < resamples // 2:
        return replace(found, method="t")
    return _with_interval(found, by_seed, drawn, examples if effective is None else effective, confidence)


def _with_interval(found: Difference, by_seed: Floats, drawn: Floats, examples: float, confidence: float) -> Difference:
    seeds = len(by_seed)
    few = examples / max(examples - 1, 1)
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    of_examples = float(drawn.mean(axis=1).var()) * few
    # what seeds share of an example is counted in both: the examples' own part of each seed is taken out once
    table = np.cov(drawn, rowvar=False) * few
    alone = float(np.trace(table)) / seeds
    shared = (float(table.sum()) - float(np.trace(table))) / (seeds * (seeds - 1))
    variance = max(of_seeds + of_examples - max(0.0, alone - shared) / seeds, of_seeds, of_examples)
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_examples**2 / max(examples - 1, 1) or math.inf)
    rng = np.random.default_rng(21)
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(drawn)) / seeds
    both = (chosen * drawn).sum(axis=1)
    spread = float(both.std())
    if spread == 0 or variance == 0:
        return replace(found, low=None, high=None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(both - both.mean(), [tail, 1 - tail])
    from scipy.special import ndtri

    scale = math.sqrt(variance) / spread * t_quantile(confidence, max(freedom, 1.0)) / float(ndtri(1 - tail))
    return replace(found, low=found.mean + float(low) * scale, high=found.mean + float(high) * scale)


def randomised(measure: Measure, examples: int, draws: int = 2000) -> float:
    """Two-sided p of approximate randomisation (Noreen 1989; Riezler and Maxwell 2005): each example's two outputs
    change arms or stay, in all seeds at once.

    `measure` takes 1 where an example keeps its arm and 0 where it changes it. As in sacrebleu, only a greater
    difference counts, and the observed one is counted in.
    """
    observed = abs(float(measure(np.ones((1, examples), dtype=np.float32))[0].mean()))
    rng = np.random.default_rng(22)
    size = max(1, _CHUNK // examples)
    hits = total = 0
    while total < draws:
        some = min(size, draws - total)
        kept = rng.integers(0, 2, size=(some, examples)).astype(np.float32)
        hits += int(np.sum(np.abs(measure(kept).mean(axis=1)) > observed * (1 + 1e-6) + 1e-9))
        total += some
    return (hits + 1) / (draws + 1)


def resampled(examples: int, resamples: int) -> Iterator[Draws]:
    """How often each example is drawn, [draws, examples] a time: the same draws for the same number of examples."""
    rng = np.random.default_rng(20)
    size = max(1, _CHUNK // examples)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        chosen = rng.integers(0, examples, size=(rows, examples)) + np.arange(rows)[:, None] * examples
        yield np.bincount(chosen.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float32)


def linear(differences: Floats, weights: Floats | None = None) -> Measure:
    """The measure of a weighted mean of [seeds, examples] differences."""
    weight = np.ones(differences.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)

    def measure(drawn: Draws) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = drawn @ (differences * weight).T / (drawn @ weight)[:, None]
        return result

    return measure


def kish(weights: Floats) -> float:
    """How many examples of one weight the weighted ones are worth."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def bootstrap(
    differences: Floats | Sequence[Sequence[float]],
    weights: Floats | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Difference | None:
    """`crossed` of a [seeds, examples] table of paired differences, weighted by `weights` (one an example)."""
    table = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    if table.size == 0:
        return None
    effective = None if weights is None else kish(np.asarray(weights, dtype=np.float64))
    return crossed(linear(table, weights), table.shape[1], effective, confidence=confidence, resamples=resamples)
