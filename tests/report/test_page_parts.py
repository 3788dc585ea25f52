"""What the page is made of, without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from graftlm.report.collect import collect
from graftlm.report.compare import compare
from graftlm.report.markdown import escape
from graftlm.report.page import embed
from graftlm.report.page_axes import heat_map
from graftlm.report.page_commands import report_command, sweeps
from graftlm.report.page_data import costs, curve_table, thin
from graftlm.report.page_style import labels, shorten, styles
from graftlm.report.page_tensors import pack
from graftlm.report.samples import choose, tag
from graftlm.report.tables import grafts
from graftlm.report.text import duration, flops, level, pvalue, share, show


def test_small_things() -> None:
    assert "<" not in embed({"a": "</script>", "b": float("nan")})
    assert json.loads(embed({"a": "</script>&", "b": float("nan")})) == {"a": "</script>&", "b": None}
    kept = thin(np.arange(0, 100_000, 10, dtype=float))
    assert len(kept) <= 80
    assert (kept[0], kept[-1]) == (0, 99_990)
    assert (duration(3), duration(45), duration(600), duration(7200)) == ("3.0 s", "45 s", "10 min", "2.0 h")
    assert (flops(1.23e14), flops(0), flops(None)) == ("1.2 × 10¹⁴", "0", "–")
    assert (pvalue(0.0312), pvalue(0.0001), pvalue(1.0)) == (".031", "< .001", "1")
    assert [share({"x": value}, "x") for value in (0.0, 0.004, 0.41, 12.3)] == ["0", "< 0.01", "0.41", "12"]
    # a bound is rounded down: an arm that was followed to 1.96 may have needed less than 2.0
    assert [share({"x_above": value}, "x") for value in (2.0, 1.96, 0.966)] == ["> 2.0", "> 1.9", "> 0.96"]
    assert [level(value) for value in (0.95, 0.9, 0.995, 0.9999)] == ["95%", "90%", "99.5%", "99.99%"]
    assert [show(value) for value in (-0.0004, -0.0006, None)] == ["0.000", "−0.001", "–"]
    assert escape("a|b <i> [x](y)\n#") == "a\\|b &lt;i&gt; \\[x\\](y) \\#"
    assert (tag("de_DE"), tag("x\" onload='"), tag("")) == ("de", "", "")


def _report(sweep: Any) -> tuple[Any, Any]:
    collection = collect([sweep.root])
    return collection, compare(collection)


def test_arms_are_called_by_what_tells_them_apart(fake_sweep: Any, fake_arm: Any) -> None:
    sweep = fake_sweep(examples=4)
    post = (("model.format", "bart"),)
    for seed in (1, 2):
        for name in ("none", "calibrated", "embeddings", "encoder_decoder", "naive"):
            sweep.job(fake_arm(name, control=name == "naive"), seed)
        sweep.job(fake_arm("none", settings=post, overrides=("model.format=bart",)), seed)
    _, report = _report(sweep)
    names = labels(report.arms)
    assert {item["brief"] for item in names.values()} == {
        *("none", "calibrated", "embeddings", "encoder_decoder", "naive"),
        "none · format=bart",
    }
    assert names["none · model.format=bart"]["rest"] == "format=bart"
    assert shorten("calibrated · model.format=mbart50 beats none · model.format=bart", names) == (
        "calibrated beats none · format=bart"
    )
    for seed in (1, 2):
        for rates in ((0.1, 0.2), (0.2, 0.1)):
            both = tuple(zip(("finetune.lr", "pretrain.lr"), rates, strict=True))
            named = tuple(f"{name}={rate}" for name, rate in both)
            sweep.job(fake_arm("calibrated", settings=both, overrides=named), seed)
    of_two = labels(_report(sweep)[1].arms)  # two settings that end alike keep their paths
    assert any("finetune.lr=0.1 · pretrain.lr=0.2" in item["brief"] for item in of_two.values())
    assert not any(" lr=" in item["brief"] for item in of_two.values())
    turned = {"نقل": {"head": "نقل", "rest": "", "brief": "نقل"}}
    assert shorten("نقل [−0.4, +0.3]", turned) == "\u2068نقل\u2069 [−0.4, +0.3]"
    look = styles(report.arms)
    assert {look[arm.name]["colour"] for arm in report.arms} == {"b", "k", "1", "2", "3"}
    assert all(look[arm.name]["dash"] != "solid" for arm in report.arms if arm.control)


def test_axes_of_a_sweep_that_crosses_settings(fake_sweep: Any, fake_arm: Any) -> None:
    sweep = fake_sweep(examples=4)
    for name in ("none", "calibrated", "embeddings"):
        for rate in (0.5, 1.0):
            for mask in ("r15", "r30"):
                settings = () if name == "none" else (("transfer.encoder_lr", rate),)
                overrides = () if name == "none" else (f"transfer.encoder_lr={rate}",)
                sweep.job(fake_arm(name, mask=mask, settings=settings, overrides=overrides), 1)
    collection, report = _report(sweep)
    made = heat_map(collection.arms, report.arms)
    assert made is not None
    # mask.ratio follows from the mask, transfer.steps from the strategy: neither is an axis of its own
    assert [axis["label"] for axis in made["axes"]] == ["strategy", "mask", "transfer.encoder_lr"]
    assert made["axes"][2]["values"] == ["0.5", "1"]
    assert made["first"] == [0, 1]
    assert [axis["places"][0] for axis in made["axes"]] == [-1, -1, -1]  # the baseline is no cell


def test_no_heat_map_where_nothing_was_crossed(fake_sweep: Any, fake_arm: Any) -> None:
    sweep = fake_sweep(examples=4)
    for arm in (fake_arm("none"), fake_arm("calibrated"), fake_arm("embeddings", mask="r30")):
        sweep.job(arm, 1)
    collection, report = _report(sweep)
    assert heat_map(collection.arms, report.arms) is None


def test_each_command_is_told_once(fake_sweep: Any, fake_arm: Any) -> None:
    sweep = fake_sweep(examples=4)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated")], seeds=(1, 2))
    for record in sweep.root.glob("sweep/*/job.json"):
        job = json.loads(record.read_text())
        job["command"] = "graftlm run -m transfer=none,calibrated finetune.seed=1,2"
        record.write_text(json.dumps(job))
    _, report = _report(sweep)
    (only,) = sweeps(report.arms)
    assert only["runs"] == 4
    assert only["arms"] == ["none", "calibrated"]
    assert report_command(report).count("sweep/") == 4  # no sweep's folder: each job is named
    (sweep.root / "sweep" / "multirun.yaml").write_text("")
    assert report_command(report) == f"graftlm report {sweep.root / 'sweep'} --out report"


def test_costs_and_the_table_of_curves(fake_sweep: Any) -> None:
    sweep = fake_sweep(examples=4)
    sweep.sweep(seeds=(1, 2))
    collection, _ = _report(sweep)
    arms = {arm.name: arm for arm in collection.arms}
    assert costs(arms["none"]) == {"flops": [0, 0, 1.2e14], "seconds": [0, 0, 52.0]}
    assert costs(arms["calibrated"]) == {"flops": [9e13, 0, 1.2e14], "seconds": [90.0, 4.0, 52.0]}
    made = curve_table(collection.arms)
    assert made is not None
    assert made["steps"][0] == 0
    assert made["steps"][-1] == 1000
    assert len(made["rows"]) == 5
    assert made["rows"][0][-1] == np.mean([run.curve["loss"][-1] for run in arms["none"].runs])


def test_tensors_are_packed_and_come_out_whole(fake_sweep: Any) -> None:
    sweep = fake_sweep(examples=4)
    sweep.sweep(seeds=(1,))
    collection, _ = _report(sweep)
    rows = grafts(collection.arms)
    made = pack(rows)
    one, packed = rows[1], made["grafts"][1]
    assert packed["name"] == one["name"] == "calibrated"
    for tensor, found in zip(one["tensors"], packed["tensors"], strict=True):
        assert [made["texts"][place] for place in found[:3]] == [tensor["name"], "768", tensor["status"]]
    part, cells = packed["map"]["rows"][2]
    assert part == "fc1"
    told = [made["texts"][packed["tensors"][place][0]] for place in cells[1]]
    assert told == ["model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.bias"]
    assert len(json.dumps(made)) < 0.2 * len(json.dumps([row["tensors"] for row in rows])) + 8000


def test_outputs_that_are_the_same_are_one_group(fake_sweep: Any, tmp_path: Path) -> None:
    sweep = fake_sweep(examples=10)
    sweep.predict = lambda index, text, arm: "same" if index == 0 or (index == 1 and arm != "naive") else arm
    sweep.sweep(seeds=(1,))
    collection, _ = _report(sweep)
    made = {item["index"]: item for item in choose(collection.arms, 10)}
    assert made[0]["agree"]
    assert [len(group["arms"]) for group in made[0]["groups"]] == [5]
    assert not made[1]["agree"]
    assert {group["text"]: len(group["arms"]) for group in made[1]["groups"]} == {"same": 4, "naive": 1}
    assert len(made[2]["groups"]) == 5
    assert made[0]["gain"] is not None
    assert made[0]["loss"] is not None
