import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from graftlm.report import build_report
from graftlm.report.collect import collect
from graftlm.report.compare import compare
from graftlm.report.figures import charged_before, figures_of
from graftlm.report.records import Artifacts, read_run
from graftlm.report.terminal import print_report


def test_a_sweep_with_known_truth(fake_sweep, tmp_path):
    folder = fake_sweep().sweep()
    report = build_report([folder], tmp_path / "out")
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert data["version"] == 2
    assert data["baseline"] == "none"
    assert data["verdict"].startswith("calibrated is better than the baseline (none)")
    arms = {arm["name"]: arm for arm in data["arms"]}
    assert arms["calibrated"]["words"] == "better"
    assert arms["naive"]["control"]
    assert arms["naive"]["words"].startswith("cannot tell with 8 seeds")
    assert arms["calibrated"]["difference"]["auc"]["p"] == 2 / 256
    assert arms["calibrated"]["difference"]["auc"]["p_holm"] == 4 / 256  # over the two arms that are no control
    assert arms["calibrated"]["difference"]["test_loss"]["mean"] == pytest.approx(-0.12, abs=0.06)
    assert arms["calibrated"]["fidelity"]["after"]["cka"] == 0.93
    seed = arms["calibrated"]["seeds"][0]
    assert (seed["finetune_seed"], seed["pretrain_seed"], seed["donor_flops"]) == (1, 1, 9e13)
    assert seed["compute_share"] == pytest.approx(seed["steps_share"] + 9e13 / 1.2e14)
    assert arms["shuffled"]["mean"]["steps_share"] is None
    assert arms["shuffled"]["mean"]["steps_share_above"] == 1.0
    # the first validation, at step 50, finds a gap of 1.1 * (log(51) / log(1001))²
    assert seed["read_steps"] == pytest.approx(50 * 0.05 / (1.1 * (np.log(51) / np.log(1001)) ** 2))
    assert seed["read_steps"] < arms["none"]["seeds"][0]["read_steps"]
    assert seed["first_loss"] > seed["val_loss"]
    assert any("share one donor" in caveat for caveat in report.caveats)
    assert any(caveat.startswith("57% of the log-step axis") for caveat in report.caveats)  # log(51) / log(1001)
    assert "| calibrated | better | 8 |" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_report(report, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("calibrated") and "better" in line and "−0.18 [−0.22, −0.14]" in line for line in lines)


def test_a_model_that_never_reads_its_source_says_up_to_where(fake_sweep, fake_arm, tmp_path):
    folder = fake_sweep().sweep(arms=(fake_arm("none", gap=0.02), fake_arm("calibrated", gap=0.9)))
    arms = {arm.name: arm for arm in build_report([folder], tmp_path / "out").arms}
    assert arms["none"].mean["read_steps"] is None
    assert arms["none"].mean["read_steps_above"] == 1000
    assert "| > 1000 |" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_two_seeds_support_no_claim(fake_sweep, fake_arm):
    sweep = fake_sweep(noise=0.001)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-3, late=-1)], seeds=(1, 2))
    report = compare(collect([sweep.root]))
    assert report.arm("calibrated").word == "cannot tell"
    assert "2 seeds, too few for a claim" in report.arm("calibrated").words
    assert report.headline.startswith("With 2 seeds one cannot tell")
    assert any("cannot support a claim beyond these very runs" in caveat for caveat in report.caveats)


def test_three_seeds_rest_on_the_t_test_and_say_so(fake_sweep, fake_arm):
    sweep = fake_sweep(noise=0.005)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-1, late=-1)], seeds=(1, 2, 3))
    report = compare(collect([sweep.root]))
    assert (report.arm("calibrated").words, report.arm("calibrated").basis) == ("better", "t-test only")
    assert any("rests on a t-test" in caveat for caveat in report.caveats)


@pytest.mark.parametrize(
    ("donors", "told"),
    [
        ({1: [1], 2: [1], 3: [1], 4: [1]}, "all seeds share one donor"),
        ({1: [1], 2: [2], 3: [1], 4: [2]}, "the seeds share 2 donors"),
        ({1: [1, 2], 2: [1, 2]}, "the seeds share 2 donors"),  # crossed: each seed is a mean over the same ones
        ({1: [1], 2: [2], 3: [3], 4: [4]}, None),
    ],
)
def test_seeds_that_share_donors_are_said_to(fake_sweep, fake_arm, donors, told):
    sweep = fake_sweep()
    for seed, some in donors.items():
        sweep.job(fake_arm("none"), seed)
        for donor in some:
            sweep.job(fake_arm("calibrated"), seed, donor)
    caveats = compare(collect([sweep.root])).caveats
    assert [told] * (told is not None) == [told for caveat in caveats if "donor" in caveat and str(told) in caveat]
    assert any("pretrain.donors" in caveat for caveat in caveats) == (told is not None)


