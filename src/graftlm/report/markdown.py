"""report.md: the verdict and the table for a pull request or a notebook."""

from __future__ import annotations

import re
from typing import Any

from graftlm.report import plain
from graftlm.report.compare import FIGURES, ArmReport, Report
from graftlm.report.figures import READS
from graftlm.report.results import UNITS
from graftlm.report.text import duration, flops, interval, level, pvalue, share, show


def to_markdown(report: Report) -> str:
    """The report as Markdown; texts of the data cannot open a tag, a link or a cell."""
    lines = [f"# {escape(report.headline)}", "", escape(report.detail), ""]
    if report.caveats:
        lines += ["## Before you repeat this", "", *(f"- {escape(caveat)}" for caveat in report.caveats), ""]
    lines += ["## Arms", ""]
    names = [name for name in FIGURES if any(arm.mean.get(name) is not None for arm in report.arms)]
    primary = str(report.primary.get("figure") or "auc")
    names = [name for name in names if name not in (primary, "auc", "test_loss", "rouge1", "rouge2")]
    head = ["arm", "verdict", "seeds", FIGURES[primary][0], "difference", "p (Holm)", "test loss", "difference"]
    head += ["steps", "compute", *(FIGURES[name][0] for name in names)]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_row(arm, primary, names)) + " |" for arm in report.arms]
    lines += [
        "",
        f"Differences are against the baseline, with {level(report.confidence)} intervals. *steps* and *compute*: the "
        "share of the baseline's that an arm needed to reach the baseline's best validation loss, the donor's "
        "training charged.",
        "",
        *_contrasts(report),
        *_alarms(report),
        "## On the way",
        "",
        f"*reads after*: steps until the loss with shuffled sources is {READS} nats worse than with the right ones.",
        "",
        "| arm | loss before training | final validation loss | reads after | CKA | cosine |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(_way(arm)) + " |" for arm in report.arms),
        "",
        "## Costs",
        "",
        "| arm | fine-tuning | graft | donor | fine-tuning flops | donor and graft flops |",
        "|---|---|---|---|---|---|",
    ]
    for arm in report.arms:
        cells = [duration(arm.mean.get(name)) for name in ("seconds", "graft_seconds", "donor_seconds")]
        cells += [flops(arm.mean.get(name)) for name in ("flops", "donor_flops")]
        lines.append(f"| {escape(arm.name)} | " + " | ".join(cells) + " |")
    lines += ["", "## How the words are chosen", "", escape(report.rule), ""]
    if report.warnings:
        lines += ["## Warnings", "", *(f"- {escape(warning)}" for warning in report.warnings), ""]
    if report.failed:
        lines += ["## Failed jobs", ""]
        lines += [
            f"- {escape(item['arm'])}, seed {item['finetune_seed']}: {escape(item['error'])}" for item in report.failed
        ]
        lines.append("")
    if report.pruned:
        lines += ["## Pruned trials, which are no arms", ""]
        lines += [f"- {escape(item['overrides'])}: {escape(item['error'])}" for item in report.pruned]
        lines.append("")
    return "\n".join(lines)


def _contrasts(report: Report) -> list[str]:
    lines = [
        f"- {escape(item.arm)} against {escape(item.against)}: {escape(item.words)}"
        + (f" ({interval(item.main, _digits(item.primary))})" if item.main else "")
        for item in report.contrasts
    ]
    return ["## Arms against each other", "", *lines, ""] if lines else []


def _alarms(report: Report) -> list[str]:
    lines = [
        f"- {escape(arm.name)}: **{escape(item['word'])}**. {escape(item['text'])}"
        + ("" if item["language"] == "all" else f" ({escape(item['language'])})")
        for arm in report.arms
        for item in arm.alarms
    ]
    return ["## What the probes found", "", *lines, ""] if lines else []


def _digits(figure: str) -> int:
    return 1 if UNITS[figure] == "points" else 3


def _row(arm: ArmReport, primary: str, names: list[str]) -> list[str]:
    main, test = arm.difference.get(primary), arm.difference.get("test_loss")
    words = "baseline" if arm.is_baseline else arm.words or "not compared"
    return [
        escape(arm.name) + (" (control)" if arm.control else ""),
        escape(words),
        str(len(arm.seeds)),
        show(arm.mean.get(primary), _digits(primary)),
        interval(main, _digits(primary)) if main else "–",
        pvalue(main.p_holm) if main else "–",
        show(arm.mean.get("test_loss")),
        interval(test) if test else "–",
        share(arm.mean, "steps_share"),
        share(arm.mean, "compute_share"),
        *(show(arm.mean.get(name), _digits(name)) for name in names),
    ]


def _way(arm: ArmReport) -> list[str]:
    after = (arm.fidelity or {}).get("after") or {}
    steps, above = arm.mean.get("read_steps"), arm.mean.get("read_steps_above")
    return [
        escape(arm.name) + (" (control)" if arm.control else ""),
        show(arm.mean.get("first_loss")),
        show(arm.mean.get("val_loss"), 3),
        f"{steps:.0f}" if steps is not None else f"> {above:.0f}" if above is not None else "–",
        show(after.get("cka"), 3),
        show(after.get("cosine"), 3),
    ]


def escape(text: Any) -> str:
    """One line of plain text, whatever it holds: no tag, link, cell, formula, mark, or turning of its direction."""
    flat = plain.line(text)
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(text: Any) -> str:
    """A text in a code span that fits into a cell. A bar would end the cell: it becomes one that looks like it."""
    flat = plain.line(text).replace("|", "\N{DIVIDES}")
    if not flat:
        return "–"
    fence = "`" * (max(map(len, re.findall("`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def fenced(text: str, language: str) -> str:
    """A block of code that no text in it can end."""
    kept = plain.lines(text)
    fence = "`" * max(3, max(map(len, re.findall("`+", kept)), default=0) + 1)
    return f"{fence}{language}\n{kept}\n{fence}\n"
