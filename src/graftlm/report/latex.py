"""report.tex: the table of arms for a paper, with booktabs; made of what stands in report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftlm.report import plain
from graftlm.report.records import mapping, number, rows
from graftlm.report.text import level, pvalue, share

# figures by their names in report.json
_FIGURES = (("test_loss", "Test loss"), ("rougeL", "ROUGE-L"), ("chrf", "chrF"), ("bleu", "BLEU"))
_SPECIAL = {
    **{char: "\\" + char for char in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{MIDDLE DOT}": r"\textperiodcentered{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
    "\N{NO-BREAK SPACE}": "~",
}


def to_latex(report: Mapping[str, Any]) -> str:
    """A `table` with one row an arm: means over seeds, and the paired differences with their intervals."""
    arms = rows(report.get("arms"))
    shown = [
        item for item in _FIGURES if any(number(mapping(arm.get("mean")).get(item[0])) is not None for arm in arms)
    ]
    sure = escape(level(number(report.get("confidence")) or 0.95))
    primary = mapping(report.get("primary")) or {"figure": "auc", "label": "validation loss along training"}
    figure = str(primary.get("figure"))
    shown = [item for item in shown if item[0] != figure]
    digits = 1 if primary.get("unit") == "points" else 3
    head = ["Arm", "Seeds", r"Primary\textsuperscript{a}", r"$\Delta$", r"$p$", "Verdict"]
    for _, label in shown:
        head += [label, r"$\Delta$"]
    head += ["Steps", "Compute"]
    columns = "lrrlrl" + "rl" * len(shown) + "rr"
    lines = [
        "% Made by graftlm report. In the preamble: \\usepackage[T1]{fontenc} \\usepackage{textcomp,booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\small",
        rf"\caption{{{escape(report.get('headline'))}. {escape(report.get('detail'))}",
        rf"Differences against the baseline, paired by seed, with {sure} intervals; $p$ after Holm.",
        r"Steps and compute: the share of the baseline's that reached its best validation loss, the donor's training",
        rf"charged. \textsuperscript{{a}}{_capital(escape(primary.get('label')))}.}}",
        r"\label{tab:graftlm}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(_row(arm, figure, digits, [name for name, _ in shown])) + r" \\" for arm in arms),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(arm: Mapping[str, Any], figure: str, digits: int, names: list[str]) -> list[str]:
    mean, difference = mapping(arm.get("mean")), mapping(arm.get("difference"))
    primary = mapping(difference.get(figure))
    words = "baseline" if arm.get("is_baseline") else str(arm.get("word") or "not compared")
    row = [
        escape(arm.get("name")) + (" (control)" if arm.get("control") else ""),
        str(len(rows(arm.get("seeds")))),
        _number(mean.get(figure), digits),
        _difference(primary, digits),
        escape(pvalue(primary.get("p_holm"))),
        escape(words),
    ]
    for name in names:
        digits = 3 if name == "test_loss" else 1
        row += [_number(mean.get(name), digits), _difference(mapping(difference.get(name)), digits)]
    return [*row, escape(share(mean, "steps_share")), escape(share(mean, "compute_share"))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: Any, digits: int) -> str:
    found = number(value)
    return "--" if found is None else f"${found:.{digits}f}$"


def _difference(found: Mapping[str, Any], digits: int) -> str:
    mean, low, high = (number(found.get(part)) for part in ("mean", "low", "high"))
    if mean is None:
        return "--"
    between = "" if low is None or high is None else rf"\;[{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"${mean:+.{digits}f}{between}$"


def escape(value: Any) -> str:
    """A text that LaTeX sets as it is; a character that pdfLaTeX has no font for is told by its number."""
    made = [_SPECIAL.get(char) or (char if ord(char) < 0x180 else _told(char)) for char in plain.line(value, 500)]
    return "".join(made)


def _told(char: str) -> str:
    return rf"\texttt{{U+{ord(char):04X}}}"
