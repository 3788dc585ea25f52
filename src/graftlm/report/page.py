"""report.html: one file that needs no network. Tables are in the HTML, plots are drawn from embedded figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from graftlm.report.collect import Arm, Collection
from graftlm.report.compare import FIGURES, ArmReport, Report, clean
from graftlm.report.figures import charged_before, flops_at
from graftlm.report.records import Run, number
from graftlm.report.samples import choose
from graftlm.report.statistics import Floats
from graftlm.report.tables import codes, grafts, grid, scores, varying
from graftlm.report.tensormap import MARKS, MEANING, STATUSES
from graftlm.report.text import duration, flops, interval, pvalue, share, show, signed

HERE = Path(__file__).parent
POINTS = 100  # of a curve on the page
COLOURS = 7
MAX_RUN_LINES = 240  # thin lines of single runs; beyond, only bands are drawn


def render(report: Report, collection: Collection) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {"number": show, "seconds": duration, "flops": flops, "signed": signed, "interval": interval, "pvalue": pvalue}
    )
    styles = _styles(report.arms)
    compared = [arm for arm in report.arms if arm.difference]
    figures = [
        {"id": name, "label": label, "less": less}
        for name, (label, less) in FIGURES.items()
        if any(name in arm.difference for arm in compared)
    ]
    return environment.get_template("page.html").render(
        report=report,
        arms=report.arms,
        compared=compared,
        lead=_lead(report),
        figures=figures,
        quality=[item for item in figures if item["id"] in ("rougeL", "chrf", "bleu")],
        styles=styles,
        share=share,
        grafts=grafts(collection.arms),
        statuses=STATUSES,
        marks=MARKS,
        meaning=MEANING,
        languages=codes(report.arms),
        metrics=scores(report.arms),
        grid=grid(collection.arms, report.arms),
        samples=choose(collection.arms, collection.samples),
        varying=varying(collection),
        data=embed(_plots(report, collection, styles)),
        css=_trusted("page.css"),
        js=_trusted("page.js"),
        plotly=Markup(get_plotlyjs()),
        generated=_stamp(),
    )


def _trusted(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def embed(value: Any) -> Markup:
    """JSON that is safe inside a script element: no text of the data can end the element or open a comment."""
    text = json.dumps(clean(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _stamp() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _styles(arms: Sequence[ArmReport]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each arm, the same in every plot and table: the baseline grey, controls dashed."""
    symbols = ("circle", "square", "diamond", "triangle-up", "cross", "star")
    styles: dict[str, dict[str, Any]] = {}
    place = 0
    for arm in arms:
        if arm.is_baseline:
            styles[arm.name] = {"colour": 0, "dash": "solid", "symbol": "circle"}
            continue
        styles[arm.name] = {
            "colour": 1 + place % COLOURS,
            "dash": "dash" if arm.control else "solid",
            "symbol": symbols[(place // COLOURS) % len(symbols)] + ("-open" if arm.control else ""),
        }
        place += 1
    return styles


def _lead(report: Report) -> ArmReport | None:
    """The arm that the verdict is about: its name opens one of the two sentences."""
    candidates = [arm for arm in report.arms if "auc" in arm.difference and not arm.control] or [
        arm for arm in report.arms if "auc" in arm.difference
    ]
    rank = {"better": 0, "cannot tell": 1, "worse": 2}
    return min(candidates, key=lambda arm: (rank[arm.word], arm.difference["auc"].mean), default=None)


# --- what the plots are drawn from -----------------------------------------------------------------------------------


def _plots(report: Report, collection: Collection, styles: dict[str, dict[str, Any]]) -> dict[str, Any]:
    runs = sum(len(arm.runs) for arm in collection.arms)
    by_name = {arm.name: arm for arm in collection.arms}
    return {
        "arms": [
            {
                "name": result.name,
                "control": result.control,
                "baseline": result.is_baseline,
                **styles[result.name],
                "curves": _curves(arm, by_name.get(result.compared_to or ""), lines=runs <= MAX_RUN_LINES),
                "difference": {
                    name: {**item.to_json(), "seeds": _seed_differences(result, report, name)}
                    for name, item in result.difference.items()
                },
                "gaps": [item["gap"] for item in result.seeds if item.get("gap") is not None],
                "words": result.words,
                "fidelity": _layers(result.fidelity),
                "languages": result.languages,
            }
            for result, arm in zip(report.arms, collection.arms, strict=True)
        ],
        "figures": {name: {"label": label, "less": less} for name, (label, less) in FIGURES.items()},
        "confidence": report.confidence,
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


def _curves(arm: Arm, base: Arm | None, lines: bool) -> dict[str, Any]:
    """Mean, least and greatest over the runs on one grid of steps, and (where not too many) each run's values on it."""
    longest = max(arm.runs, key=lambda run: len(run.curve["step"]))
    grid = thin(longest.curve["step"])
    names = [name for name in ("loss", "gap", "chrf", "loss_shuffled") if any(name in run.curve for run in arm.runs)]
    tables = {name: np.array([_on(run, name, grid) for run in arm.runs]) for name in names}
    if base is not None:
        theirs = {run.finetune_seed: _on(run, "loss", grid) for run in base.runs}
        tables["difference"] = np.array(
            [row - theirs.get(run.finetune_seed, np.nan) for run, row in zip(arm.runs, tables["loss"], strict=True)]
        )
    values: dict[str, Any] = {}
    for name, table in tables.items():
        known = np.isfinite(table)
        count = known.sum(axis=0)
        values[name] = {
            "mean": _round(_mean(table)),
            "low": _round(np.where(count > 0, np.where(known, table, np.inf).min(axis=0), np.nan)),
            "high": _round(np.where(count > 0, np.where(known, table, -np.inf).max(axis=0), np.nan)),
            "runs": [_round(row) for row in table] if lines else [],
        }
    spent = np.mean([[flops_at(run, step) for step in grid] for run in arm.runs], axis=0)
    donor = float(np.mean([charged_before(run) for run in arm.runs]))
    seen = _mean(np.array([_on(run, "examples", grid) for run in arm.runs]))
    return {
        "step": [float(step) for step in grid],
        "examples": _round(seen),
        "flops": [float(f"{value:.4g}") for value in spent + donor],
        "seeds": [_seed_name(run) for run in arm.runs],
        "values": values,
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


def _on(run: Run, name: str, grid: Floats) -> Floats:
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
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def _layers(fidelity: dict[str, Any] | None) -> dict[str, Any] | None:
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
