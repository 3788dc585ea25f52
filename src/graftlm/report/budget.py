"""What an arm needs to reach the baseline's best, and where it stands when it has spent what the baseline spent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from graftlm.report import statistics as stats
from graftlm.report.figures import charged_before, flops_at
from graftlm.report.records import Run


def loss_at_equal_compute(run: Run, base: Run) -> float | None:
    """The validation loss of a run at the compute that its baseline spent in all, donor and graft charged.

    Read off the curve, linearly in compute. A run that ended cheaper has its last loss. nan where the donor and the
    graft alone cost more, None where the compute is not known.
    """
    budget = charged_before(base) + flops_at(base, float(base.curve["step"][-1]))
    spent = np.array([flops_at(run, float(step)) for step in run.curve["step"]])
    if budget <= 0 or spent[-1] <= 0:
        return None
    left = budget - charged_before(run)
    if left < spent[0]:
        return math.nan
    return float(np.interp(left, spent, run.curve["loss"]))


def equal_compute(
    pairs: Sequence[tuple[Run, Run]], confidence: float
) -> tuple[dict[str, Any], stats.Difference | None]:
    """What `equal_compute` of an arm holds, and the paired difference from the baseline's last loss.

    There is no difference where a seed did not get that far: the others would be a choice of the better ones.
    """
    losses: dict[int, list[float]] = defaultdict(list)
    apart: dict[int, list[float]] = defaultdict(list)
    missed = 0
    for run, base in pairs:
        loss = loss_at_equal_compute(run, base)
        if loss is None:
            continue
        if math.isnan(loss):
            missed += 1
            continue
        losses[run.finetune_seed].append(loss)
        apart[run.finetune_seed].append(loss - float(base.curve["loss"][-1]))
    told = {seed: fmean(values) for seed, values in sorted(losses.items())}
    mean = fmean(told.values()) if told else None
    words = ""
    if missed:
        words = "not reached" if not told else f"not reached by {missed} of {missed + len(told)}"
        words += ": the donor and the graft alone cost more than the baseline"
    found = {"loss": mean, "n": len(told), "not_reached": missed, "words": words}
    if missed or not told:
        return found, None
    return found, stats.paired([fmean(values) for _, values in sorted(apart.items())], confidence)


def to_best(seeds: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """The shares of the baseline's steps and compute to its best loss: medians over seeds, with exact intervals."""
    return {kind: _censored(seeds, f"{kind}_share", confidence).to_json() for kind in ("steps", "compute")}


def _censored(seeds: Sequence[dict[str, Any]], name: str, confidence: float) -> stats.Censored:
    """Several donors of one seed are one value, censored where any of them is, so that seeds stay independent."""
    by_seed: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in seeds:
        if item.get(name) is not None or item.get(f"{name}_above") is not None:
            by_seed[item["finetune_seed"]].append(item)
    values: list[float | None] = []
    bounds: list[float] = []
    for _, items in sorted(by_seed.items()):
        reached = [item[name] for item in items if item.get(name) is not None]
        values.append(fmean(reached) if len(reached) == len(items) else None)
        above = [item[f"{name}_above"] for item in items if item.get(f"{name}_above") is not None]
        bounds.append(min(above, default=math.inf))
    return stats.censored(values, bounds, confidence)
