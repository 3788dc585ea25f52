"""The dashboard and the sweep's report run, built from records of a known truth; hostile names do no harm."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftlm.cli import main
from graftlm.report import build_report
from graftlm.running import LoggerSettings
from graftlm.tracking.verdict import arms_table, difference_name, differences, forest, track_report

DIFFERENCE = {"mean": -0.2, "low": -0.3, "high": -0.1, "p_holm": 0.01}
REPORT = {
    "verdict": "x is better",
    "arms": [
        {"name": "none", "is_baseline": True, "seeds": [{}], "mean": {"auc": 3.0}, "difference": {}},
        {"name": "<b>x</b> · a=1", "words": "better", "mean": {"auc": 2.8}, "difference": {"auc": DIFFERENCE}},
    ],
}


@pytest.fixture
def sweep(fake_sweep: Any, fake_arm: Any) -> Path:
    made = fake_sweep()
    made.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5), fake_arm("calibrated", mask="r40")], (1, 2, 3))
    return Path(made.root)


def panels(section: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel["config"] for panel in section["panels"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(importlib.util.find_spec("wandb_workspaces") is None, reason="needs graftlm[dashboard]")
def test_the_dashboard_is_written_without_an_account(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "board.json"
    assert main(["wandb", "dashboard", str(sweep), "--entity", "me", "--project", "p", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"dashboard: {out}\n"
    made = json.loads(out.read_text(encoding="utf-8"))
    assert (made["workspace"]["entity"], made["workspace"]["project"]) == ("me", "p")
    section = made["workspace"]["spec"]["section"]
    (runs,) = section["runSets"]
    assert {"section": "config", "name": "arm.value"} in runs["grouping"]
    assert {"section": "config", "name": "mask.value.ratio"} in runs["grouping"], "two arms of one strategy"
    kinds = next(item for item in runs["filters"]["filters"] if item["key"]["name"] == "jobType")
    assert "pretrain" not in kinds["value"], "the donor's loss is another loss"
    by_name = {item["name"]: item for item in section["panelBankConfig"]["sections"]}
    assert {"Verdict", "Curves", "Cost and quality", "Samples"} <= set(by_name)
    axes = [(panel["xAxis"], *panel["metrics"]) for panel in panels(by_name["Curves"])]
    assert ("trainer/global_step", "val/loss") in axes
    assert ("compute/flops", "val/loss") in axes
    bars = [panel["metrics"] for panel in panels(by_name["Verdict"]) if "metrics" in panel]
    assert len(bars[0]) == 2
    assert all(name.startswith("summary_metrics.difference/auc/calibrated") for name in bars[0])
    assert panels(by_name["Cost and quality"])[0]["xAxis"] == "summary:compute/flops"
    assert "predictions" in json.dumps(by_name["Samples"])

    blocks = made["report"]["spec"]["blocks"]
    headline = build_report([sweep], tmp_path / "report").headline
    assert blocks[1] == {"type": "heading", "level": 1, "children": [{"text": headline}]}
    (table,) = [block for block in blocks if block["type"] == "markdown-block"]
    assert table["content"].startswith("| arm | verdict |")
    assert sum(block["type"] == "panel-grid" for block in blocks) == 4


@pytest.mark.skipif(importlib.util.find_spec("wandb_workspaces") is None, reason="needs graftlm[dashboard]")
def test_sweeps_of_two_projects_want_a_name(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = sorted(sweep.rglob("job.json"))
    for path, project in ((first, "a"), (second, "b")):
        record = json.loads(path.read_text())
        record["settings"]["logger"]["project"] = project
        path.write_text(json.dumps(record))
    assert main(["wandb", "dashboard", str(sweep)]) == 2
    assert capsys.readouterr().err == "graftlm: --project=a, b: differs between these sweeps; name one\n"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if "workspaces" in name else real(name))
    assert main(["wandb", "dashboard", str(sweep)]) == 2
    assert capsys.readouterr().err.endswith("is not installed; pip install 'graftlm[dashboard]'\n")


def test_the_report_of_a_sweep_is_a_run(
    sweep: Path, tmp_path: Path, read_wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    report = build_report([sweep], sweep / "sweep")
    said: list[str] = []
    track_report(sweep / "sweep", LoggerSettings(dir=str(tmp_path / "logs")), said.append)
    assert said == []
    (records,) = read_wandb(tmp_path / "logs")
    (about,) = [record["run"] for record in records if record["type"] == "run"]
    assert (about["job_type"], about["run_group"], about["tags"]) == ("report", "sweep", ["report"])
    artifacts = [record["artifact"] for record in records if record["type"] == "artifact"]
    used = {item["name"] for item in artifacts if item.get("use_after_commit")}
    assert used == {f"evaluate-{folder.name}" for folder in sweep.glob("store/evaluate/*")}
    (made,) = [item for item in artifacts if item["type"] == "report"]
    assert {"report.html", "report.json", "report.md"} <= {item["path"] for item in made["manifest"]["contents"]}
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary |= record["summary"].get("update", {})
    arm = next(arm for arm in report.arms if not arm.is_baseline)
    assert summary[difference_name("auc", arm.name)] == pytest.approx(arm.difference["auc"].mean)
    assert summary["verdict"] == report.verdict
    assert next(record["exit"]["exit_code"] for record in records if record["type"] == "exit") == 0


def test_no_report_and_no_wandb_is_no_run(tmp_path: Path) -> None:
    said: list[str] = []
    track_report(tmp_path, LoggerSettings(dir=str(tmp_path / "logs")), said.append)
    (tmp_path / "report.json").write_text("{}")
    track_report(tmp_path, LoggerSettings(kind="none", dir=str(tmp_path / "logs")), said.append)
    (tmp_path / "report.json").write_text("[")
    track_report(tmp_path, LoggerSettings(dir=str(tmp_path / "logs")), said.append)
    assert len(said) == 1
    assert said[0].startswith(f"W&B: the report of {tmp_path} is left out (")
    assert not (tmp_path / "logs").exists()


def test_names_of_arms_cannot_break_a_figure() -> None:
    assert dict(differences(REPORT)) == {
        "difference/auc/b_x_b_a=1": -0.2,
        "difference/auc/b_x_b_a=1_low": -0.3,
        "difference/auc/b_x_b_a=1_high": -0.1,
    }
    columns, rows = arms_table(REPORT)
    row = dict(zip(columns, rows[1], strict=True))
    assert (row["arm"], row["Δ auc"], row["Δ auc low"], row["p (Holm)"]) == ("<b>x</b> · a=1", -0.2, -0.3, 0.01)
    figure = forest(REPORT)
    assert figure.data[0].y == ("bx/b · a=1",)
    assert figure.data[0].error_x.array == pytest.approx((0.1,))
    assert forest({"arms": []}).data[0].x == ()


def test_help_imports_neither_torch_nor_wandb() -> None:
    code = (
        "import sys; from graftlm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'wandb', 'transformers', 'wandb_workspaces') if name in sys.modules])"
    )
    for words in (["wandb", "--help"], ["wandb", "sync", "--help"], ["wandb", "dashboard", "--help"], ["--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", words
