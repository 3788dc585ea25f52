"""A W&B workspace and a W&B report of sweeps, made by code with wandb-workspaces (the extra `graftlm[dashboard]`).

Both are written as the JSON that the server would get, which needs no account, and saved there where that is asked for.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graftlm
from graftlm.errors import ReportError, first_line
from graftlm.tracking import cells
from graftlm.tracking.records import group_of, job_records
from graftlm.tracking.verdict import ARMS, FOREST, arms_table, difference_name, primary
from graftlm.tracking.wandb import COMPUTE, STEP

if TYPE_CHECKING:
    from graftlm.report.collect import Collection

_ARMS = 40  # bars of a panel
_SETTINGS = 4  # that runs are grouped by, besides the strategy


@dataclass(frozen=True)
class Dashboard:
    """What wandb-workspaces made of sweeps."""

    workspace: Any
    report: Any

    def to_json(self) -> dict[str, Any]:
        """The two as the server would get them. Their public methods only talk to it: hence `_to_model`."""
        made = {"graftlm": graftlm.__version__}
        for name in ("workspace", "report"):
            model = getattr(self, name)._to_model()
            made[name] = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
        return made


def make(dirs: Sequence[Path], out: Path, entity: str | None = None, project: str | None = None) -> Dashboard:
    """Build both from what the jobs below `dirs` left, and write them to `out`.

    Raises:
        ReportError: no job, jobs of several projects, the package is missing, or `out` cannot be written.
    """
    if out.is_dir():
        raise ReportError.at("--out", out, "is a folder", "name a file")
    if importlib.util.find_spec("wandb_workspaces") is None:
        reason = "needs wandb-workspaces, which is not installed"
        raise ReportError.at("wandb dashboard", None, reason, "pip install 'graftlm[dashboard]'")
    from graftlm.report.collect import collect
    from graftlm.report.compare import compare

    collection = collect(dirs)
    report, settings = compare(collection).to_json(), _apart(collection)
    records = [record for _, record in job_records(dirs)]
    groups = sorted({group for record in records if (group := group_of(record))})
    entity = entity or _shared(records, "entity", "--entity") or ""
    project = project or _shared(records, "project", "--project") or "graftlm"
    os.environ.setdefault("WANDB_SILENT", "true")
    parts = (report, entity, project, groups, settings)
    made = Dashboard(_workspace(*parts), _report(*parts))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.{os.getpid()}.part")
        text = json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n"
        partial.write_bytes(text.encode("utf-8", errors="replace"))
        partial.replace(out)
    except OSError as error:
        raise ReportError.at("--out", out, f"cannot be written ({error.strerror})", "name another file") from error
    return made


def push(made: Dashboard) -> Iterator[str]:
    """Save both on the server; their addresses.

    Raises:
        ReportError: no account, no network, or the server refuses.
    """
    from graftlm.tracking.sync import check_account

    host = check_account()
    for name in ("workspace", "report"):
        try:
            yield str(getattr(made, name).save().url)
        except Exception as error:
            reason = f"does not take the {name} ({first_line(error)})"
            raise ReportError.at("wandb", host, reason, "check --entity and --project") from error


def _shared(records: Sequence[Mapping[str, Any]], name: str, option: str) -> str | None:
    found = {((record.get("settings") or {}).get("logger") or {}).get(name) for record in records} - {None}
    if len(found) > 1:
        raise ReportError.at(option, ", ".join(sorted(map(str, found))), "differs between these sweeps", "name one")
    return str(found.pop()) if found else None


def _apart(collection: Collection) -> list[str]:
    """The settings, besides the strategy's name, that tell arms apart: by these, too, runs are grouped."""
    by_name: dict[str, set[str]] = {}
    found = []
    for key in collection.varying:
        by_name.clear()
        for arm in collection.arms:
            by_name.setdefault(arm.transfer, set()).add(json.dumps(arm.identity.get(key), default=str))
        if any(len(values) > 1 for values in by_name.values()) and not key.endswith(".steps"):
            found.append(key)
    return found[:_SETTINGS]


def _runs(groups: Sequence[str], settings: Sequence[str]) -> tuple[Any, list[Any]]:
    """Filters and grouping of runs: those with figures of an arm. The donors' losses are on another scale."""
    from wandb_workspaces import expr

    shown = [expr.Metric("JobType").isin(["graft", "finetune", "evaluate", "report"])]
    if groups:
        shown.insert(0, expr.Metric("Group").isin(list(groups)))
    return expr.And(*shown), [expr.Config("arm"), *(expr.Config(name) for name in settings)]


