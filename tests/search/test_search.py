"""Searches as a user runs them: the real command, pico models, real files."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftlm.cli import main
from graftlm.search.outcome import told
from graftlm.tracking import METRICS, read_metrics, validation_losses

PICO = (
    "experiment=smoke", "transfer=none", "finetune.max_steps=6", "finetune.val_interval=2", "finetune.val_pairs=8",
    "finetune.generate_pairs=0", "evaluate.max_pairs=4", "evaluate.max_new_tokens=2",
)  # fmt: skip
# a rate that teaches and one that does not
PRUNED = (
    "run", "-m", *PICO, "sweep=random", "search.trials=4", "search.seed=2", "finetune.lr=0.02,1e-8",
    "search.pruner.kind=median", "search.pruner.after=0.3", "search.pruner.startup_trials=1",
)  # fmt: skip


# each alone is sound, as the corners of the space are; 64 tokens a row in batches of 48 are not
UNSOUND = ("finetune.max_source_length=32,64", "finetune.batch_tokens=1024,48")


def summaries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("multirun/2*/search.json"))]


def states(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [(trial["state"], trial["overrides"][0]) for trial in summary["trials"]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that the tests share: one corpus for all."""
    return f"store.dir={tmp_path_factory.mktemp('store')}"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, store: str) -> tuple[Path, int]:
    """A folder in which a search with pruning was run, and its exit code."""
    import graftlm.data.tokenizers  # noqa: F401  (before the sweep: Hydra must leave its logger alone)

    folder = tmp_path_factory.mktemp("pruned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, main([*PRUNED, store])


def test_a_hopeless_trial_is_given_up(pruned: tuple[Path, int], store: str) -> None:
    folder, code = pruned
    assert code == 0
    (summary,) = summaries(folder)
    good, bad = ("complete", "finetune.lr=0.02"), ("pruned", "finetune.lr=1e-08")
    assert set(states(summary)) == {good, bad}
    assert states(summary)[0] == good
    assert summary["counts"] == {"complete": states(summary).count(good), "pruned": states(summary).count(bad)}
    trial = next(trial for trial in summary["trials"] if trial["state"] == "pruned")
    record = json.loads(next(folder.glob(f"multirun/2*/{trial['number']}/job.json")).read_text())
    assert record["status"] == "pruned"
    assert record["pruned_step"] == trial["step"] == 2
    assert [stage["stage"] for stage in record["stages"]] == ["corpus"]
    assert record["error"].startswith("given up at step 2 of 6: val loss ")
    assert record["overrides"] == [*PICO, store, "finetune.lr=1e-08"]


def test_what_was_loaded_before_a_sweep_still_writes_messages(pruned: tuple[Path, int]) -> None:
    assert not logging.getLogger("graftlm.data.tokenizers").disabled


def test_pruned_trials_are_listed_and_no_arms(pruned: tuple[Path, int]) -> None:
    folder, _ = pruned
    (path,) = folder.glob("multirun/2*/report.json")
    report = json.loads(path.read_text())
    (summary,) = summaries(folder)
    assert len(report["pruned"]) == summary["counts"]["pruned"]
    assert report["failed"] == []
    assert len(report["arms"]) == 1
    assert any(caveat.startswith("Pruning was on") for caveat in report["caveats"])
    assert "finetune.lr=1e-08" in path.with_suffix(".html").read_text()
    assert "no arms" in path.with_suffix(".md").read_text()


def test_a_pruned_training_can_be_taken_up_again(
    pruned: tuple[Path, int], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *PICO, store, "finetune.lr=1e-08"]) == 0
    assert "going on from step 2" in capsys.readouterr().err
    (record,) = tmp_path.glob("multirun/2*/job.json")
    stages = {stage["stage"]: record.parent / stage["path"] for stage in json.loads(record.read_text())["stages"]}
    disturbed = validation_losses(stages["finetune"])
    calm = ["run", *PICO, "finetune.lr=1e-08", "store.dir=calm"]
    assert main(calm) == 0
    (other,) = tmp_path.glob(f"calm/finetune/*/{METRICS}")
    assert validation_losses(other.parent) == disturbed
    assert [step for step, _ in disturbed] == [0, 1, 2, 4, 6]


