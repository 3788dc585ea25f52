import json
import shutil

import pytest

from graftlm.errors import ReportError
from graftlm.report.collect import collect


def test_arms_baseline_and_labels(fake_sweep, fake_arm):
    sweep = fake_sweep()
    for seed in (1, 2):
        for mask in ("r15", "r30"):
            for name in ("none", "calibrated"):
                sweep.job(fake_arm(name, mask=mask), seed)
    found = collect([sweep.root])
    assert [arm.name for arm in found.arms] == ["none", "calibrated · r15", "calibrated · r30"]
    assert [len(arm.runs) for arm in found.arms] == [2, 2, 2]  # the baseline of both masks is one
    assert found.arms[0].is_baseline
    assert found.warnings == []


def test_overrides_make_arms_and_seeds_do_not(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.job(fake_arm("none"), 1)
    for lr in (0.1, 1.0):
        arm = fake_arm(
            "calibrated",
            overrides=(f"transfer.encoder_lr={lr}", "pretrain.seed=3"),
            settings=(("transfer.encoder_lr", lr),),
        )
        sweep.job(arm, 1, 3)
        sweep.job(arm, 2, 3)
    assert [arm.name for arm in collect([sweep.root]).arms] == [
        "none",
        "calibrated · encoder_lr=0.1",
        "calibrated · encoder_lr=1",
    ]


def test_a_setting_that_follows_from_a_choice_in_the_label_is_not_told_again(fake_sweep, fake_arm):
    def named(*variants):
        sweep = fake_sweep()
        for mask, span in variants:
            override, setting = f"mask.span_mean={span}", ("mask.span_mean", span)
            sweep.job(fake_arm("calibrated", mask=mask, overrides=(override,), settings=(setting,)), 1)
        return [arm.name for arm in collect([sweep.root]).arms]

    assert named(("r15", 3.0), ("r30", 4.0)) == ["calibrated · r15", "calibrated · r30"]
    assert named(("r15", 3.0), ("r30", 4.0), ("r30", 5.0)) == [
        "calibrated · r15 · mask.span_mean=3",
        "calibrated · r30 · mask.span_mean=4",
        "calibrated · r30 · mask.span_mean=5",
    ]


def test_a_setting_that_no_override_names_still_tells_arms_apart(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.job(fake_arm("none"), 1)
    sweep.job(fake_arm("calibrated"), 1)
    sweep.job(fake_arm("calibrated", settings=(("pretrain.max_steps", 9000),)), 1)
    assert [arm.name for arm in collect([sweep.root]).arms] == [
        "none",
        "calibrated · pretrain.max_steps=2000",
        "calibrated · pretrain.max_steps=9000",
    ]


def test_the_same_run_in_two_sweeps_counts_once(fake_sweep, fake_arm):
    sweep = fake_sweep()
    for _ in range(2):
        sweep.job(fake_arm("none"), 1)
        sweep.job(fake_arm("calibrated"), 1)
    found = collect([sweep.root, sweep.root / "sweep", sweep.root / "sweep" / "0"])
    assert found.jobs == 4
    assert [len(arm.runs) for arm in found.arms] == [1, 1]
    assert found.warnings == []


def test_damaged_records_are_warnings(fake_sweep, fake_arm):
    sweep = fake_sweep()
    good = sweep.job(fake_arm("none"), 1)
    sweep.job(fake_arm("none"), 2)
    gone = sweep.job(fake_arm("calibrated"), 1)
    broken = sweep.job(fake_arm("calibrated"), 2)
    (broken / "job.json").write_text('{"version": 1, "sta', encoding="utf-8")
    empty = sweep.job(fake_arm("naive"), 1)
    (empty / "job.json").write_text("[]", encoding="utf-8")
    sweep.job(fake_arm("naive"), 2, status="failed", error="TrainingError: the loss is not a number")
    record = json.loads((gone / "job.json").read_text())
    shutil.rmtree((gone / record["stages"][2]["path"]).resolve())
    record = json.loads((good / "job.json").read_text())
    metrics = (good / record["stages"][1]["path"]).resolve() / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 1100, "val/loss": NaN}\n{"step": 12', encoding="utf-8")
    found = collect([sweep.root])
    assert [arm.name for arm in found.arms] == ["none"]
    text = "\n".join(found.warnings)
    for words in ("cannot be read", "is no record of a job", "no val/loss", "damaged line", "not a number"):
        assert words in text
    assert [item["error"] for item in found.failed] == [
        "TrainingError: the loss is not a number",
        "it diverged: a validation loss is not a number",
    ]
    assert [run.finetune_seed for run in found.arms[0].runs] == [2], "its last finite loss is not what it came to"


def test_nothing_to_report(tmp_path):
    with pytest.raises(ReportError, match="holds no readable job"):
        collect([tmp_path])
    with pytest.raises(ReportError, match="is no folder"):
        collect([tmp_path / "none"])
