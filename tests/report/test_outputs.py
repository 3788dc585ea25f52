"""Markdown, LaTeX and CSVs: what stands in them, and that no text of the data leaves its place."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from graftlm.report import build_report, plain
from graftlm.report.collect import collect
from graftlm.report.compare import Report, compare
from graftlm.report.csvs import arms_csv, curves_csv, runs_csv
from graftlm.report.latex import escape as latex
from graftlm.report.latex import to_latex
from graftlm.report.markdown import code, escape, fenced, to_markdown

HOSTILE = (
    "<script>alert(1)</script>",
    "quotes \" ' ` and | pipes \\ \n\n# a heading\n- item",
    "x" * 100_000,
    "\u202eשלום עולם\u202c abc",
    "emoji 👩‍👩‍👧 \x00 \ud800 \x1b[31m",
    '=HYPERLINK("http://x","y")',
    "+1",
    "-2+3",
    "@cmd",
    "\t=1",
    "100% of {braces} & $dollars_ ~^ $$x$$ \\end{tabular} \\input{/etc/passwd}",
    "[link](javascript:alert(1)) ![i](x) ``` **b** | --- |",
)


@pytest.fixture
def report(fake_sweep: Any, fake_arm: Any) -> Any:
    made = fake_sweep()
    made.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5), fake_arm("naive", control=True)], (1, 2, 3, 4))
    return collect([made.root])


def poisoned(report: Report) -> Report:
    """The report with a hostile text wherever there is one."""
    report.headline, report.detail, report.rule = HOSTILE[0], HOSTILE[1], HOSTILE[10]
    report.caveats, report.warnings = list(HOSTILE), list(HOSTILE)
    report.failed = [
        {"job": text, "arm": text, "finetune_seed": 1, "pretrain_seed": 1, "error": text, "command": text,
         "overrides": text} for text in HOSTILE
    ]  # fmt: skip
    report.pruned = list(report.failed)
    for place, arm in enumerate(report.arms):
        arm.name, arm.words, arm.word = HOSTILE[place], HOSTILE[-1 - place], HOSTILE[-1 - place]
        for seed in arm.seeds:
            seed["command"] = seed["job"] = HOSTILE[5 + place]
    return report


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csvs_hold_what_the_report_says(report: Any, tmp_path: Path) -> None:
    compared = compare(report)
    arms = {row["name"]: row for row in read(arms_csv(compared.to_json()))}
    arm = compared.arm("calibrated")
    assert float(arms["calibrated"]["difference.auc.mean"]) == arm.difference["auc"].mean
    assert float(arms["calibrated"]["mean.test_loss"]) == arm.mean["test_loss"]
    assert arms["none"]["difference.auc.mean"] == ""
    assert (arms["none"]["is_baseline"], arms["naive"]["control"]) == ("true", "true")
    runs = read(runs_csv(compared.to_json()))
    assert len(runs) == 12
    assert {row["finetune_seed"] for row in runs} == {"1", "2", "3", "4"}
    curves = read(curves_csv(report))
    (run,) = [run for arm in report.arms if arm.name == "naive" for run in arm.runs if run.finetune_seed == 2]
    ours = [row for row in curves if row["arm"] == "naive" and row["finetune_seed"] == "2"]
    assert [float(row["val/loss"]) for row in ours] == list(run.curve["loss"])
    assert [float(row["step"]) for row in ours] == list(run.curve["step"])


def test_a_report_leaves_all_its_files(report: Any, fake_sweep: Any, tmp_path: Path) -> None:
    build_report([tmp_path], tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"report.tex", "arms.csv", "runs.csv", "curves.csv"}
    assert found == {"report.html", "report.json", "report.md", *tables}


def test_the_latex_table_has_a_row_an_arm(report: Any) -> None:
    made = to_latex(compare(report).to_json())
    body = made[made.index(r"\midrule") : made.index(r"\bottomrule")].strip().splitlines()[1:]
    assert len(body) == 3
    columns = re.search(r"\\begin{tabular}{(\w+)}", made)
    assert columns is not None
    assert all(len(re.split(r"(?<!\\)&", row)) == len(columns[1]) for row in body)
    assert body[1].startswith("calibrated & 4 & $")
    assert re.search(r"\$-0\.\d{3}\\;\[-0\.\d{3}, -0\.\d{3}\]\$", body[1])
    assert "naive (control)" in made


def test_hostile_texts_stay_in_their_cells_of_latex(report: Any) -> None:
    made = to_latex(poisoned(compare(report)).to_json())
    body = made[made.index(r"\midrule") : made.index(r"\bottomrule")].strip().splitlines()[1:]
    assert len(body) == 3
    assert len({len(re.split(r"(?<!\\)&", row)) for row in body}) == 1
    commands = set(re.findall(r"\\[a-zA-Z]+", made))
    assert not commands & {r"\input", r"\write", r"\def"}
    assert made.count(r"\end{tabular}") == 1
    assert all(ord(char) < 0x180 for char in made)
    for text in HOSTILE:
        shown = latex(text)
        bare = re.sub(r"\\[{}]", "", shown)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"(?<!\\)[#%&_]", shown)
        assert "\n" not in shown
        assert len(shown) < 10_000


def test_hostile_texts_stay_text_in_markdown(report: Any) -> None:
    made = to_markdown(poisoned(compare(report)))
    assert len(made) < 200_000
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(made)
    for tag in ("<script", "<img", "<a ", "<strong", 'javascript:alert(1)"'):
        assert tag not in html.lower()
    assert html.count("<table>") == 3
    for table in re.findall(r"<table>.*?</table>", html, flags=re.S):
        rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.S)
        assert len(rows) == 4
        assert len({row.count("</t") for row in rows}) == 1
    assert html.count("<h1>") == 1
    assert not re.search("[\x00-\x08\x1b\u202a-\u202e\u2066-\u2069]", made)


def test_code_spans_and_blocks_cannot_be_left() -> None:
    markdown = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    for text in (*HOSTILE, "`", "``", " ` ", "```", ""):
        cell = markdown.render(f"| a | b |\n|---|---|\n| {code(text)} | {escape(text)} |\n")
        assert cell.count("<td>") == 2, text[:50]
        assert "<script>" not in cell
        block = markdown.render(fenced(text, "sh") + "\nafter")
        assert block.endswith("<p>after</p>\n")
        assert block.count("<pre>") == 1
    assert code("a.b") == "`a.b`"


def test_formulas_are_texts_in_a_csv(report: Any) -> None:
    compared = poisoned(compare(report))
    compared.arms[0].name, compared.arms[1].name, compared.arms[2].name = HOSTILE[5], HOSTILE[9], HOSTILE[7]
    for made in (arms_csv(compared.to_json()), runs_csv(compared.to_json())):
        for row in read(made):
            for value in row.values():
                number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", value)
                assert number or not value.startswith(("=", "+", "-", "@", "\t", "\r")), value[:60]
    names = [row["name"] for row in read(arms_csv(compared.to_json()))]
    assert names == ["'" + HOSTILE[5], "'=1", "'-2+3"]


def test_plain_texts() -> None:
    assert plain.text("x" * 3000, 10) == "xxxxxxxxxx … (3,000 characters)"
    assert plain.line("a\n\tb \u202ec") == "a b c"
    assert plain.line(None) == ""
    assert plain.lines("a\n\x1bb") == "a\n\ufffdb"
    json.dumps(plain.text("\ud800")).encode("utf-8")
    plain.text("\ud800").encode("utf-8")
