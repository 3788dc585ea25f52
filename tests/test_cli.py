"""The whole path as a user runs it: real processes, real files, pico models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from graftlm.scores import chrf_of
from graftlm.store import MARKER, read_marker
from graftlm.tracking import read_metrics
from warm import graftlm

SWEEP = ("run", "-m", "experiment=smoke", "transfer=none,naive,embeddings,calibrated", "finetune.seed=1,2")


def fresh(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own, from the start."""
    return subprocess.run(
        [sys.executable, "-m", "graftlm", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def jobs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("multirun/*/*/job.json"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which a sweep over all strategies and two seeds was run."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, fresh(folder, *SWEEP)


def test_a_sweep_ends_with_a_table_and_a_page(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = swept
    assert result.returncode == 0, result.stderr
    (page,) = folder.glob("multirun/*/report.html")
    assert result.stdout.rstrip().endswith(f"report: {page.relative_to(folder)}")
    for arm in ("none", "naive", "embeddings", "calibrated"):
        assert arm in result.stdout
    report = json.loads(page.with_suffix(".json").read_text())
    assert {arm["name"] for arm in report["arms"]} == {"none", "naive", "embeddings", "calibrated"}
    for arm in report["arms"]:
        assert [seed["finetune_seed"] for seed in arm["seeds"]] == [1, 2]
        assert all(seed["test_loss"] > 0 and seed["auc"] > 0 for seed in arm["seeds"])


def test_stages_are_shared_between_jobs(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    records = jobs(folder)
    assert len(records) == 8
    assert all(record["status"] == "done" for record in records)
    keys = {stage["stage"]: set() for record in records for stage in record["stages"]}
    for record in records:
        for stage in record["stages"]:
            keys[stage["stage"]].add(stage["key"])
    assert {stage: len(found) for stage, found in keys.items()} == {
        "corpus": 1,
        "pretrain": 1,
        "graft": 6,
        "finetune": 8,
        "evaluate": 8,
    }
    assert [stage["stage"] for stage in records[0]["stages"]] == ["corpus", "finetune", "evaluate"], "no donor"


def test_artifacts_are_what_they_say(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    for record in jobs(folder):
        paths = {
            stage["stage"]: (folder / "multirun" / record["sweep"] / "0" / stage["path"]).resolve()
            for stage in record["stages"]
        }
        for stage, path in paths.items():
            assert read_marker(path)["stage"] == stage
        curve = [line for line in read_metrics(paths["finetune"] / "metrics.jsonl") if "val/loss" in line]
        assert [line["step"] for line in curve] == [0, 1, 2, 5, 10]
        for line in curve:
            assert line["val/gap"] == pytest.approx(line["val/loss_shuffled"] - line["val/loss"], abs=1e-4)
        assert ("graft" in paths) == (record["choices"]["transfer"] != "none")
        transfer = json.loads((paths.get("graft", paths["finetune"]) / "transfer.json").read_text())
        assert transfer["strategy"] == record["choices"]["transfer"]
        assert len({tensor["name"] for tensor in transfer["host_tensors"]}) == len(transfer["host_tensors"])
        scores = json.loads((paths["evaluate"] / "scores.json").read_text())
        examples = [json.loads(line) for line in (paths["evaluate"] / "examples.jsonl").read_text().splitlines()]
        assert scores["pairs"] == len(examples) == 16
        tokens = sum(example["tokens"] for example in examples)
        assert scores["loss"] == pytest.approx(sum(e["loss"] * e["tokens"] for e in examples) / tokens)
        risen = sum((e["loss_shuffled"] - e["loss"]) * e["tokens"] for e in examples) / tokens
        assert scores["gap"] == pytest.approx(risen)
        assert examples[[e["index"] for e in examples].index(scores["worst"][0])]["loss"] == max(
            e["loss"] for e in examples
        )
        probes = scores["probes"]["all"]
        assert probes["pairs"] == 16
        assert probes["empty"] == pytest.approx(sum(e["empty"] for e in examples) / 16)
        assert probes["copied"] == pytest.approx(sum(e["copied"] for e in examples) / 16, abs=1e-4)
        assert probes["reference"]["in_language"] > 0.5
        counts = [sum(column) for column in zip(*(e["chrf_counts"] for e in examples), strict=True)]
        assert scores["all"]["chrf"] == pytest.approx(float(chrf_of(counts)), abs=1e-4)


def test_arms_start_from_the_same_host_and_see_the_same_data(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = swept
    seen = set()
    for record in jobs(folder):
        if record["seeds"]["finetune"] == 1:
            finetune = folder / "multirun" / record["sweep"] / "0" / record["stages"][-2]["path"]
            seen.add(tuple((line["examples"], line["tokens"]) for line in read_metrics(finetune / "metrics.jsonl")))
    assert len(seen) == 1


def test_strategies_that_write_nothing_start_from_the_same_weights(tmp_path: Path) -> None:
    """And one seed apart, from others."""
    words = ("transfer=none", "transfer.encoder_lr=1.0,0.5", "finetune.seed=1,2", "logger=none")
    assert graftlm(tmp_path, "run", "-m", "experiment=smoke", *words).returncode == 0
    first: dict[int, set[float]] = {1: set(), 2: set()}
    last: dict[int, set[float]] = {1: set(), 2: set()}
    for path in tmp_path.glob("multirun/2*/*/job.json"):
        record = json.loads(path.read_text())
        finetune = next(path.parent / stage["path"] for stage in record["stages"] if stage["stage"] == "finetune")
        losses = [line["val/loss"] for line in read_metrics(finetune / "metrics.jsonl") if "val/loss" in line]
        first[record["seeds"]["finetune"]].add(losses[0])
        last[record["seeds"]["finetune"]].add(losses[-1])
    assert [len(first[seed]) for seed in (1, 2)] == [1, 1]
    assert first[1] != first[2]
    assert [len(last[seed]) for seed in (1, 2)] == [2, 2], "the rates are at work"


def test_a_sweep_over_what_fine_tuning_alone_does_grafts_once(tmp_path: Path) -> None:
    """Counted in what was left: one donor, one distillation and denoising, as many trainings as jobs."""
    words = ("run", "-m", "experiment=smoke", "transfer=denoised", "logger=none", "evaluate.max_pairs=4")
    steps = "transfer.steps=[{step: embeddings},{step: distill,steps: 2},{step: denoise,steps: 2,max_length: 32}]"
    grid = ("finetune.lr=1e-3,2e-3", "transfer.freeze_encoder=0,0.5", "transfer.control=true")
    result = graftlm(tmp_path, *words, steps, *grid, "finetune.max_steps=2", "finetune.generate_pairs=0")
    assert result.returncode == 0, result.stderr
    made = {stage: len(list(tmp_path.glob(f"multirun/store/{stage}/*/{MARKER}"))) for stage in ("graft", "finetune")}
    assert made == {"graft": 1, "finetune": 4}
    grafts = [stage for record in jobs(tmp_path) for stage in record["stages"] if stage["stage"] == "graft"]
    assert [stage["reused"] for stage in grafts] == [False, True, True, True]
    assert len({stage["key"] for stage in grafts}) == 1
    firsts = {
        next(line["val/loss"] for line in read_metrics(path) if "val/loss" in line)
        for path in tmp_path.glob("multirun/store/finetune/*/metrics.jsonl")
    }
    assert len(firsts) == 1, "all began with the same grafted host"
    # each is charged the whole of it
    (cost,) = tmp_path.glob("multirun/store/graft/*/cost.json")
    report = json.loads(next(tmp_path.glob("multirun/*/report.json")).read_text())
    charged = {seed["graft_seconds"] for arm in report["arms"] for seed in arm["seeds"]}
    assert charged == {json.loads(cost.read_text())["seconds"]}
    assert all(seed["donor_flops"] > 0 for arm in report["arms"] for seed in arm["seeds"])


def test_a_model_is_a_plain_hugging_face_folder(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    folder, _ = swept
    finetuned = sorted(path.parent for path in folder.glob("multirun/store/finetune/*/model"))
    tokenizer = AutoTokenizer.from_pretrained(finetuned[0] / "model", src_lang="en_XX")
    model = AutoModelForSeq2SeqLM.from_pretrained(finetuned[0] / "model")
    batch = tokenizer(["Return the sum of all values."], return_tensors="pt")
    written = model.generate(**batch, max_new_tokens=8, num_beams=2)
    # one target language: the folder alone knows what to write first
    assert written[0, :2].tolist() == [2, tokenizer.convert_tokens_to_ids("en_XX")]
    assert type(model).__name__ == "MBartForConditionalGeneration"
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    assert type(AutoModelForMaskedLM.from_pretrained(donor)).__name__ == "XLMRobertaForMaskedLM"
    assert type(AutoTokenizer.from_pretrained(donor)).__name__.startswith("XLMRoberta")


def test_plan_and_a_second_run_reuse_everything(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    planned = graftlm(folder, "plan", *SWEEP[1:])
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines()[-1] == "stages: 36 reuse"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob(MARKER)}
    again = graftlm(folder, *SWEEP)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": reused") == 16  # as each ends, and in the list at the end
    assert {path: path.stat().st_mtime_ns for path in folder.rglob(MARKER)} == before


def test_a_length_that_only_a_later_job_has_is_told(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = swept
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    result = graftlm(
        tmp_path, "plan", "-m", "experiment=smoke", "model.vocab_size=null", f"model.donor.checkpoint={donor}",
        "transfer=embeddings", "pretrain.batch_tokens=9000", "pretrain.max_length=32,8000",
    )  # fmt: skip
    assert result.returncode == 2
    assert "pretrain.max_length=8000: is longer than" in result.stderr


def test_report_of_a_sweep_can_be_made_again_elsewhere(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = swept
    result = graftlm(tmp_path, "report", str(folder / "multirun"), "--out", str(tmp_path / "page"))
    assert result.returncode == 0, result.stderr
    assert {"report.html", "report.json"} <= {path.name for path in (tmp_path / "page").iterdir()}


def test_light_commands_load_no_torch(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    code = (
        "import sys; from graftlm.cli import main; code = main(sys.argv[1:]);"
        "heavy = [name for name in ('torch', 'transformers', 'datasets', 'wandb', 'pandas') if name in sys.modules];"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    (folder / "rows.jsonl").write_text('{"text": "a", "summary": "b"}\n')
    files = ["plan", "experiment=smoke", "data=files", "data.train=[rows.jsonl]", "data.source_lang=en"]
    for words in (
        files,
        ["--help"],
        ["run", "--help"],
        ["plan", *SWEEP[1:]],
        ["run", "experiment=smoke", "--cfg", "job"],
    ):
        result = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, (words, result.stderr)
        assert result.stdout


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    words = (
        "run",
        "experiment=smoke",
        "transfer=embeddings",
        "pretrain.max_steps=60",
        "pretrain.checkpoint_interval=10",
        "finetune.max_steps=60",
        "finetune.val_interval=20",
        "finetune.checkpoint_interval=10",
    )
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    for folder in (disturbed, calm):
        folder.mkdir()
    kill = (  # by itself: a test that waits for a checkpoint may come too late on a busy machine
        "import os, sys; from graftlm.stages.saving import Course; real, stage = Course.save, sys.argv[1]\n"
        "def save(course, trainer):\n"
        "    real(course, trainer)\n"
        "    if trainer.lightning_module.stage == stage: os.kill(os.getpid(), 9)\n"
        "Course.save = save\n"
        "from graftlm.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    for stage in ("pretrain", "finetune"):
        ended = subprocess.run(
            [sys.executable, "-c", kill, stage, *words],
            cwd=disturbed,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert ended.returncode == -signal.SIGKILL
        assert list(disturbed.glob(f"multirun/store/{stage}/*.partial/scratch/last.ckpt"))
    result = graftlm(disturbed, *words)
    assert result.returncode == 0, result.stderr
    assert "going on from step" in result.stderr
    assert graftlm(calm, *words).returncode == 0
    for name in ("pretrain/*/model/model.safetensors", "finetune/*/model/model.safetensors"):
        (one,), (other,) = disturbed.glob(f"multirun/store/{name}"), calm.glob(f"multirun/store/{name}")
        assert one.read_bytes() == other.read_bytes(), name
    for stage in ("pretrain", "finetune"):
        curves = [
            [
                {name: value for name, value in line.items() if name != "seconds"}
                for line in read_metrics(next(folder.glob(f"multirun/store/{stage}/*/metrics.jsonl")))
            ]
            for folder in (disturbed, calm)
        ]
        assert curves[0] == curves[1]


def test_an_interrupt_keeps_what_was_done(tmp_path: Path) -> None:
    words = ("run", "experiment=smoke", "transfer=none", "finetune.max_steps=4000", "finetune.checkpoint_interval=20")
    process = subprocess.Popen(
        [sys.executable, "-m", "graftlm", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # tests run in the background of a shell have the signal ignored, and a child inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("multirun/store/finetune/*.partial/scratch/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130
    assert said.rstrip().endswith("the same command goes on from here")
    assert "Traceback" not in said
    (record,) = tmp_path.glob("multirun/*/job.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    assert not list(tmp_path.glob("multirun/store/finetune/*/artifact.json"))
    planned = graftlm(tmp_path, "plan", *words[1:])
    assert "1 resume" in planned.stdout


def test_a_terminated_sweep_saves_starts_no_other_job_and_mends_what_was_damaged_meanwhile(tmp_path: Path) -> None:
    words = ("experiment=smoke", "transfer=none", "finetune.max_steps=150", "finetune.val_interval=150")
    process = subprocess.Popen(
        [sys.executable, "-m", "graftlm", "run", "-m", *words, "finetune.seed=1,2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 240
    while not any(
        path.read_text().count("\n") >= 3 for path in tmp_path.glob("multirun/store/finetune/*.partial/metrics.jsonl")
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert said.rstrip().endswith("graftlm: interrupted (SIGTERM); the same command goes on from here")
    assert "1 interrupted, 1 not begun" in said
    assert "Traceback" not in said
    (record,) = jobs(tmp_path)
    assert record["status"] == "interrupted"
    assert list(tmp_path.glob("multirun/store/finetune/*.partial/scratch/last.ckpt"))

    (corpus,) = tmp_path.glob("multirun/store/corpus/*/")
    victim = max((path for path in corpus.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    result = graftlm(tmp_path, "run", *words)
    assert result.returncode == 0, result.stderr
    assert "the stored artifact is damaged" in result.stderr
    assert "finetune none seed 1: going on from step" in result.stderr
    assert victim.read_bytes() == whole


def test_a_failed_job_fails_the_sweep_but_not_the_others(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A donor with NaN weights, in a format of which no check looks at the values beforehand."""
    import torch
    from safetensors.torch import load_file

    folder, _ = swept
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    broken = shutil.copytree(donor, tmp_path / "donor")
    tensors = load_file(broken / "model.safetensors")
    tensors["roberta.embeddings.word_embeddings.weight"][7, 3] = float("nan")
    (broken / "model.safetensors").unlink()
    torch.save(tensors, broken / "pytorch_model.bin")
    result = graftlm(
        tmp_path, "run", "-m", "experiment=smoke", "model.vocab_size=null", f"model.donor.checkpoint={broken}",
        "pretrain.max_steps=0", "transfer=embeddings,none", "logger=wandb",
    )  # fmt: skip
    assert result.returncode == 1
    assert "not finite" in result.stderr
    assert "Traceback" not in result.stderr
    assert [record["status"] for record in jobs(tmp_path)] == ["failed", "done"]
    (page,) = tmp_path.glob("multirun/*/report.json")
    assert len(json.loads(page.read_text())["failed"]) == 1
    runs = [read_wandb(path) for path in tmp_path.glob("multirun/wandb/offline-run-*/run-*.wandb")]
    assert sorted((run["job_type"], run["exit_code"]) for run in runs) == [
        ("corpus", 0),
        ("evaluate", 0),
        ("finetune", 0),
        ("graft", 1),
        ("pretrain", 0),
        ("report", 0),
    ]


def test_a_mistake_of_ours_is_told_in_a_line_and_fails_one_job(tmp_path: Path) -> None:
    code = (
        "import sys; import graftlm.stages.evaluate as stage; real = stage.run\n"
        "def run(context):\n"
        "    if context.settings.finetune.seed == 1: raise RuntimeError('a bug')\n"
        "    real(context)\n"
        "stage.run = run\n"
        "from graftlm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ("run", "-m", "experiment=smoke", "transfer=none", "finetune.seed=1,2")
    result = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "failed (a mistake of graftlm: RuntimeError: a bug; send " in result.stderr
    assert [record["status"] for record in jobs(tmp_path)] == ["failed", "done"]
    assert "a bug" in next(tmp_path.glob("multirun/*/0/graftlm.log")).read_text()
    assert list(tmp_path.glob("multirun/*/report.html"))


def test_wandb_offline_leaves_a_run_for_each_stage(tmp_path: Path) -> None:
    result = graftlm(tmp_path, "run", "experiment=smoke", "logger=wandb", "transfer=embeddings", "logger.tags=[mine]")
    assert result.returncode == 0, result.stderr
    runs = [read_wandb(path) for path in sorted(tmp_path.glob("multirun/wandb/offline-run-*/run-*.wandb"))]
    assert sorted(run["job_type"] for run in runs) == ["corpus", "evaluate", "finetune", "graft", "pretrain"]
    for run in runs:
        assert run["exit_code"] == 0
        assert run["group"]
        assert {"transfer=embeddings", "model=pico", "mine"} <= set(run["tags"])
    (finetune,) = [run for run in runs if run["job_type"] == "finetune"]
    (artifact,) = tmp_path.glob("multirun/store/finetune/*/metrics.jsonl")
    local = [(line["step"], line["val/loss"]) for line in read_metrics(artifact) if "val/loss" in line]
    assert finetune["val/loss"] == [(step, pytest.approx(loss)) for step, loss in local]
    (graft,) = [run for run in runs if run["job_type"] == "graft"]
    for run in (graft, finetune):
        assert "fidelity/cosine" in run["summary"]
    assert "cost/flops" in graft["summary"]
    assert "cost/graft_flops" in finetune["summary"]


def test_wandb_without_an_account_goes_on_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_API_KEY": "", "NETRC": str(tmp_path / "none"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    result = graftlm(tmp_path, "run", "experiment=smoke", "logger=wandb", "logger.mode=online", "transfer=none")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("written offline") == 1
    assert len(list(tmp_path.glob("multirun/wandb/offline-run-*"))) == 3


def read_wandb(path: Path) -> dict[str, Any]:
    """An offline run, read back with W&B's own reader."""
    output = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    run: dict[str, Any] = {"val/loss": [], "summary": set(), "exit_code": None}
    for record in map(json.loads, output.splitlines()):
        kind = record["type"]
        if kind == "run":
            about = record["run"]
            run |= {"group": about["run_group"], "job_type": about["job_type"], "tags": about["tags"]}
        elif kind == "history":
            values = record["history"]["item"]
            if "val/loss" in values:
                run["val/loss"].append((values["trainer/global_step"], values["val/loss"]))
        elif kind == "summary":
            run["summary"] |= set(record["summary"]["update"])
        elif kind == "exit":
            run["exit_code"] = record["exit"]["exit_code"]
    return run


def test_data_shows_a_source(tmp_path: Path) -> None:
    rows = [{"text": f"A long text about [bold]number[/bold] {n}.", "summary": f"number {n}"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = graftlm(tmp_path, "data", "data=files", "data.train=[rows.jsonl]", "data.source_lang=en", "--rows", "1")
    assert result.returncode == 0, result.stderr
    assert "en_XX" in result.stdout
    assert "[bold]number[/bold]" in result.stdout, "a row is text, not markup"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_transfer_without_an_experiment(swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Onto a host built to the donor's shape, and onto a finetuned folder of the sweep."""
    from transformers import AutoModelForSeq2SeqLM

    folder, _ = swept
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    host = next(folder.glob("multirun/store/finetune/*/model"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Return the number {n} of the list of values.\n" for n in range(300)))
    for seq2seq, out in (("config", "built"), (str(host), "onto")):
        result = graftlm(
            tmp_path, "transfer", "--encoder", str(donor), "--seq2seq", seq2seq, "--strategy", "calibrated",
            "--text", str(text), "--out", out,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == f"model: {out}"
        report = json.loads((tmp_path / out / "transfer.json").read_text())
        assert report["fidelity"]["after"]["cosine"] > 0.9
        assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / out).config.d_model == 32


def test_transfer_with_a_strategy_and_settings_of_ones_own(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Without text from file to file; mistakes are told by their option."""
    folder, _ = swept
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    host = next(folder.glob("multirun/store/finetune/*/model"))
    (tmp_path / "groups" / "transfer").mkdir(parents=True)
    mine = "name: mine\nsteps:\n  - step: embeddings\n    languages: mean\n"
    (tmp_path / "groups" / "transfer" / "mine.yaml").write_text(mine)
    words = ("transfer", "--encoder", str(donor), "--seq2seq", str(host), "--strategy", "mine", "--out", "out")
    own = ("--config-dir", "groups")
    result = graftlm(tmp_path, *words, *own, "embeddings.decoder=false", "embeddings.logits_bias=false")
    assert result.returncode == 0, result.stderr
    assert "fidelity was not measured" in result.stderr
    report = json.loads((tmp_path / "out" / "transfer.json").read_text())
    (step,) = report["steps"]
    assert (step["parameters"]["languages"], step["parameters"]["decoder"]) == ("mean", False)
    assert report["fidelity"] is None
    written = [tensor["name"] for tensor in report["host_tensors"] if tensor["status"] != "kept"]
    assert not any("decoder" in name or "logits" in name for name in written)
    for more, told in (
        ((*own, "finetune.seed=2"), "override=finetune.seed=2: is no setting of the strategy"),
        ((*own, "embeddings.spread=-1"), "transfer.steps[0].spread=-1"),
        ((*own, "embeddings.speed=1"), "transfer.steps[0].speed"),
        ((*own, "transfer.encoder_lr=-1"), "transfer.encoder_lr=-1: must be at least 0"),  # not in the file
        ((*own, "transfer.encoder_lrr=1"), "did you mean encoder_lr?"),
        (("--config-dir", "nowhere"), "--config-dir=nowhere: no such folder"),
        (("--strategy", "calibrated", "--out", "other"), "--text: is needed by the step encoder"),
        (own, "--out"),
    ):
        result = graftlm(tmp_path, *words, *more)
        assert result.returncode == 2, more
        assert told in result.stderr
        assert "Traceback" not in result.stderr


def test_local_folders_in_hub_layout_are_checkpoints(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = swept
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    host = next(folder.glob("multirun/store/finetune/*/model"))
    words = (
        "run",
        "experiment=smoke",
        "transfer=calibrated",
        "model.vocab_size=null",
        f"model.donor.checkpoint={donor}",
    )
    result = graftlm(tmp_path, *words, "pretrain.max_steps=0", f"model.host.checkpoint={host}")
    assert result.returncode == 0, result.stderr
    (report,) = tmp_path.glob("multirun/store/graft/*/transfer.json")
    assert {tensor["status"] for tensor in json.loads(report.read_text())["host_tensors"]} >= {"kept", "calibrated"}
    (kept,) = tmp_path.glob("multirun/store/pretrain/*/model/model.safetensors")
    from safetensors.torch import load_file

    before, after = load_file(donor / "model.safetensors"), load_file(kept)
    assert all((before[name] == tensor).all() for name, tensor in after.items()), "zero steps leave the donor as it is"


def test_an_exact_host_goes_the_whole_way(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    result = graftlm(tmp_path, "run", "experiment=smoke", "transfer=none", "model.host.architecture=bart")
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("multirun/store/finetune/*/model")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="en_XX")
    assert type(model).__name__ == "BartForConditionalGeneration"
    assert type(tokenizer).__name__.startswith("MBart50")
    written = model.generate(**tokenizer(["Return the sum."], return_tensors="pt"), max_new_tokens=8, num_beams=2)
    assert written[0, :2].tolist() == [2, tokenizer.convert_tokens_to_ids("en_XX")]
    (scores,) = tmp_path.glob("multirun/store/evaluate/*/scores.json")
    assert json.loads(scores.read_text())["pairs"] == 16


def test_checkpoints_are_trimmed_to_the_corpus_and_grow_back(
    swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from graftlm.data.corpus import Corpus
    from graftlm.models.expand import expand_folder

    folder, _ = swept
    (donor,) = folder.glob("multirun/store/pretrain/*/model")
    host = next(folder.glob("multirun/store/finetune/*/model"))
    result = graftlm(
        tmp_path,
        *("run", "experiment=smoke", "transfer=calibrated", "model.vocab_size=null", "model.trim=3"),
        *(f"model.donor.checkpoint={donor}", f"model.host.checkpoint={host}", "data.max_pairs=60", "data.max_texts=60"),
    )
    assert result.returncode == 0, result.stderr
    (place,) = tmp_path.glob("multirun/store/corpus/*/summary.json")
    corpus = Corpus(place.parent)
    sizes, full = corpus.summary["vocabulary"], corpus.summary["trimmed_from"]
    assert sizes["donor"] < full["donor"] == 800
    assert sizes["host"] < full["host"]
    for stage, role, checkpoint, rows, name in (
        ("pretrain", "donor", donor, corpus.donor_rows, "roberta.embeddings.word_embeddings.weight"),
        ("finetune", "host", host, corpus.host_rows, "model.shared.weight"),
    ):
        (model,) = tmp_path.glob(f"multirun/store/{stage}/*/model")
        assert rows is not None
        trained = load_file(model / "model.safetensors")[name]
        assert len(trained) == sizes[role] == len(rows)
        out = tmp_path / f"grown_{role}"
        expand_folder(model, str(checkpoint), rows, out, host=role == "host")
        before, after = load_file(checkpoint / "model.safetensors")[name], load_file(out / "model.safetensors")[name]
        changed = (before != after).any(dim=1).nonzero()[:, 0].tolist()
        assert changed
        assert set(changed) <= set(rows.tolist())
        assert bool((after[rows] == trained).all())
