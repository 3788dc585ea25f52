from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graftlm.cli import main
from graftlm.errors import CheckpointError, DataError, MachineError, SettingsError, TransferError
from graftlm.interrupt import Interrupted, handled
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer import result
from graftlm.transfer.command import Request, run, with_settings
from graftlm.transfer.result import written
from graftlm.transfer.texts import read_texts, spread
from signals import interrupted_at

STRATEGY = TransferSettings("calibrated", steps=[{"step": "embeddings"}, {"step": "encoder", "tokens": 3000}])


@pytest.fixture
def folder(rough_donor: Any, donor_tokenizer: Any, tmp_path: Path) -> Path:
    rough_donor.save_pretrained(tmp_path / "donor")
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    return tmp_path


def test_into_a_built_host(folder: Path, corpus_files: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    out = folder / "new" / "grafted"
    report = run(Request(str(folder / "donor"), "config", STRATEGY, out, corpus_files / "texts.txt"))
    assert report.fidelity is not None
    assert report.fidelity["after"]["cosine"] > 0.9
    assert json.loads((out / "transfer.json").read_text(encoding="utf-8"))["strategy"] == "calibrated"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    assert model.config.encoder_layers == model.config.decoder_layers == 2
    tokenizer.src_lang = "de_DE"
    batch = tokenizer(["Hund sieht Katze."], return_tensors="pt")
    with torch.no_grad():
        made = model.generate(**batch, forced_bos_token_id=tokenizer.convert_tokens_to_ids("en_XX"), max_new_tokens=5)
    assert made[0, 1] == tokenizer.convert_tokens_to_ids("en_XX")
    assert [path.name for path in out.parent.iterdir()] == ["grafted"]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "who may read one file may read all"


def test_into_a_host_of_the_donors_kind(folder: Path) -> None:
    """BART: built, and then as a folder that is grafted again, from file to file."""
    from transformers import AutoModelForSeq2SeqLM, BartForConditionalGeneration

    embeddings = TransferSettings("embeddings", steps=[{"step": "embeddings"}])
    built = Request(str(folder / "donor"), "config", embeddings, folder / "built", architecture="bart")
    report = run(built)
    assert report.counts["host"]["initialised"] > 0
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(folder / "built"), BartForConditionalGeneration)
    again = run(dataclasses.replace(built, seq2seq=str(folder / "built"), out=folder / "again"))
    assert again.counts["host"]["initialised"] == 0
    one, other = (AutoModelForSeq2SeqLM.from_pretrained(folder / name).state_dict() for name in ("built", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_into_a_folder(folder: Path, host: Any, host_tokenizer: Any, corpus_files: Path) -> None:
    host.save_pretrained(folder / "host")
    host_tokenizer.save_pretrained(folder / "host")
    donor, seq2seq = str(folder / "donor"), str(folder / "host")
    report = run(Request(donor, seq2seq, STRATEGY, folder / "grafted", corpus_files / "pairs.jsonl"))
    assert report.counts["host"]["kept"] > 0
    assert report.counts["host"]["initialised"] == 0


def test_mistakes_leave_nothing_behind(
    folder: Path, host_tokenizer: Any, rough_donor: Any, model_settings: Any, corpus_files: Path
) -> None:
    thin = dataclasses.replace(model_settings.host, ffn=48)
    other = build_host(dataclasses.replace(model_settings, host=thin), host_tokenizer, rough_donor.config)
    other.save_pretrained(folder / "host")
    host_tokenizer.save_pretrained(folder / "host")
    donor, text, out = str(folder / "donor"), corpus_files / "texts.txt", folder / "out"
    empty = folder / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    built = Request(donor, "config", STRATEGY, out, text)
    delta = TransferSettings("delta", steps=[{"step": "delta"}])
    blind = dataclasses.replace(built, text=None)
    cases: list[tuple[type[Exception], str, Request]] = [
        (CheckpointError, "--encoder", dataclasses.replace(built, encoder=str(folder / "nowhere"))),
        (CheckpointError, "--seq2seq", dataclasses.replace(built, seq2seq=donor)),
        (DataError, "--text", dataclasses.replace(built, text=folder / "no.txt")),
        (DataError, "holds 0 texts", dataclasses.replace(built, text=empty)),
        (TransferError, "needed by the step encoder", blind),
        (TransferError, "--base: is needed by the step delta", dataclasses.replace(built, strategy=delta)),
        (
            TransferError,
            "--seq2seq=config: has random weights; the step delta needs a pretrained host, or a step before it",
            dataclasses.replace(built, strategy=delta, base=donor),
        ),
        (TransferError, "no such folder", dataclasses.replace(built, adapter=folder / "nowhere")),
        (TransferError, "must be at least the donor's 64", dataclasses.replace(built, seq2seq=str(folder / "host"))),
        (TransferError, "is there already", dataclasses.replace(built, out=folder / "donor")),
    ]
    for kind, words, request in cases:
        with pytest.raises(kind, match=words):
            run(request)
    assert sorted(path.name for path in folder.iterdir()) == ["donor", "empty.txt", "host"]


def test_languages_of_the_text(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "lang": "en"},
        {"text": " "},
        {"text": "zwei", "lang": "de_DE"},
        {"text": "?", "lang": "xx"},
        {"text": "!", "lang": "und"},
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_texts(file) == (["one", "zwei", "?", "!"], ["en_XX", "de_DE", "xx", ""])
    file.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows), encoding="utf-8")
    assert read_texts(file) == (["one", "zwei", "?", "!"], [])
    rows = [{"text": text, "lang": lang} for text, lang in (("one", "de"), ("two", "fr"), ("one", "en"))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_texts(file) == (["one", "two"], ["de_DE", "fr_XX"])
    file.write_text('{"text": null}\n{"text": "one"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="has a line without a JSON field `text`"):
        read_texts(file)
    file.with_suffix(".txt").write_text("same\nsame\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds 1 different texts"):
        read_texts(file.with_suffix(".txt"))


def test_fidelity_is_measured_on_texts_from_the_whole_file() -> None:
    assert spread(range(10), 20) == list(range(10))
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread([], 3) == []


def test_what_is_wrong_is_told_before_anything_is_loaded(
    folder: Path, corpus_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All mistakes together, by what costs nothing to find out; no folder is left where the result would be."""
    for name, kind in (("bert", "bert"), ("t5", "t5"), ("bart", "bart")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        (folder / name / "model.safetensors").write_bytes(b"nothing that could be loaded")
    good = Request(str(folder / "donor"), "config", STRATEGY, folder / "a" / "b" / "out", corpus_files / "texts.txt")
    delta = TransferSettings("delta", steps=[{"step": "delta"}])
    wrong = dataclasses.replace(
        good, strategy=delta, encoder=str(folder / "bert"), seq2seq=str(folder / "t5"), base="not/anywhere"
    )
    with pytest.raises(CheckpointError) as caught:
        run(wrong)
    lines = [str(problem) for problem in caught.value.problems]
    assert [line.partition("=")[0] for line in lines] == ["--encoder", "--base", "--seq2seq"]
    assert "must be xlm-roberta" in lines[0]
    assert "hub cannot be reached" in lines[1]
    assert "must be mbart" in lines[2]
    with pytest.raises(CheckpointError, match="--architecture=mbart: is for --seq2seq config; this folder is bart"):
        run(dataclasses.replace(good, seq2seq=str(folder / "bart"), architecture="mbart"))
    assert not (folder / "a").exists()
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    with pytest.raises(TransferError, match=r"--out=.*here: is the folder that you are in"):
        run(dataclasses.replace(wrong, out=Path()))
    (folder / "file").write_text("", encoding="utf-8")
    with pytest.raises(TransferError, match=r"--out=.*: cannot be written"):
        run(dataclasses.replace(wrong, out=folder / "file" / "out"))


def test_a_fault_of_a_file_that_is_read_is_not_blamed_on_the_result(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    out, gone = tmp_path / "link" / "out", tmp_path / "donor" / "model.safetensors"
    with pytest.raises(MachineError, match=r"model\.safetensors: cannot be used: No such file"), written(out):
        gone.read_bytes()
    with pytest.raises(MachineError, match=r"donor/model.safetensors") as caught, written(out):
        load_file(gone)  # its error names no file as others do
    assert "--out" not in str(caught.value)
    for name in (str.__str__, os.path.realpath):  # as it was given, and where the link leads
        with pytest.raises(TransferError, match=r"--out=.*cannot be written: No such file"), written(out) as partial:
            Path(name(str(partial)), "no", "file").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "real"]


def test_settings_of_steps() -> None:
    assert with_settings(STRATEGY, ["encoder.ridge=1e-3", "encoder.tokens=40"]).steps == [
        {"step": "embeddings"},
        {"step": "encoder", "tokens": 40, "ridge": 0.001},
    ]
    for word, line in (
        ("encoder.step=naive", "override=encoder.step=naive: is no setting of the strategy"),
        ("encoder.ridge=much", r"transfer\.steps\[1\]\.ridge=much: must be a number"),
        ("naive.x=1", "override=naive.x=1: is no setting of the strategy; give embeddings.SETTING=VALUE"),
    ):
        with pytest.raises(SettingsError, match=line):
            with_settings(STRATEGY, [word])


@pytest.mark.parametrize("keep", [True, False])
def test_a_signal_at_any_moment_leaves_the_whole_folder_or_nothing(tmp_path: Path, keep: bool) -> None:
    """While the folder is made and while it is put in place or removed, too."""
    files = {result.__file__, pathlib.__file__, shutil.__file__}
    ended = []
    for line in itertools.count(1):
        out = tmp_path / str(line) / "new" / "out"
        out.parents[1].mkdir()
        with interrupted_at(line, files) as sent:
            try:
                with handled(), result.written(out, keep) as partial:
                    (partial / "model").touch()
                ended.append("well")
            except Interrupted:
                ended.append("by the signal")
        left = sorted(path.name for path in out.parents[1].rglob("*"))
        assert left == [] or (keep and left == ["model", "new", "out"]), f"line {line}"
        assert sent.heard == (ended[-1] == "by the signal")
        if not sent.reached:
            break
    assert ended.count("by the signal") > 30
    assert bool(left) == keep


def test_a_signal_leaves_nothing_behind(
    folder: Path, host: Any, host_tokenizer: Any, corpus_files: Path, capsys: Any
) -> None:
    host.save_pretrained(folder / "host")
    host_tokenizer.save_pretrained(folder / "host")
    before = sorted(folder.rglob("*"))
    usual = signal.getsignal(signal.SIGTERM)

    def end() -> None:
        while signal.getsignal(signal.SIGTERM) == usual:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    words = [
        "transfer",
        "--encoder",
        str(folder / "donor"),
        "--seq2seq",
        str(folder / "host"),
        "--strategy",
        "denoising",
    ]
    thread = threading.Thread(target=end)
    thread.start()
    text = [
        "--strategy",
        "denoising",
        "--text",
        str(corpus_files / "texts.txt"),
        "denoise.language=en",
        "denoise.steps=1000000",
    ]
    code = main([*words, *text, "--out", str(folder / "new" / "out")])
    thread.join()
    assert code == 143
    assert signal.getsignal(signal.SIGTERM) == usual
    assert "interrupted (SIGTERM); nothing was written, the same command starts again" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