def test_arms_of_another_schedule_are_not_compared_silently(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.sweep(
        [fake_arm("none"), fake_arm("calibrated", settings=(("finetune.lr", 0.01), ("evaluate.num_beams", 1)))], (1, 2)
    )
    report = compare(collect([sweep.root]))
    assert set(report.arm("calibrated").differs) == {"finetune.lr", "evaluate.num_beams"}
    assert any("finetune.lr (0.001 → 0.01)" in warning for warning in report.warnings)


def test_what_stands_beside_the_headline_is_of_the_arm_that_it_names(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    other = fake_arm("embeddings", early=-2, late=-0.9, settings=(("finetune.lr", 0.01),))
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5, late=-0.12), other], (1, 2, 3))

    def facts():
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        return page.partition('<dl class="facts">')[2].partition("</dl>")[0]

    report = build_report([sweep.root], tmp_path / "out")
    assert report.headline.startswith("calibrated is better")
    assert "<bdi>calibrated</bdi> against <bdi>none</bdi>" in facts()
    assert "embeddings" not in facts()
    for path in sweep.root.rglob("job.json"):
        if json.loads(path.read_text(encoding="utf-8"))["choices"]["transfer"] == "calibrated":
            path.unlink()
    assert build_report([sweep.root], tmp_path / "out").headline == "Nothing can be compared"
    assert facts() == ""


@pytest.mark.parametrize(
    ("early", "told"), [(-1, " but was not shown to gain more than the control shuffled"), (-0.2, "")]
)
def test_a_control_that_gains_as_much_stands_in_the_headline(fake_sweep, fake_arm, early, told):
    sweep = fake_sweep()
    shuffled = fake_arm("shuffled", early=early, late=early, control=True)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-1, late=-1), shuffled], (1, 2, 3, 4))
    report = compare(collect([sweep.root]))
    assert report.headline.startswith("calibrated is better than the baseline (none)")
    assert report.headline.partition(",")[2] == told
    assert report.arm("calibrated").not_above == (["shuffled"] if told else [])


def test_a_control_of_another_schedule_says_nothing_in_the_headline(fake_sweep, fake_arm):
    sweep, other = fake_sweep(), (("finetune.lr", 0.01),)
    # under the other rate all losses are lower, that of the control too, which gains nothing on its own baseline
    far = {"early": -3.0, "late": -1.0, "settings": other}
    arms = [fake_arm("none"), fake_arm("calibrated", early=-1, late=-1), fake_arm("shuffled", control=True)]
    sweep.sweep([*arms, fake_arm("none", **far), fake_arm("shuffled", control=True, **far)], (1, 2, 3, 4))
    report = compare(collect([sweep.root]))
    best = next(arm for arm in report.arms if arm.word == "better")
    assert report.headline.startswith(f"{best.name} is better than the baseline")
    assert "control" not in report.headline
    assert best.not_above == []


