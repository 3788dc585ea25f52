"""The figures of single runs, and their means over the runs of an arm."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from graftlm.report import statistics as stats
from graftlm.report.records import Run, mapping, number

READS = 0.05  # nats a token by which wrong sources must be worse for a model to be said to read its source
SCORES = ("rouge1", "rouge2", "rougeL", "chrf", "bleu")


def curve_area(run: Run, other: Run | None = None) -> float:
    """The primary figure: the mean validation loss over log steps, over the steps that `other` has as well."""
    steps = run.curve["step"]
    if other is None:
        return stats.area(steps, run.curve["loss"])
    first, last = max(steps[0], other.curve["step"][0]), min(steps[-1], other.curve["step"][-1])
    return stats.area(steps, run.curve["loss"], float(first), float(last))


def score(name: str) -> Callable[[Run, Run | None], float | None]:
    return lambda run, _: number((run.scores.get("all") or {}).get(name))


READ: dict[str, Callable[[Run, Run | None], float | None]] = {
    "auc": curve_area,
    "val_loss": lambda run, _: float(run.curve["loss"][-1]),
    "test_loss": lambda run, _: number(run.scores.get("loss")),
    "gap": lambda run, _: number(run.scores.get("gap")),
}


def figures_of(run: Run, base: Run | None) -> dict[str, Any]:
    """All figures of one run; a share is None where the baseline's best was never reached (then see `..._above`)."""
    curve, cost, donor = run.curve, run.cost, run.donor_cost
    figures: dict[str, Any] = {
        "finetune_seed": run.finetune_seed,
        "pretrain_seed": run.pretrain_seed,
        "auc": curve_area(run),
        "first_loss": float(curve["loss"][0]),
        "val_loss": float(curve["loss"][-1]),
        "val_loss_best": float(np.nanmin(curve["loss"])),
        "test_loss": number(run.scores.get("loss")),
        "gap": number(run.scores.get("gap")),
        **{name: value for name in (*SCORES, "length_ratio") if (value := score(name)(run, None)) is not None},
        "seconds": cost.get("seconds"),
        "graft_seconds": cost.get("graft_seconds"),
        "donor_seconds": donor.get("seconds", 0.0),
        "flops": cost.get("flops"),
        "donor_flops": charged_before(run),
        "parameters": cost.get("parameters"),
        "command": run.command,
        "job": run.job,
    }
    figures["read_steps"], figures["read_steps_above"] = read_steps(run)
    if base is None or base is run:
        return figures
    best = int(np.argmin(base.curve["loss"]))
    goal, needed = float(base.curve["loss"][best]), float(base.curve["step"][best])
    if needed <= 0:
        return figures
    reached = stats.first_reach(curve["step"], curve["loss"], goal)
    last = float(curve["step"][-1])
    figures["steps_share"] = None if reached is None else reached / needed
    figures["steps_share_above"] = last / needed if reached is None else None
    spent = charged_before(base) + flops_at(base, needed)  # a baseline may be grafted itself
    if spent:
        charged = charged_before(run) + flops_at(run, last if reached is None else reached)
        figures["compute_share"] = None if reached is None else charged / spent
        figures["compute_share_above"] = charged / spent if reached is None else None
    return figures


def read_steps(run: Run) -> tuple[float | None, float | None]:
    """The step at which the shuffled-source gap first reaches `READS`, or None and the step up to which it did not."""
    steps, gap = run.curve["step"], run.curve.get("gap")
    known = np.isfinite(gap) if gap is not None else np.zeros(len(steps), dtype=bool)
    if gap is None or not known.any():
        return None, None
    reached = stats.first_reach(steps[known], -gap[known], -READS)
    return (reached, None) if reached is not None else (None, float(steps[known][-1]))


def charged_before(run: Run) -> float:
    """What an arm has spent before its first step: the donor's training and the graft."""
    return float(run.donor_cost.get("flops") or 0.0) + float(run.cost.get("graft_flops") or 0.0)


def flops_at(run: Run, step: float) -> float:
    """The fine-tuning flops spent up to a step: the total by the share of tokens read (of steps where unknown).

    Steps in which layers are frozen cost less, and come first: this charges them what steps cost on average, so a graft
    that reaches its goal early is charged somewhat too much.
    """
    total, steps = run.cost.get("flops"), run.curve["step"]
    tokens = run.curve["tokens"]
    if total is None:
        return 0.0
    if np.all(np.isfinite(tokens)) and tokens[-1] > 0:
        whole = max(float(tokens[-1]), run.cost.get("tokens", 0.0))
        return total * float(np.interp(step, steps, tokens)) / whole
    return total * step / max(float(steps[-1]), run.cost.get("steps", 0.0), 1.0)


def means_of(seeds: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Means over seeds; of the censored shares the median, with its bound where it is censored itself."""
    names = dict.fromkeys(name for item in seeds for name in item)
    mean: dict[str, float | None] = {}
    for name in names:
        if name in ("finetune_seed", "pretrain_seed", "command", "job") or name.endswith("_above"):
            continue
        if name.endswith("_share") or name == "read_steps":
            told = [item for item in seeds if name in item]
            bounds = [item.get(f"{name}_above") or math.inf for item in told]
            mean[name], mean[f"{name}_above"] = stats.median_censored([item[name] for item in told], bounds)
            continue
        values = [found for item in seeds if (found := number(item.get(name))) is not None]
        mean[name] = fmean(values) if values else None
    return mean


def languages_of(runs: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """Mean scores over seeds, per language; the lead-1 line's as `lead1.NAME`."""
    gathered: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        tables = {"all": run.scores.get("all"), **(run.scores.get("languages") or {})}
        for code, table in tables.items():
            lead = mapping((table or {}).get("lead1"))
            lines = {**(table or {}), **{f"lead1.{name}": value for name, value in lead.items()}}
            for name, value in lines.items():
                if (found := number(value)) is not None:
                    gathered[str(code)][name].append(found)
    return {code: {name: fmean(values) for name, values in table.items()} for code, table in gathered.items()}


def fidelity_of(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The first run's fidelity: before and after the graft, on the donor's held-out text."""
    for run in runs:
        found: dict[str, Any] | None = (run.transfer or {}).get("fidelity")
        if found:
            return found
    return None
