"""What W&B gets, offline, read back with its own reader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftlm.tracking import lineage, tracker
from graftlm.tracking.wandb import COMPUTE, STEP, read_note

KEYS = {stage: f"{place:020x}" for place, stage in enumerate(("corpus", "pretrain", "graft", "finetune"), 10)}
Records = list[dict[str, Any]]


def of_kind(records: Records, kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def merged(updates: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for update in updates for key, value in update.get("update", {}).items()}


def test_a_run_and_its_lineage(
    tmp_path: Path, stage_context: Any, fill: Callable[[Path, str], None], read_wandb: Any
) -> None:
    context = stage_context("finetune", ("corpus", "graft"), tags=["mine", "y" * 80], group="g" * 200)
    fill(tmp_path / "store" / "pretrain" / KEYS["pretrain"], "pretrain")  # the graft's
    with tracker(context) as track:
        fill(context.work, "finetune")
        for step, loss in ((0, 3.0), (5, 1.5), (10, math.nan)):
            track.log({"val/loss": loss}, step, {"flops": 100 * step})
        track.summary({"cost/seconds": 2.0})
    assert context.progress.lines == []
    (records,) = read_wandb(tmp_path / "logs")
    (about,) = of_kind(records, "run")
    assert (about["job_type"], about["display_name"], about["run_group"]) == ("finetune", "mine-finetune-1", "g" * 128)
    assert {"transfer=mine", "mask=r15", "mine", "y" * 64} == set(about["tags"])
    config = about["config"]["update"]
    assert config["arm"] == "mine"
    assert config["finetune"]["seed"] == 1
    assert config["goals"]["val/loss"] == "minimize"
    assert config["inputs"] == {name: folder.parent.name + "-" + folder.name for name, folder in context.inputs.items()}

    history = [item["item"] for item in of_kind(records, "history")]
    curve = [(item[STEP], item[COMPUTE]) for item in history if STEP in item]
    assert curve == [(0, 1500), (5, 2000), (10, 2500)], "the donor and the graft are charged"
    (metric,) = [item for item in of_kind(records, "metric") if item.get("name") == "val/loss"]
    assert metric["step_metric"] == STEP
    assert metric["summary"] == {"min": True}
    summary = merged(of_kind(records, "summary"))
    assert summary["val/loss"] == {"min": 1.5}, "not the NaN"
    assert summary["not_finite"] == 1
    assert summary["cost/seconds"] == 2.0

    artifacts = of_kind(records, "artifact")
    used = {item["name"] for item in artifacts if item.get("use_after_commit")}
    assert used == set(config["inputs"].values())
    (made,) = [item for item in artifacts if not item.get("use_after_commit")]
    assert made["name"] == config["artifact"] == "finetune-" + context.work.name.removesuffix(".partial")
    assert made["type"] == "host"
    assert "mine-seed1" in made["aliases"]
    assert [item["path"] for item in made["manifest"]["contents"]] == ["cost.json", "metrics.jsonl", "transfer.json"]
    assert of_kind(records, "exit")[0]["exit_code"] == 0


def test_what_a_model_cost_in_all(tmp_path: Path, stage_context: Any, fill: Callable[[Path, str], None]) -> None:
    stage_context("evaluate", ("corpus", "pretrain", "graft", "finetune"))
    folders = {stage: tmp_path / "store" / stage / KEYS[stage] for stage in KEYS}
    assert lineage.flops_before({"finetune": folders["finetune"]}) == 21_500
    assert lineage.flops_before({"graft": folders["graft"]}) == 1_500
    assert lineage.flops_before({"corpus": folders["corpus"]}) == 0
    (folders["graft"] / "transfer.json").write_text('{"counts": {"donor": {"used": 0}}}')
    assert lineage.flops_before({"graft": folders["graft"]}) == 500, "a donor that is not read is not charged"


def test_who_uses_an_artifact_names_what_its_maker_made(
    tmp_path: Path, stage_context: Any, fill: Callable[[Path, str], None], read_wandb: Any
) -> None:
    """The digests agree, by which the server knows that it is the same."""
    first = stage_context("pretrain", ("corpus",))
    with tracker(first):
        fill(first.work, "pretrain")
    first.work.rename(first.work.with_suffix(""))
    with tracker(stage_context("graft", ("corpus", "pretrain"))):
        pass
    made, using = sorted(
        read_wandb(tmp_path / "logs"), key=lambda run: of_kind(run, "run")[0]["job_type"] != "pretrain"
    )
    (maker,) = [item for item in of_kind(made, "artifact") if not item.get("use_after_commit")]
    (user,) = [item for item in of_kind(using, "artifact") if item["name"] == maker["name"]]
    assert user["use_after_commit"] is True
    assert user["digest"] == maker["digest"]


@pytest.mark.parametrize("how", ["references", "files"])
def test_models_go_only_where_they_are_wanted(
    tmp_path: Path, stage_context: Any, fill: Callable[[Path, str], None], read_wandb: Any, how: str
) -> None:
    context = stage_context("finetune", ("corpus",), log_models=how)
    with tracker(context):
        fill(context.work, "finetune")
    (records,) = read_wandb(tmp_path / "logs")
    (model,) = [item for item in of_kind(records, "artifact") if item["type"] == "model"]
    (entry,) = model["manifest"]["contents"]
    assert entry["path"] == "model/config.json"
    final = context.work.with_suffix("") / "model" / "config.json"
    assert entry.get("ref") == (final.as_uri() if how == "references" else None)
    assert ("local_path" in entry) == (how == "files")
    (own,) = [item for item in of_kind(records, "artifact") if item["type"] == "host"]
    assert json.loads(own["metadata"])["model"] == model["name"]


def test_a_table_holds_whatever_a_text_holds(
    tmp_path: Path, stage_context: Any, read_wandb: Any, hostile: tuple[str, ...]
) -> None:
    context = stage_context("evaluate")
    with tracker(context) as track:
        rows = [[text, None if place % 2 else place, place if place else "mixed"] for place, text in enumerate(hostile)]
        track.table("predictions", ["source", "number", "mixed"], rows)
        track.table("empty", ["a"], [])
    assert context.progress.lines == []
    (path,) = (tmp_path / "logs").rglob("predictions_*.table.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    assert len(table["data"]) == len(hostile)
    assert max(len(row[0]) for row in table["data"]) < 2100
    assert table["data"][2][0].endswith("(100,000 characters)")
    assert [row[1] for row in table["data"]] == [None if place % 2 else place for place in range(len(hostile))]
    assert table["data"][0][0] == hostile[0], "a cell is text: it is left as it is"
    (records,) = read_wandb(tmp_path / "logs")
    assert of_kind(records, "exit")[0]["exit_code"] == 0


def test_a_failed_stage_makes_no_artifact_and_its_end_is_noted(
    tmp_path: Path, stage_context: Any, read_wandb: Any
) -> None:
    context = stage_context("finetune", ("corpus",))

    def failing() -> None:
        with tracker(context):
            (folder,) = (tmp_path / "logs").rglob("offline-run-*")
            assert read_note(folder)["exit_code"] is None, "while it runs"
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        failing()
    (folder,) = (tmp_path / "logs").rglob("offline-run-*")
    note = read_note(folder)
    assert (note["exit_code"], note["stage"], note["group"]) == (1, "finetune", "sweep-1")
    (records,) = read_wandb(tmp_path / "logs")
    assert all(item.get("use_after_commit") for item in of_kind(records, "artifact"))
    assert of_kind(records, "exit")[0]["exit_code"] == 1


def test_an_artifact_that_cannot_be_told_costs_no_run(tmp_path: Path, stage_context: Any, read_wandb: Any) -> None:
    context = stage_context("evaluate", ("finetune",))
    name = "evaluate-" + context.work.name.removesuffix(".partial")
    with tracker(context) as track:
        (context.work / "scores.json").write_bytes(b"{}")
        track.summary({"test/loss": 3})
        (tmp_path / "data" / "artifacts").rename(tmp_path / "gone")
        (tmp_path / "data" / "artifacts").write_text("a file where W&B wants a folder")
    assert len(context.progress.lines) == 1
    assert context.progress.lines[0].startswith(f"W&B: the artifact {name} is left out (")
    (records,) = read_wandb(tmp_path / "logs")
    assert merged(of_kind(records, "summary"))["test/loss"] == 3
    assert of_kind(records, "exit")[0]["exit_code"] == 0
