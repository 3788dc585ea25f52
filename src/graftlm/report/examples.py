"""The differences of which single examples are known: test loss, ROUGE, chrF and BLEU, whole and by language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftlm.report.bootstrap import Draws, Measure, crossed, kish, linear, randomised
from graftlm.report.records import Run, number
from graftlm.report.statistics import Difference, Floats
from graftlm.scores import ROUGE, bleu_of, chrf_of

FEWEST = 5  # examples of a language below which it has no interval of its own
_COUNTS = {"chrf": (18, chrf_of), "bleu": (10, bleu_of)}


@dataclass(frozen=True)
class Examples:
    """The examples of one run as arrays, in the order of `index`: values [examples] or, of counts, [examples, n]."""

    index: NDArray[np.int64]
    languages: NDArray[np.str_]
    tokens: Floats
    values: dict[str, Floats]


def examples_of(run: Run) -> Examples | None:
    """The arrays of a run, made once; None where no example has a loss."""
    if "examples" not in run.extra:
        run.extra["examples"] = _read(run.examples)
    found: Examples | None = run.extra["examples"]
    return found


def _read(rows: Sequence[dict[str, Any]]) -> Examples | None:
    by_index = {row["index"]: row for row in rows if number(row.get("loss")) is not None}
    if not by_index:
        return None
    order = sorted(by_index)
    kept = [by_index[index] for index in order]
    values = {name: _column(kept, name) for name in ("loss", *ROUGE)}
    for name, (size, _) in _COUNTS.items():
        table = _counts(kept, f"{name}_counts", size)
        if table is not None:
            values[name] = table
    tokens = _column(kept, "tokens")
    return Examples(
        np.array(order, dtype=np.int64),
        np.array([str(row.get("target_lang") or "") for row in kept]),
        np.where(tokens > 0, tokens, 1.0),
        {name: table for name, table in values.items() if np.isfinite(table).any()},
    )


def _column(rows: Sequence[dict[str, Any]], name: str) -> Floats:
    found = (number(row.get(name)) for row in rows)
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _counts(rows: Sequence[dict[str, Any]], name: str, size: int) -> Floats | None:
    """[examples, size]; None where any row lacks its counts, as those of earlier versions do."""
    try:
        table = np.array([row[name] for row in rows], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return table if table.shape == (len(rows), size) and np.isfinite(table).all() else None


def differences(
    pairs: Sequence[tuple[Run, Run]], confidence: float, resamples: int
) -> tuple[dict[str, Difference], dict[str, dict[str, Difference]]]:
    """Of runs and their baselines of the same seed: the difference of each figure, over all examples and by language.

    Several donors of one fine-tuning seed are averaged, so that seeds stay independent. Only examples that all runs
    have are compared.
    """
    tables = [(examples_of(run), examples_of(base)) for run, base in pairs]
    known = [(ours, theirs) for ours, theirs in tables if ours is not None and theirs is not None]
    if not known or len(known) < len(tables):
        return {}, {}
    common = known[0][0].index
    for both in known:
        for table in both:
            common = np.intersect1d(common, table.index, assume_unique=True)
    if not len(common):
        return {}, {}
    seeds = sorted({run.finetune_seed for run, _ in pairs})
    of_seed = np.array([[run.finetune_seed == seed for seed in seeds] for run, _ in pairs], dtype=np.float64)
    of_seed /= of_seed.sum(axis=0)
    first = known[0][0]
    places = np.searchsorted(first.index, common)
    aligned = _Aligned(known, common, of_seed, first.tokens[places])
    whole = {
        name: difference
        for name in ("loss", *ROUGE, *_COUNTS)
        if (difference := aligned.difference(name, None, confidence, resamples)) is not None
    }
    languages = first.languages[places]
    codes = sorted(set(languages.tolist()) - {""})
    parts: dict[str, dict[str, Difference]] = {}
    for code in codes:
        chosen = np.flatnonzero(languages == code)
        if len(chosen) == len(common):
            parts[code] = whole
        elif len(chosen) >= FEWEST:
            found = {name: aligned.difference(name, chosen, confidence, resamples) for name in whole}
            parts[code] = {name: difference for name, difference in found.items() if difference is not None}
    return _named(whole), {code: _named(table) for code, table in parts.items() if table}


def _named(table: dict[str, Difference]) -> dict[str, Difference]:
    return {"test_loss" if name == "loss" else name: difference for name, difference in table.items()}


class _Aligned:
    """The values of the examples that all pairs of runs have."""

    def __init__(
        self, pairs: Sequence[tuple[Examples, Examples]], common: NDArray[np.int64], of_seed: Floats, tokens: Floats
    ):
        self.of_seed, self.tokens = of_seed, tokens
        self._places = [tuple(np.searchsorted(table.index, common) for table in both) for both in pairs]
        self._pairs = pairs
        self._cached: dict[str, tuple[Floats, Floats] | None] = {}

    def _values(self, name: str) -> tuple[Floats, Floats] | None:
        """Ours and theirs, [pairs, examples, ...]; None where a run lacks the figure."""
        if name not in self._cached:
            complete = all(name in table.values for both in self._pairs for table in both)
            self._cached[name] = (
                (
                    np.stack([both[0].values[name][at[0]] for both, at in zip(self._pairs, self._places, strict=True)]),
                    np.stack([both[1].values[name][at[1]] for both, at in zip(self._pairs, self._places, strict=True)]),
                )
                if complete
                else None
            )
        return self._cached[name]

    def difference(
        self, name: str, chosen: NDArray[np.int64] | None, confidence: float, resamples: int
    ) -> Difference | None:
        """Over all examples or the `chosen` ones; p over examples for all only."""
        values = self._values(name)
        if values is None:
            return None
        ours, theirs = values if chosen is None else (values[0][:, chosen], values[1][:, chosen])
        tokens = self.tokens if chosen is None else self.tokens[chosen]
        if name in _COUNTS:
            measure, swapped = self._of_counts(ours, theirs, name)
            count, effective = ours.shape[1], None
        else:
            table = self.of_seed.T @ (ours - theirs)
            fits = np.all(np.isfinite(table), axis=0)
            if not fits.any():
                return None
            table, weights = table[:, fits], tokens[fits] if name == "loss" else None
            measure, count = linear(table, weights), table.shape[1]
            effective = None if weights is None else kish(weights)
            swapped = _flipped(table, weights)
        found = crossed(measure, count, effective, confidence=confidence, resamples=resamples)
        if found is not None and chosen is None and count > 1:
            found = replace(found, p_examples=randomised(swapped, count, resamples))
        return found

    def _of_counts(self, ours: Floats, theirs: Floats, name: str) -> tuple[Measure, Measure]:
        pairs, count, size = ours.shape
        score, of_seed = _COUNTS[name][1], self.of_seed
        first, second = (
            np.moveaxis(table, 1, 0).reshape(count, pairs * size).astype(np.float32) for table in (ours, theirs)
        )
        apart, both = first - second, (first + second).sum(axis=0)

        def scored(sums: Any) -> Floats:
            result: Floats = score(sums.reshape(len(sums), pairs, size))
            return result

        def measure(drawn: Draws) -> Floats:
            result: Floats = (scored(drawn @ first) - scored(drawn @ second)) @ of_seed
            return result

        def swapped(kept: Draws) -> Floats:
            one = second.sum(axis=0) + kept @ apart
            result: Floats = (scored(one) - scored(both - one)) @ of_seed
            return result

        return measure, swapped


def _flipped(table: Floats, weights: Floats | None) -> Measure:
    weight = np.ones(table.shape[1]) if weights is None else weights

    def swapped(kept: Draws) -> Floats:
        result: Floats = (2 * kept - 1) @ (table * weight).T / weight.sum()
        return result

    return swapped