def test_the_same_command_again_runs_nothing_and_reports_all(
    pruned: tuple[Path, int], store: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder, _ = pruned
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("job.json")}
    assert main(["plan", *PRUNED[1:], store]) == 0
    planned = capsys.readouterr().out
    assert "; 0 to go" in planned
    assert "pruning: median, from step 2 of 6" in planned
    assert main([*PRUNED, store]) == 0
    said = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("job.json")} == before
    first, second = summaries(folder)
    for summary in (first, second):
        for trial in summary["trials"]:
            del trial["job"]  # told from another folder
    assert {**first, "folder": None} == {**second, "folder": None}
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("multirun/2*/report.json"))]
    assert [len(report["pruned"]) for report in reports] == [first["counts"]["pruned"]] * 2
    assert reports[0]["jobs"] == reports[1]["jobs"] == 4
    command = next(line for line in said.out.splitlines() if line.startswith("  graftlm run -m"))
    words = command.split()
    assert words[3:] == [*PICO, store, "finetune.lr=0.02", "finetune.seed=2,3,4"]


def test_a_killed_search_goes_on_and_finds_the_same(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "run", "-m", *PICO, "sweep=tpe", "search.trials=2", "finetune.max_steps=30", "finetune.val_interval=15",
        "finetune.checkpoint_interval=5", "finetune.lr=tag(log,interval(1e-4,1e-2))", "finetune.warmup=0,0.2",
    ]  # fmt: skip
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    for folder in (disturbed, calm):
        folder.mkdir()
        made = Path(store.partition("=")[2]) / "corpus"  # by the tests before
        if made.is_dir():
            shutil.copytree(made, folder / "multirun" / "store" / "corpus")
    kill = (  # by itself, in the second trial: a test that waits for that may come too late on a busy machine
        "import os, sys; from pathlib import Path; from graftlm.stages.saving import Course; real = Course.save\n"
        "def save(course, trainer):\n"
        "    real(course, trainer)\n"
        "    if list(Path().glob('multirun/2*/1/job.json')): os.kill(os.getpid(), 9)\n"
        "Course.save = save\n"
        "from graftlm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", kill, *words],
        cwd=disturbed,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == -signal.SIGKILL
    assert list(disturbed.glob("multirun/store/finetune/*.partial/scratch/last.ckpt"))
    (first,) = disturbed.glob("multirun/2*/0/job.json")
    before = first.stat().st_mtime_ns
    for folder in (disturbed, calm):
        monkeypatch.chdir(folder)
        assert main(words) == 0
    assert first.stat().st_mtime_ns == before
    assert len(list(disturbed.glob("multirun/2*/0"))) == 1
    *_, after = summaries(disturbed)
    (undisturbed,) = summaries(calm)
    assert after["counts"] == undisturbed["counts"] == {"complete": 2}
    assert [trial["number"] for trial in after["trials"]] == [0, 2], "the one that was killed has a new number"
    for one, other in zip(after["trials"], undisturbed["trials"], strict=True):
        assert (one["overrides"], one["values"]) == (other["overrides"], other["values"])


def test_several_objectives_end_with_those_that_no_other_beats(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "-m", *PICO, store, "sweep=nsga2", "search.trials=3", "finetune.max_steps=range(2,8,2)"]
    assert main([*words, "search.population=2", "search.seed=3"]) == 0
    (summary,) = summaries(tmp_path)
    assert summary["objectives"] == ["val_loss", "flops"]
    values = {trial["number"]: trial["values"] for trial in summary["trials"]}
    front = {
        number
        for number, (loss, flops) in values.items()
        if not any(other[0] <= loss and other[1] <= flops and other != [loss, flops] for other in values.values())
    }
    assert {trial["number"] for trial in summary["best"]} == front
    assert len({flops for _, flops in values.values()}) > 1
    assert "no other trial beats these in all of val_loss, flops:" in capsys.readouterr().out