def test_another_corpus_or_other_batches_from_the_same_settings_are_said(fake_sweep, fake_arm):
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated"), fake_arm("embeddings")], (1, 2, 3))
    for path in sweep.root.rglob("job.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["choices"]["transfer"] == "calibrated":
            record["stages"][0]["key"] = "0123456789abcdef"
            path.write_text(json.dumps(record), encoding="utf-8")
        if record["choices"]["transfer"] == "embeddings" and record["seeds"]["finetune"] == 2:
            metrics = (path.parent / record["stages"][2]["path"]).resolve() / "metrics.jsonl"
            rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
            rows[-1]["tokens"] += 7
            metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = compare(collect([sweep.root]))
    assert report.arm("calibrated").differs["the corpus itself"][1] == "0123456789ab"
    assert report.arm("embeddings").differs == {"tokens read up to step 1000": [4096000, 4096007]}
    assert report.headline == "Nothing can be compared"
    assert sum("differ in more than the graft" in warning for warning in report.warnings) == 2


def test_each_arm_meets_the_baseline_of_its_own_schedule(fake_sweep, fake_arm):
    sweep = fake_sweep()
    for lr in (0.001, 0.01):
        for name in ("none", "calibrated"):
            arm = fake_arm(name, overrides=(f"finetune.lr={lr}",), settings=(("finetune.lr", lr),))
            for seed in (1, 2, 3):
                sweep.job(arm, seed)
    report = compare(collect([sweep.root]))
    assert report.arm("calibrated · finetune.lr=0.01").compared_to == "none · finetune.lr=0.01"
    assert report.warnings == []


def test_an_arm_whose_graft_read_nothing_of_the_donor_is_charged_none(fake_sweep, fake_arm):
    """As the records of denoising have it that were made when it trained a donor all the same."""
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", late=-0.1), fake_arm("denoising", late=-0.1)], (1, 2, 3))
    for path in sweep.root.rglob("transfer.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["strategy"] == "denoising":
            record["counts"]["donor"] = {"used": 0, "unused": 5}
            path.write_text(json.dumps(record), encoding="utf-8")
    report = compare(collect([sweep.root / "sweep"]))
    arms = {arm.name: arm.seeds[0] for arm in report.arms}
    assert arms["calibrated"]["donor_flops"] == 9e13
    assert arms["calibrated"]["donor_seconds"] > 0
    assert (arms["denoising"]["donor_flops"], arms["denoising"]["donor_seconds"]) == (0, 0)
    assert arms["denoising"]["compute_share"] < arms["calibrated"]["compute_share"]


def test_beside_another_graft_both_are_charged_what_came_before(fake_sweep, fake_arm):
    sweep = fake_sweep()
    folder = sweep.sweep([fake_arm("calibrated"), fake_arm("full", late=-0.1)], (1,))
    arms = {arm.transfer: arm.runs[0] for arm in collect([folder]).arms}
    beside = figures_of(arms["full"], arms["calibrated"])
    assert 0 < beside["steps_share"] < 1
    assert beside["compute_share"] == pytest.approx((9e13 + beside["steps_share"] * 1.2e14) / (9e13 + 1.2e14))


def test_a_graft_that_is_a_stage_of_its_own_is_charged_to_each_arm_that_uses_it(fake_sweep, fake_arm):
    """And read from there; a job without one has none. An earlier record has its graft in the fine-tuning."""
    sweep = fake_sweep()
    folder = sweep.job(fake_arm("calibrated"), 1)
    record = json.loads((folder / "job.json").read_text(encoding="utf-8"))

    warnings: list[str] = []

    def run() -> Any:
        return read_run(folder / "job.json", record, Artifacts(warnings))

    earlier = run()
    assert earlier.cost["graft_seconds"] == 4.0
    (tuned,) = [folder / stage["path"] for stage in record["stages"] if stage["stage"] == "finetune"]
    graft = sweep.root / "store" / "graft" / "abc"
    graft.mkdir(parents=True)
    (tuned / "transfer.json").rename(graft / "transfer.json")
    (graft / "cost.json").write_text(json.dumps({"seconds": 70.0, "flops": 3e13, "parameters": 5_000_000}))
    record["stages"].append({"stage": "graft", "key": "abc", "path": "../../store/graft/abc", "reused": True})
    now = run()
    assert (now.cost["graft_seconds"], now.cost["graft_flops"]) == (70.0, 3e13)
    assert now.cost["seconds"] == earlier.cost["seconds"]
    assert now.transfer == earlier.transfer
    assert charged_before(now) == charged_before(earlier) + 3e13
    assert warnings == []
    (graft / "cost.json").unlink()
    assert "graft_flops" not in run().cost, "not known is not nothing"
    assert len(warnings) == 1


def test_donors_of_one_seed_are_averaged(fake_sweep, fake_arm):
    sweep = fake_sweep()
    for seed in (1, 2, 3):
        sweep.job(fake_arm("none"), seed)
        for donor in (1, 2):
            sweep.job(fake_arm("calibrated", late=-0.1), seed, donor)
    arm = compare(collect([sweep.root])).arm("calibrated")
    assert len(arm.seeds) == 6
    assert arm.difference["auc"].n == 3
    assert arm.difference["test_loss"].n == 3


def test_unpaired_seeds_and_a_missing_baseline_are_said(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    sweep.job(fake_arm("none"), 1)
    sweep.job(fake_arm("none"), 2)
    sweep.job(fake_arm("calibrated"), 2)
    sweep.job(fake_arm("calibrated"), 3)
    warnings = "\n".join(compare(collect([sweep.root])).warnings)
    assert "no baseline run with finetune seed 3" in warnings
    assert "no run with finetune seed 1, which the baseline has" in warnings
    alone = build_report([sweep.root / "sweep" / "3"], tmp_path / "out")
    assert "no baseline" in alone.warnings[0]
    assert alone.headline == "Whether a graft helps cannot be said"


def test_only_failures_still_make_a_report(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    sweep.job(fake_arm("none"), 1, status="failed", error="DataError: no rows")
    report = build_report([sweep.root], tmp_path / "out")
    assert report.headline == "No run finished"
    assert "DataError: no rows" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_records_without_their_optional_parts(fake_sweep, tmp_path):
    folder = fake_sweep().sweep(seeds=(1, 2))
    for name in ("scores.json", "examples.jsonl", "cost.json", "transfer.json"):
        for path in folder.parent.rglob(name):
            path.unlink()
    report = build_report([folder], tmp_path / "out")
    assert "auc" in report.arm("calibrated").difference
    assert any("scores.json" in warning for warning in report.warnings)


def test_torch_is_not_imported(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep()
    sweep.sweep([fake_arm("none"), fake_arm("calibrated")], (1,))
    code = (
        "import sys, graftlm.report.terminal; from pathlib import Path; from graftlm.report import build_report\n"
        "build_report([Path(sys.argv[1])], Path(sys.argv[2]))\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'wandb') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep.root), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
