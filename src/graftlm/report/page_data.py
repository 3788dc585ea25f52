"""What the plots are drawn from: curves on few points, fidelity by layer, tensors, costs. All of it plain JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from graftlm.report.collect import Arm, Collection
from graftlm.report.compare import FIGURES, ArmReport, Report
from graftlm.report.figures import charged_before, flops_at
from graftlm.report.page_axes import heat_map
from graftlm.report.page_style import FEW, digits, first_shown, primary
from graftlm.report.records import Run, number
from graftlm.report.statistics import Floats

POINTS = 80  # of a curve on the page
MAX_RUN_LINES = 240  # thin lines of single runs; beyond, only bands are drawn
CURVES = ("loss", "gap", "chrf")


def plots(
    report: Report, collection: Collection, styles: dict[str, dict[str, Any]], labels: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """All figures of the page by arm."""
    runs = sum(len(arm.runs) for arm in collection.arms)
    by_name = {arm.name: arm for arm in collection.arms}
    main = primary(report)
    shown = set(first_shown(report.arms, main))
    return {
        "arms": [
            {
                "name": result.name,
                "label": labels[result.name]["brief"],
                "control": result.control,
                "baseline": result.is_baseline,
                "shown": result.name in shown,
                **styles[result.name],
                "curves": curves(arm, by_name.get(result.compared_to or ""), lines=runs <= MAX_RUN_LINES),
                "difference": {
                    name: {
                        **{key: getattr(item, key) for key in ("mean", "low", "high", "n")},
                        "seeds": _seed_differences(result, report, name),
                    }
                    for name, item in result.difference.items()
                },
                "shares": {name: result.mean.get(name) for name in ("steps_share", "compute_share")},
                "gaps": [item["gap"] for item in result.seeds if item.get("gap") is not None],
                "word": result.word,
                "sure": result.word in ("better", "worse"),
                "fidelity": layers(result.fidelity),
                "languages": result.languages,
                "cost": costs(arm),
            }
            for result, arm in zip(report.arms, collection.arms, strict=True)
        ],
        "figures": {
            name: {"label": label, "less": less, "digits": digits(name, less)}
            for name, (label, less) in FIGURES.items()
        },
        "primary": main,
        "few": FEW,
        "heat": heat_map(collection.arms, report.arms, main),
        "confidence": report.confidence,
    }


def costs(arm: Arm) -> dict[str, list[float]]:
    """Means over runs, [donor, graft, fine-tuning]; the donor's training in full, though arms may share one."""

    def mean(name: str, of: str) -> float:
        tables = [run.donor_cost if of == "donor" else run.cost for run in arm.runs]
        return fmean(table.get(name, 0.0) or 0.0 for table in tables) if tables else 0.0

    return {
        name: [float(f"{value:.4g}") for value in (mean(name, "donor"), mean(f"graft_{name}", ""), mean(name, ""))]
        for name in ("flops", "seconds")
    }


def _seed_differences(arm: ArmReport, report: Report, name: str) -> list[float]:
    """One faint point a run beside the mean of the forest plot."""
    base = next((item for item in report.arms if item.name == arm.compared_to), None)
    theirs = {item["finetune_seed"]: number(item.get(name)) for item in base.seeds} if base else {}
    found = []
    for item in arm.seeds:
        ours, other = number(item.get(name)), theirs.get(item["finetune_seed"])
        if ours is not None and other is not None:
            found.append(round(ours - other, 5))
    return found


