"""The comparison of a sweep as a W&B run of its own: verdict, differences with their intervals, the report's files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.errors import first_line
from graftlm.tracking import cells, lineage
from graftlm.tracking.records import artifacts_of, job_records

if TYPE_CHECKING:
    from graftlm.running import LoggerSettings

FILES = ("report.html", "report.json", "report.md", "report.tex", "arms.csv", "runs.csv", "curves.csv")
FOREST = "forest"  # the figure of differences, by the name that the dashboard asks for
ARMS = "arms"  # the table
_FIGURES = ("auc", "equal_compute", "val_loss", "test_loss", "gap", "rougeL", "chrf", "bleu")


def track_report(folder: Path, logger: LoggerSettings, say: Callable[[str], None]) -> None:
    """Tell W&B of the report that stands in a sweep's folder. What fails is said, and stops nothing."""
    if logger.kind != "wandb" or logger.mode == "disabled" or not (folder / "report.json").is_file():
        return
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        _track(folder, report, logger, say)
    except Exception as error:
        say(f"W&B: the report of {folder} is left out ({first_line(error)})")


def _track(folder: Path, report: Mapping[str, Any], logger: LoggerSettings, say: Callable[[str], None]) -> None:
    import wandb

    from graftlm.tracking import wandb as ours
    from graftlm.tracking.tracker import start_wandb

    used = {
        item.name: item
        for job, record in job_records([folder])
        for path in artifacts_of(job, record, "evaluate")
        if (item := lineage.of_folder(path)).records
    }
    sweep = folder.name
    config = {"inputs": sorted(used), "verdict": report.get("verdict"), "rule": report.get("rule")}
    tags = ["report", *logger.tags]
    run = start_wandb(
        logger, lambda mode: ours.start(logger, mode, sweep, "report", f"report-{sweep}", tags, config), say
    )
    if run is None:
        return
    failed = 1
    try:
        for item in used.values():
            ours.use(run, ours.artifact(item, logger.log_models))
        columns, rows = arms_table(report)
        run.log({ARMS: ours.table(columns, rows), FOREST: wandb.Plotly(forest(report))})
        run.summary.update({**dict(differences(report)), "verdict": str(report.get("verdict"))[:2000]})
        made = wandb.Artifact(f"report-{_slug(sweep)}", "report", metadata={"sweep": sweep})
        for name in FILES:
            if (folder / name).is_file():
                made.add_file(str(folder / name), name=name)
        run.log_artifact(made)
        failed = 0
    finally:
        ours.finish(run, failed)


def differences(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Figures by name: `difference/auc/ARM`, with `_low` and `_high` behind it where there is an interval."""
    for arm in report.get("arms") or ():
        for figure, found in (arm.get("difference") or {}).items():
            for part, key in (("", "mean"), ("_low", "low"), ("_high", "high")):
                if isinstance(value := (found or {}).get(key), int | float):
                    yield difference_name(figure, str(arm.get("name"))) + part, float(value)


def difference_name(figure: str, arm: str) -> str:
    """The name of an arm's difference in a figure, without what W&B reads as structure."""
    return f"difference/{figure}/{_slug(arm)}"


def arms_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """A row an arm: verdict, means, and differences with their intervals."""
    arms = list(report.get("arms") or ())
    shown = [name for name in _FIGURES if any(isinstance((a.get("mean") or {}).get(name), int | float) for a in arms)]
    columns = ["arm", "verdict", "control", "seeds", *shown]
    columns += [f"Δ {name}{part}" for name in shown for part in ("", " low", " high")] + ["p (Holm)"]
    rows = []
    for arm in arms:
        mean, found = arm.get("mean") or {}, arm.get("difference") or {}
        row = [
            arm.get("name"),
            "baseline" if arm.get("is_baseline") else arm.get("words"),
            str(bool(arm.get("control"))),
        ]
        row += [len(arm.get("seeds") or ())]
        row += [mean.get(name) for name in shown]
        row += [(found.get(name) or {}).get(part) for name in shown for part in ("mean", "low", "high")]
        rows.append([*row, (found.get(primary(report)) or {}).get("p_holm")])
    return columns, rows


def primary(report: Mapping[str, Any]) -> str:
    """The figure on which the verdict rests."""
    return str((report.get("primary") or {}).get("figure") or "auc")


def forest(report: Mapping[str, Any]) -> Any:
    """The differences of the primary figure with their intervals, as a Plotly figure."""
    import plotly.graph_objects as go

    figure_ = primary(report)
    about = report.get("primary") or {"label": "validation loss along training", "less": True, "unit": "nats a token"}
    told: list[tuple[str, Mapping[str, Any]]] = [
        (cells.text(arm.get("name"), 60), arm["difference"][figure_])
        for arm in report.get("arms") or ()
        if (arm.get("difference") or {}).get(figure_)
    ]
    means = [item.get("mean") for _, item in told]
    above, below = (_arms_of([item for _, item in told], key) for key in ("high", "low"))
    figure = go.Figure(
        go.Scatter(
            x=means,
            y=[re.sub("[<>]", "", name) for name, _ in told],  # Plotly reads tags
            mode="markers",
            error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below},
        )
    )
    figure.add_vline(x=0, line_dash="dot")
    figure.update_layout(
        title=f"Difference in {about.get('label')} ({'left' if about.get('less') else 'right'} is better)",
        xaxis_title=f"difference, {about.get('unit')}",
        yaxis={"autorange": "reversed"},
    )
    return figure


def _arms_of(items: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [abs(item[key] - item["mean"]) if isinstance(item.get(key), int | float) else 0.0 for item in items]


def _slug(name: str) -> str:
    return re.sub(r"[^\w\-=+]+", "_", name).strip("_")[:80] or "unnamed"
