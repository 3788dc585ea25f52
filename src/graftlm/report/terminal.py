"""The verdict and the table in a terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graftlm.report.results import UNITS, ArmReport, Contrast, Report
from graftlm.report.text import interval, share, show
from graftlm.report.verdict import leading

_STYLES = {"better": "bold green", "worse": "bold red", "cannot tell": "yellow"}


def print_report(report: Report, console: Console) -> None:
    """Prints the verdict, the table of arms, caveats, warnings and failed jobs."""
    lead = leading(report.arms)
    console.print()
    console.print(Text(safe(report.headline), style=_STYLES.get(lead.word if lead else "", "bold")))
    console.print(Text(safe(report.detail)))
    console.print()
    if report.arms:
        console.print(_table(report, console.width))
    for contrast in report.contrasts:
        console.print(Padding(_contrast(contrast), (0, 0, 0, 1)))
    for word in dict.fromkeys(item["word"] for arm in report.arms for item in arm.alarms):
        console.print(Padding(_alarmed(word, report.arms), (0, 0, 0, 1)))
    for caveat in report.caveats:
        console.print(Padding(Text(f"• {safe(caveat)}"), (0, 0, 0, 1)))
    for title, lines in (
        ("Warnings", report.warnings),
        ("Failed", [f"{item['arm']}, seed {item['finetune_seed']}: {item['error']}" for item in report.failed]),
        ("Pruned: no arms", [f"{item['overrides']}: {item['error']}" for item in report.pruned]),
    ):
        if lines:
            console.print()
            console.print(Text(title, style="bold"))
            for line in lines[:12]:
                console.print(Padding(Text(f"• {safe(line)}"), (0, 0, 0, 1)))
            if len(lines) > 12:
                console.print(Padding(Text(f"and {len(lines) - 12} more, in the report"), (0, 0, 0, 3)))


def _contrast(contrast: Contrast) -> Text:
    """`full against denoising: cannot tell with 6 seeds; ... (−0.02 [−0.06, +0.02])`."""
    text = Text(safe(f"{contrast.arm} against {contrast.against}:") + " ")
    text.append(safe(contrast.words), style=_STYLES.get(contrast.word, ""))
    figures = f" ({interval(contrast.main)})" if contrast.main else ""
    return text.append(figures + (" – asked for when this report was made" if contrast.asked else ""))


def _alarmed(word: str, arms: Sequence[ArmReport]) -> Text:
    """`copies: naive, embeddings (fr_XX)`: the arms of which a probe says so."""
    told = []
    for arm in arms:
        where = [item["language"] for item in arm.alarms if item["word"] == word]
        if where:
            told.append(arm.name + ("" if "all" in where else f" ({', '.join(where)})"))
    shown = ", ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")
    return Text(f"{word}:", style="yellow").append(" " + safe(shown), style="default")


def safe(text: str) -> str:
    """One line without control characters or half surrogates: a text of the data cannot steer the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in " ".join(text.split()))


def _table(report: Report, width: int) -> Table:
    wide = width >= 110
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("arm", overflow="fold", max_width=None if wide else 22)
    table.add_column("verdict", overflow="fold", max_width=None if wide else 13)
    table.add_column("n", justify="right")
    label = report.primary["label"] if report.primary["figure"] != "auc" else "loss along training"
    short = {"auc": "loss"}.get(report.primary["figure"], label)
    table.add_column(f"Δ {label if wide else short}", justify="left", overflow="fold", max_width=None if wide else 22)
    table.add_column("test", justify="right")
    table.add_column("steps", justify="right")
    if wide:
        table.add_column("compute", justify="right")
    quality = next(
        (name for name in ("rougeL", "chrf") if any(arm.mean.get(name) is not None for arm in report.arms)), None
    )
    if quality:
        table.add_column("ROUGE-L" if quality == "rougeL" else "chrF", justify="right")
    for arm in report.arms:
        table.add_row(*_cells(arm, wide, quality))
    return table


def _cells(arm: ArmReport, wide: bool, quality: str | None) -> list[Text | str]:
    difference = arm.main
    digits = 1 if UNITS[arm.primary] == "points" else 3 if wide else 2
    name = escape(safe(arm.name)) + (" [dim](control)[/dim]" if arm.control else "")
    word = "baseline" if arm.is_baseline else arm.word or "not compared"
    cells: list[Text | str] = [
        name,
        Text(word, style=_STYLES.get(arm.word, "dim")),
        str(len(arm.seeds) if difference is None else difference.n),
        interval(difference, digits) if difference else "",
        show(arm.mean.get("test_loss"), 2),
        share(arm.mean, "steps_share") if not arm.is_baseline else "",
    ]
    if wide:
        cells.append(share(arm.mean, "compute_share") if not arm.is_baseline else "")
    if quality:
        cells.append(show(arm.mean.get(quality), 1))
    return cells