def _workspace(
    report: Mapping[str, Any], entity: str, project: str, groups: Sequence[str], settings: Sequence[str]
) -> Any:
    import wandb_workspaces.workspaces as ws

    filters, grouping = _runs(groups, settings)

    def section(name: str, panels: Sequence[Any], columns: int, opened: bool = True) -> Any:
        layout = ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
        return ws.Section(name=name, panels=list(panels), is_open=opened, layout_settings=layout)

    return ws.Workspace(
        entity=entity,
        project=project,
        name=_plain(f"graftlm {' '.join(groups)}")[:120],
        sections=[
            section("Verdict", _differences(report), 2),
            section("Curves", _curves(), 2),
            section("Cost and quality", _costs(), 2),
            section("Samples", _samples(), 1),
            section("Grafts", _grafts(), 2, opened=False),
        ],
        runset_settings=ws.RunsetSettings(filters=filters, groupby=grouping),
    )


def _report(
    report: Mapping[str, Any], entity: str, project: str, groups: Sequence[str], settings: Sequence[str]
) -> Any:
    import wandb_workspaces.reports.v2 as wr

    filters, _ = _runs(groups, settings)
    # a run set that names no project is of the report's own; naming it would ask the server for its number
    runs = wr.Runset(name="runs", filters=filters, groupby=[f"config.{name}" for name in ("arm", *settings)])
    columns, rows = arms_table(report)
    caveats = [cells.text(item, 1000) for item in report.get("caveats") or ()]

    def grid(panels: Sequence[Any]) -> Any:
        for place, panel in enumerate(panels):
            panel.layout = wr.Layout(x=12 * (place % 2), y=8 * (place // 2), w=12 if len(panels) > 1 else 24, h=8)
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    blocks = [
        wr.H1(cells.text(report.get("headline"), 300)),
        wr.P(cells.text(report.get("detail"), 2000)),
        *([wr.H2("Before you repeat this"), wr.UnorderedList(caveats)] if caveats else []),
        wr.H2("Arms"),
        wr.MarkdownBlock(cells.markdown(*_rounded(columns, rows), longest=200)),
        grid(_differences(report)),
        wr.H2("Curves"),
        grid(_curves()),
        wr.H2("Cost and quality"),
        grid(_costs()),
        wr.H2("Samples"),
        grid(_samples()),
        wr.H2("How the words are chosen"),
        wr.P(cells.text(report.get("rule"), 2000)),
    ]
    title = f"graftlm: {', '.join(groups)}"[:120]
    return wr.Report(entity=entity, project=project, title=title, blocks=blocks, width="fixed")


def _rounded(columns: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    return columns, [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows]


def _plain(name: str) -> str:
    return "".join(char for char in name if char.isascii() and char.isprintable()).strip()


def _differences(report: Mapping[str, Any]) -> list[Any]:
    """The forest figure that the sweep's report run holds, its table, and the differences as bars."""
    import wandb_workspaces.reports.v2 as wr

    figures = report.get("figures") or {}
    told = [str(arm.get("name")) for arm in report.get("arms") or () if arm.get("difference")]
    bars = [
        wr.BarPlot(
            title=f"Difference in {about.get('label')} ({'left' if about.get('less') else 'right'} is better)",
            metrics=[wr.SummaryMetric(difference_name(figure, name)) for name in told[:_ARMS]],
            title_x=about.get("unit"),
        )
        for figure in dict.fromkeys((primary(report), "test_loss"))
        if told and (about := figures.get(figure))
    ]
    return [
        wr.MediaBrowser(title="Differences with intervals", media_keys=[FOREST]),
        *bars,
        wr.WeavePanelSummaryTable(table_name=ARMS),
    ]


def _curves() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    def curve(title: str, x: str, y: str, name: str, log: bool = False) -> Any:
        return wr.LinePlot(
            title=title,
            x=wr.Metric(x),
            y=[wr.Metric(y)],
            title_x=name,
            log_x=log,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )

    return [
        curve("Validation loss by step", STEP, "val/loss", "steps (log)", log=True),
        curve("Validation loss by compute, the donor's charged", COMPUTE, "val/loss", "flops"),
        curve("Validation loss by tokens", "tokens", "val/loss", "tokens of fine-tuning"),
        curve("Does it read its source? Shuffled-source gap", STEP, "val/gap", "steps"),
    ]


def _costs() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.ScatterPlot(title=title, x=wr.SummaryMetric(COMPUTE), y=wr.SummaryMetric(figure), log_x=True)
        for title, figure in (("Test loss by compute", "test/loss"), ("chrF by compute", "test/chrf"))
    ]


def _samples() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.WeavePanelSummaryTable(table_name="predictions")]


def _grafts() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(title="Fidelity of the graft (CKA)", metrics=[wr.SummaryMetric("fidelity/cka")]),
        wr.BarPlot(title="Fidelity of the graft (cosine)", metrics=[wr.SummaryMetric("fidelity/cosine")]),
        wr.WeavePanelSummaryTable(table_name="transfer/layers"),
        wr.WeavePanelSummaryTable(table_name="transfer/tensors"),
    ]