def curves(arm: Arm, base: Arm | None, lines: bool) -> dict[str, Any]:
    """Mean, least and greatest over the runs on one grid of steps, and (where not too many) each run's values on it."""
    longest = max(arm.runs, key=lambda run: len(run.curve["step"]))
    grid = thin(longest.curve["step"])
    names = [name for name in CURVES if any(name in run.curve for run in arm.runs)]
    tables = {name: np.array([on(run, name, grid) for run in arm.runs]) for name in names}
    if base is not None:
        theirs = {run.finetune_seed: on(run, "loss", grid) for run in base.runs}
        tables["difference"] = np.array(
            [row - theirs.get(run.finetune_seed, np.nan) for run, row in zip(arm.runs, tables["loss"], strict=True)]
        )
    values: dict[str, Any] = {}
    for name, table in tables.items():
        known = np.isfinite(table)
        count = known.sum(axis=0)
        if not count.any():
            continue
        values[name] = {"mean": _round(_mean(table))}
        if len(arm.runs) > 1:
            values[name]["low"] = _round(np.where(count > 0, np.where(known, table, np.inf).min(axis=0), np.nan))
            values[name]["high"] = _round(np.where(count > 0, np.where(known, table, -np.inf).max(axis=0), np.nan))
            values[name]["runs"] = [_round(row) for row in table] if lines else []
    spent = np.mean([[flops_at(run, step) for step in grid] for run in arm.runs], axis=0)
    donor = float(np.mean([charged_before(run) for run in arm.runs]))
    waited = fmean(run.donor_cost.get("seconds", 0.0) + run.cost.get("graft_seconds", 0.0) for run in arm.runs)
    return {
        "step": [float(step) for step in grid],
        **{name: _round(_mean(np.array([on(run, name, grid) for run in arm.runs]))) for name in ("examples", "tokens")},
        "flops": [float(f"{value:.4g}") for value in spent + donor],
        # a run's own clock starts after its graft
        "seconds": _round(_mean(np.array([on(run, "seconds", grid) for run in arm.runs])) + waited),
        "seeds": [_seed_name(run) for run in arm.runs],
        "values": values,
    }


def curve_table(arms: Sequence[Arm], columns: int = 7) -> dict[str, Any] | None:
    """The mean validation loss of each arm at a few steps of the longest curve, even in log steps."""
    runs = [run for arm in arms for run in arm.runs]
    if not runs:
        return None
    steps = max((run.curve["step"] for run in runs), key=len)
    places = np.searchsorted(np.log1p(steps), np.linspace(np.log1p(steps[0]), np.log1p(steps[-1]), columns) - 1e-9)
    at = steps[np.unique(places.clip(0, len(steps) - 1))]
    return {
        "steps": at.tolist(),
        "rows": [_mean(np.array([on(run, "loss", at) for run in arm.runs])).tolist() for arm in arms],
    }


def _mean(table: Floats) -> Floats:
    """Means over the rows, of the values that are known; nan where none is."""
    known = np.isfinite(table)
    count = known.sum(axis=0)
    total = np.where(known, table, 0).sum(axis=0)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _seed_name(run: Run) -> str:
    return f"seed {run.finetune_seed}" + (f", donor {run.pretrain_seed}" if run.pretrain_seed is not None else "")


def on(run: Run, name: str, grid: Floats) -> Floats:
    """A run's values on a grid of steps; nan beyond its own steps and where it has none."""
    steps = run.curve["step"]
    values = run.curve.get(name)
    if values is None:
        return np.full(len(grid), np.nan)
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(grid), np.nan)
    return np.interp(grid, steps[known], values[known], left=np.nan, right=np.nan)


def thin(steps: Floats, points: int = POINTS) -> Floats:
    """At most about `points` of the steps: half of them even in steps, half even in log steps, both ends kept."""
    if len(steps) <= points:
        return steps
    even = np.linspace(0, len(steps) - 1, points // 2).round().astype(int)
    logs = np.log1p(steps)
    log_even = np.searchsorted(logs, np.linspace(logs[0], logs[-1], points // 2)).clip(0, len(steps) - 1)
    kept: Floats = steps[np.unique(np.concatenate([even, log_even]))]
    return kept


def _round(values: Floats) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]


def layers(fidelity: dict[str, Any] | None) -> dict[str, Any] | None:
    """Fidelity by encoder layer, before and after the graft."""
    rows = (fidelity or {}).get("layers") or []
    if not rows:
        return None
    return {
        "layer": [index if row["layer"] is None else row["layer"] for index, row in enumerate(rows)],
        **{
            when: {name: [number(row[when].get(name)) for row in rows] for name in ("cka", "cosine", "relative_error")}
            for when in ("before", "after")
        },
        "norms": _norms(fidelity or {}, len(rows)),
    }


def _norms(fidelity: dict[str, Any], points: int) -> list[str]:
    """For each point of the plot how much σ varies in the donor's layer that begins there."""
    known = {int(row["layer"]): row for row in fidelity.get("norms") or [] if "layer" in row}
    if points == 1:
        return [""]
    names = (("attention", "attention_sigma_cv"), ("FFN", "ffn_sigma_cv"))
    told = []
    for layer in range(points):
        figures = [f"{label} {known[layer][name]:.2f}" for label, name in names if name in known.get(layer, {})]
        told.append(f"<br>donor’s σ varies by: {', '.join(figures)}" if figures else "")
    return told