def test_settings_that_cannot_be_together_fail_their_trial_alone(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", *PICO, store, "sweep=random", "search.trials=3", *UNSOUND]) == 0
    (summary,) = summaries(tmp_path)
    expected = [
        "failed" if trial["overrides"] == ["finetune.max_source_length=64", "finetune.batch_tokens=48"] else "complete"
        for trial in summary["trials"]
    ]
    assert set(expected) == {"failed", "complete"}
    assert [trial["state"] for trial in summary["trials"]] == expected
    failed = next(trial for trial in summary["trials"] if trial["state"] == "failed")
    assert failed["error"].startswith("finetune.batch_tokens=48: does not hold one row of 64 tokens")
    assert not (tmp_path / "multirun" / str(failed["number"])).exists()


def test_a_loss_that_is_no_number_is_a_failure(pruned: tuple[Path, int], tmp_path: Path) -> None:
    folder, _ = pruned
    (summary,) = summaries(folder)[:1]
    trial = next(trial for trial in summary["trials"] if trial["state"] == "complete")
    job = next(folder.glob(f"multirun/2*/{trial['number']}"))
    found = told(job, ["val_loss", "flops", "parameters"])
    assert found is not None
    assert found.state == "complete"
    assert found.values is not None
    assert found.values[0] == trial["values"][0]
    assert all(value > 0 for value in found.values)
    assert told(job, ["val_loss", "chrf"]) == told(job, ["val_loss", "chrf"])
    record = json.loads((job / "job.json").read_text())
    copy = tmp_path / "finetune"
    copy.mkdir()
    source = next(job / stage["path"] for stage in record["stages"] if stage["stage"] == "finetune")
    lines = read_metrics(source / METRICS)
    next(line for line in reversed(lines) if "val/loss" in line)["val/loss"] = None  # as a NaN is written
    (copy / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for stage in record["stages"]:
        stage["path"] = str(copy if stage["stage"] == "finetune" else (job / stage["path"]).resolve())
    (tmp_path / "job.json").write_text(json.dumps(record))
    broken = told(tmp_path, ["val_loss"])
    assert broken is not None
    assert broken.state == "failed"
    assert broken.values is None
    assert "not a number" in str(broken.error)


def test_a_search_in_which_all_fails_says_so(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The first that is drawn is the one that cannot be."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", *PICO, store, "sweep=random", "search.trials=1", "search.seed=8", *UNSOUND]) == 1
    (summary,) = summaries(tmp_path)
    assert summary["counts"] == {"failed": 1}
    assert summary["best"] == []
    said = capsys.readouterr()
    assert "no trial gave a value" in said.out
    assert "does not hold one row of 64 tokens" in said.out
    assert "Traceback" not in said.err


def test_a_study_is_not_continued_with_other_settings(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "-m", *PICO, store, "sweep=random", "search.study=mine", "search.trials=1"]
    assert main([*words, "finetune.lr=0.01,0.02"]) == 0
    capsys.readouterr()
    assert main([*words, "finetune.lr=0.01,0.03", "finetune.max_steps=5"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("graftlm: search.study=mine: is a study of other space and settings")
    assert main([*words, "finetune.lr=0.01,0.02", "search.trials=2"]) == 0
    assert len(list(tmp_path.glob("multirun/2*/1/job.json"))) == 1


def test_workers_share_a_search(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the joblib launcher is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        "run",
        "-m",
        *PICO,
        store,
        "sweep=tpe",
        "search.trials=3",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    ]
    assert main([*words, "finetune.lr=tag(log,interval(1e-4,1e-2))", "finetune.warmup=interval(0,0.3)"]) == 0
    (summary,) = summaries(tmp_path)
    assert summary["counts"] == {"complete": 3}
    assert len({tuple(trial["overrides"]) for trial in summary["trials"]}) == 3
