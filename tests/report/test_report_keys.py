"""What report.json says beyond the words: the primary figure, contrasts, compute, languages, probes, worst examples."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from graftlm.report import build_report
from graftlm.report.collect import collect
from graftlm.report.compare import compare
from graftlm.report.defaults import with_defaults
from graftlm.report.terminal import print_report
from graftlm.report.verdict import _equal_compute

DECLARED = ("report.primary", "chrf")


def printed(report, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_report(report, console)
    return console.export_text()


def test_the_primary_figure_is_what_the_sweep_declared(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    arms = [
        fake_arm("none", settings=(DECLARED,)),
        fake_arm("calibrated", early=-0.5, late=-0.2, settings=(DECLARED,)),
    ]
    sweep.sweep(arms, range(1, 9))
    report = build_report([sweep.root], tmp_path / "out")
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert data["primary"] == {
        **{"figure": "chrf", "label": "chrF", "less": False, "unit": "points", "digits": 1},
        **{"declared": ["chrf"], "asked": False, "note": None},
    }
    assert report.arm("calibrated").word == "better"  # more of it is better
    assert report.arm("calibrated").difference["chrf"].mean > 0
    assert "Its chrF was" in report.detail
    assert "points higher (95% interval" in report.detail
    assert "The primary figure, chosen beforehand, is the chrF" in report.rule
    assert "bootstrap interval over seeds and examples" in report.rule
    assert "Δ chrF" in printed(report)


def test_another_primary_figure_than_the_declared_one_is_said(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", late=-0.2)], (1, 2, 3, 4))
    report = build_report([sweep.root], tmp_path / "out", primary="test_loss")
    assert (report.primary["figure"], report.primary["asked"], report.primary["declared"]) == (
        "test_loss",
        True,
        ["auc"],
    )
    assert "is not the one that was declared beforehand (auc)" in report.caveats[0]
    assert "not the one that was declared beforehand" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    same = compare(collect([sweep.root], primary="auc"))
    assert (same.primary["asked"], same.primary["note"]) == (False, None)
    for seed in (1, 2):
        sweep.job(fake_arm("embeddings", settings=(DECLARED,)), seed)
    mixed = compare(collect([sweep.root]))
    assert "different primary figures (auc, chrf)" in mixed.caveats[0]


def test_contrasts_are_paired_corrected_and_worded(fake_sweep, fake_arm):
    declared = (("report.contrasts", [["full", "denoising"]]),)
    sweep = fake_sweep(noise=0.01)
    arms = [
        fake_arm("none", settings=declared),
        fake_arm("denoising", early=-0.3, late=-0.1, control=True, settings=declared),
        fake_arm("full", early=-0.6, late=-0.2, settings=declared),
        fake_arm("rates", early=-0.3, late=-0.1, settings=declared),
    ]
    sweep.sweep(arms, range(1, 9))
    report = compare(collect([sweep.root], contrasts=[("rates", "denoising"), ("full", "denoising"), ("full", "gone")]))
    first, second = report.contrasts
    assert (first.arm, first.against, first.asked, first.word) == ("full", "denoising", False, "better")
    assert (second.arm, second.asked, second.word) == ("rates", True, "cannot tell")
    assert second.seeds_needed > 8
    both = {arm.name: {item["finetune_seed"]: item["auc"] for item in arm.seeds} for arm in report.arms}
    apart = [both["full"][seed] - both["denoising"][seed] for seed in range(1, 9)]
    assert first.difference["auc"].mean == pytest.approx(np.mean(apart))
    assert first.difference["auc"].p == 2 / 256
    assert first.difference["auc"].p_holm == 4 / 256  # of the two contrasts
    assert "contrast of full and gone: no arm is called gone" in report.warnings
    text = printed(report)
    assert "full against denoising: better" in text
    assert "asked for when this report was made" in text
    assert json.loads(json.dumps(report.to_json()))["contrasts"][0]["arm"] == "full"


def test_a_record_that_is_older_than_a_setting_makes_no_other_arm(fake_sweep, fake_arm):
    sweep = fake_sweep()
    for seed in (1, 2, 3):
        sweep.job(fake_arm("none"), seed)
        sweep.job(fake_arm("calibrated"), seed)
    young = (("evaluate.no_repeat_ngram_size", 0), ("transfer.adapter", {"rank": 0, "head": True}))
    for seed in (4, 5, 6):
        sweep.job(fake_arm("none", settings=young), seed)
        sweep.job(fake_arm("calibrated", settings=(*young, ("finetune.weight_decay", 0.01))), seed)
    found = collect([sweep.root])
    assert [(arm.name, len(arm.runs)) for arm in found.arms] == [("none", 6), ("calibrated", 6)]
    assert compare(found).warnings == []
    other = fake_arm("calibrated", settings=(("evaluate.no_repeat_ngram_size", 3),))
    for seed in (1, 2, 3):
        sweep.job(other, seed)
    assert len(collect([sweep.root]).arms) == 3


def test_defaults_fill_what_a_record_lacks_and_nothing_else():
    full = with_defaults({"data.kind": "docstrings", "transfer.name": "x", "finetune.lr": 1.0, "odd.one": 2})
    assert full["data.min_body"] == 80
    assert full["transfer.adapter.rank"] == 0
    assert full["finetune.lr"] == 1
    assert full["odd.one"] == 2
    assert full["finetune.max_steps"] == 1000
    assert not any(key.startswith("mask.") for key in full)  # the record knows no such group


def test_steps_and_compute_to_the_baselines_best_have_intervals_and_say_what_is_censored(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5, late=-0.12), fake_arm("bad", late=0.4)])
    report = compare(collect([sweep.root]))
    good, bad = report.arm("calibrated").to_best, report.arm("bad").to_best
    shares = sorted(item["steps_share"] for item in report.arm("calibrated").seeds)
    assert good["steps"]["median"] == pytest.approx((shares[3] + shares[4]) / 2)
    assert (good["steps"]["low"], good["steps"]["high"]) == (shares[0], shares[-1])  # of eight, the least and greatest
    assert (good["steps"]["n"], good["steps"]["censored"]) == (8, 0)
    assert good["compute"]["median"] == pytest.approx(good["steps"]["median"] + 9e13 / 1.2e14)
    assert (bad["steps"]["median"], bad["steps"]["above"], bad["steps"]["high"]) == (None, 1.0, None)
    assert bad["steps"]["censored"] == 8
    few = compare(collect([sweep.root / "sweep" / str(number) for number in range(9)])).arm("calibrated").to_best
    assert (few["steps"]["n"], few["steps"]["low"]) == (3, None)


def test_the_loss_at_the_baselines_compute_is_read_off_the_curve(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5, late=-0.2)], (1, 2, 3, 4))
    report = compare(collect([sweep.root]))
    arm = report.arm("calibrated")
    run = next(item for item in collect([sweep.root]).arms if item.name == "calibrated").runs[0]
    # the donor cost 9e13, the baseline in all 1.2e14: a quarter of its own steps are left
    assert float(np.interp(250, run.curve["step"], run.curve["loss"])) == pytest.approx(
        arm.difference["equal_compute"].mean + report.arm("none").seeds[0]["val_loss"], abs=0.2
    )
    assert (arm.equal_compute["n"], arm.equal_compute["not_reached"], arm.equal_compute["words"]) == (4, 0, "")
    assert arm.difference["equal_compute"].mean > 0 > arm.difference["auc"].mean
    assert any("At the compute that the baseline spent, donor and graft charged" in item for item in report.caveats)
    for path in sweep.root.rglob("pretrain/*/cost.json"):
        path.write_text(json.dumps({"flops": 5e14}), encoding="utf-8")
    dear = compare(collect([sweep.root])).arm("calibrated")
    assert dear.equal_compute["words"].startswith("not reached: the donor and the graft alone cost more")
    assert "equal_compute" not in dear.difference


def test_a_control_is_beaten_at_equal_compute_too(fake_sweep, fake_arm):
    sweep, declared = fake_sweep(), {"settings": (("report.primary", "equal_compute"),)}
    arm = fake_arm("calibrated", early=-3, late=-1, **declared)
    sweep.sweep([fake_arm("none", **declared), arm, fake_arm("shuffled", control=True, **declared)], (1, 2, 3, 4))
    for path in sweep.root.rglob("pretrain/*/cost.json"):  # a donor that cost next to nothing
        path.write_text(json.dumps({"flops": 1e12}), encoding="utf-8")
    report = compare(collect([sweep.root]))
    assert report.headline.startswith("calibrated is better than the baseline (none)")
    assert report.arm("calibrated").not_above == []


def test_arms_that_reached_the_baselines_compute_in_some_seeds_are_not_said_to_have_in_none():
    words = {"a": "not reached: dear", "b": "not reached by 1 of 3: dear", "c": "not reached: dear", "d": ""}
    arms = [SimpleNamespace(name=name, equal_compute={"words": text}, difference={}) for name, text in words.items()]
    assert _equal_compute(arms) == [
        "At the compute that the baseline spent (a, c): not reached: dear.",
        "At the compute that the baseline spent (b): not reached by 1 of 3: dear.",
    ]


def test_each_language_has_differences_of_its_own(fake_sweep):
    sweep = fake_sweep()
    sweep.sweep(seeds=(1, 2, 3, 4))
    arm = compare(collect([sweep.root])).arm("calibrated")
    assert set(arm.languages_difference) == {"en_XX", "de_DE", "ar_AR"}
    german = arm.languages_difference["de_DE"]
    assert set(german) == {"test_loss", "chrf", "bleu", "rougeL"}
    assert (german["chrf"].method, german["chrf"].examples, german["chrf"].n) == ("bootstrap", 20, 4)
    assert german["chrf"].low < german["chrf"].mean < german["chrf"].high
    assert german["chrf"].p_holm is None
    whole = arm.difference["test_loss"]
    assert whole.mean == pytest.approx(
        np.mean([table["test_loss"].mean for table in arm.languages_difference.values()]), abs=0.05
    )
    assert whole.t_low < whole.mean < whole.t_high
    assert arm.difference["chrf"].mean == pytest.approx(
        arm.mean["chrf"] - compare(collect([sweep.root])).arm("none").mean["chrf"]
    )


def test_probes_alarm_in_plain_words(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    arms = [
        fake_arm("none", gap=0.005),
        fake_arm("calibrated", probes=(("in_language", 0.4), ("degenerate", 0.3))),
        fake_arm("embeddings", probes=(("copied", 0.9), ("exact_copies", 0.5), ("length_ratio", 3.1))),
        fake_arm("quiet"),
        fake_arm("stuck", probes=(("commonest", 0.6),)),
        fake_arm("level", gap=-0.0004),
        fake_arm("misled", gap=-0.012),
    ]
    sweep.sweep(arms, (1, 2, 3))
    report = build_report([sweep.root], tmp_path / "out")
    words = {arm.name: [item["word"] for item in arm.alarms] for arm in report.arms}
    assert words == {
        "none": ["reads hardly its source"],
        "calibrated": ["wrong language", "repeats"],
        "embeddings": ["copies", "too long"],
        "quiet": [],
        "stuck": ["says the same"],
        "level": ["reads hardly its source"],
        "misled": ["reads hardly its source"],
    }
    gaps = [report.arm(name).alarms[0]["text"].removeprefix("with shuffled sources its loss ") for name in words
            if words[name] == ["reads hardly its source"]]  # fmt: skip
    assert sorted(gaps) == [
        "falls by 0.012 nats a token", "rises by 0.000 nats a token only", "rises by 0.005 nats a token only"
    ]  # fmt: skip
    assert report.arm("calibrated").alarms[0] == {
        "probe": "in_language",
        "word": "wrong language",
        "text": "40% of its outputs are in the language asked for, of the references 97%",
        "language": "all",
    }
    assert report.arm("calibrated").probes["de_DE"]["in_language"] == pytest.approx(0.4)
    assert any(item.startswith("Probe “copies”: embeddings") for item in report.caveats)
    text = printed(report)
    assert "wrong language: calibrated" in text
    assert "copies: embeddings" in text


def test_a_fault_of_one_language_is_named_with_it(fake_sweep):
    sweep = fake_sweep()
    sweep.sweep(seeds=(1, 2))
    for path in sweep.root.rglob("scores.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["probes"]["languages"]["ar_AR"]["in_language"] = 0.1
        path.write_text(json.dumps(record), encoding="utf-8")
    arm = compare(collect([sweep.root])).arm("calibrated")
    assert [(item["word"], item["language"]) for item in arm.alarms] == [("wrong language", "ar_AR")]


def test_worst_examples_are_means_over_seeds(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", late=-0.2)], (1, 2, 3))
    for path in sweep.root.rglob("examples.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if rows[0]["prediction"].endswith("(calibrated)"):
            rows[7]["loss"] += 30  # of every seed
        rows[9]["loss"] += 60  # of both arms
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arm = compare(collect([sweep.root])).arm("calibrated")
    assert [item["index"] for item in arm.worst["loss"][:2]] == [9, 7]
    first = arm.worst["increase"][0]
    assert (first["index"], first["language"]) == (7, "de_DE")
    assert first["loss"] - first["baseline"] == pytest.approx(30, abs=1)
    assert first["prediction"].endswith("(calibrated)")


def test_records_without_counts_and_probes_are_compared_by_seeds(fake_sweep):
    sweep = fake_sweep()
    sweep.sweep(seeds=(1, 2, 3))
    for path in sweep.root.rglob("examples.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = [{name: value for name, value in row.items() if not name.endswith("_counts")} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    for path in sweep.root.rglob("scores.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        del record["probes"], record["gaps"]
        path.write_text(json.dumps(record), encoding="utf-8")
    arm = compare(collect([sweep.root])).arm("calibrated")
    assert (arm.difference["chrf"].method, arm.difference["test_loss"].method) == ("t", "bootstrap")
    assert set(arm.languages_difference["en_XX"]) == {"test_loss", "rougeL"}
    assert arm.probes["all"]["gap"] == pytest.approx(1.1)
    assert arm.probes["all"]["in_language"] is None
    assert arm.alarms == []
