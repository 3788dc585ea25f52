"""Grafts from file to file: the same values as between two loaded models, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftlm.errors import CheckpointError, TransferError
from graftlm.schema import TransferSettings
from graftlm.transfer import command, files
from graftlm.transfer.command import Request, run
from graftlm.transfer.folders import open_folder

STRATEGIES = {
    "naive": TransferSettings("naive", steps=[{"step": "naive"}], control=True),
    "embeddings": TransferSettings("embeddings", steps=[{"step": "embeddings"}]),
    "decoder": TransferSettings(
        "decoder", steps=[{"step": "embeddings", "decoder": False}, {"step": "decoder", "output": "keep"}]
    ),
    "delta": TransferSettings("delta", steps=[{"step": "delta"}]),
}


@pytest.fixture
def folders(
    _donor: Any, rough_donor: Any, donor_tokenizer: Any, host: Any, host_tokenizer: Any, tmp_path: Path
) -> Path:
    host.final_logits_bias.normal_(0, 0.1)
    base = ("base", _donor, donor_tokenizer)
    for name, model, tokenizer in (("donor", rough_donor, donor_tokenizer), ("host", host, host_tokenizer), base):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


def request(folders: Path, strategy: str, out: str, text: Path | None = None) -> Request:
    base = str(folders / "base") if any(step["step"] == "delta" for step in STRATEGIES[strategy].steps) else None
    return Request(str(folders / "donor"), str(folders / "host"), STRATEGIES[strategy], folders / out, text, base)


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.shared.weight
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_the_same_bits_as_between_models(
    folders: Path, corpus_files: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setattr(files, "SHARD", 30_000)
    there = run(request(folders, strategy, "models", corpus_files / "texts.txt"))
    here = run(request(folders, strategy, "files"))
    assert there.fidelity is not None
    assert here.fidelity is None
    assert any("not measured" in warning for warning in here.warnings)
    assert here.host_tensors == there.host_tensors
    assert here.donor_tensors == there.donor_tensors
    assert (here.donor, here.host, here.vocabulary) == (there.donor, there.host, there.vocabulary)
    assert len(list((folders / "files").glob("model-*.safetensors"))) > 3
    ours, theirs, before = (loaded(folders / name) for name in ("files", "models", "host"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    kept = [item.name for item in here.host_tensors if item.status == "kept"]
    assert all(torch.equal(ours[name], before[name]) for name in kept)
    assert sum(not torch.equal(ours[name], before[name]) for name in ours) > 4
    for side in (ours, theirs):
        assert side["model.encoder.embed_tokens.weight"].data_ptr() == side["model.shared.weight"].data_ptr()
    assert AutoTokenizer.from_pretrained(folders / "files").get_vocab() == (
        AutoTokenizer.from_pretrained(folders / "host").get_vocab()
    )
    assert json.loads((folders / "files" / "transfer.json").read_text(encoding="utf-8"))["fidelity"] is None


def test_types_and_names_of_the_files(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision stays, a tied table may be saved under any of its names, a bias of zeros may be missing."""
    halves = {name: value.to(torch.bfloat16) for name, value in load_file(folders / "host" / files.SINGLE).items()}
    halves["lm_head.weight"] = halves["model.decoder.embed_tokens.weight"] = halves.pop("model.shared.weight")
    halves["model.decoder.embed_tokens.weight"] = halves["lm_head.weight"].clone()
    del halves["final_logits_bias"]
    parts = sorted(halves)
    shards = {"a.safetensors": parts[::2], "b.safetensors": parts[1::2]}
    for name, inside in shards.items():
        save_file({key: halves[key] for key in inside}, folders / "host" / name, metadata={"format": "pt"})
    (folders / "host" / files.SINGLE).unlink()
    index = {"metadata": {}, "weight_map": {key: name for name, inside in shards.items() for key in inside}}
    (folders / "host" / files.INDEX).write_text(json.dumps(index), encoding="utf-8")
    monkeypatch.setattr(command, "_from_models", lambda *_: pytest.fail("the models were loaded"))
    run(request(folders, "naive", "out"))
    saved = load_file(folders / "out" / files.SINGLE)
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert not saved["final_logits_bias"].any()
    assert "lm_head.weight" not in saved
    donor = load_file(folders / "donor" / files.SINGLE)
    name = "model.encoder.layers.1.fc1.weight"
    assert torch.equal(saved[name], donor["roberta.encoder.layer.1.intermediate.dense.weight"].to(torch.bfloat16))
    rest = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(saved[rest], halves[rest])
    assert torch.equal(loaded(folders / "out")[name], saved[name])


def test_what_only_transformers_reads_is_loaded(folders: Path) -> None:
    """A checkpoint of pickles, and tied tables that hold different values."""
    from transformers import MBartForConditionalGeneration

    state = load_file(folders / "host" / files.SINGLE)
    expected = run(request(folders, "naive", "expected"))
    (folders / "host" / files.SINGLE).unlink()
    torch.save(state, folders / "host" / "pytorch_model.bin")
    report = run(request(folders, "naive", "pickles"))
    assert report.fidelity is None
    assert any("not measured" in warning for warning in report.warnings)
    assert report.counts == expected.counts
    ours, theirs = loaded(folders / "pickles"), loaded(folders / "expected")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    state["lm_head.weight"] = state["model.shared.weight"] + 1
    save_file(state, folders / "host" / files.SINGLE, metadata={"format": "pt"})
    (folders / "host" / "pytorch_model.bin").unlink()
    assert open_folder(MBartForConditionalGeneration, str(folders / "host"), "mbart", "--seq2seq") is None


def test_a_tensor_may_be_written_twice_and_read_between(folders: Path, host: Any) -> None:
    from graftlm.transfer.weights import ModelWeights

    places = files.places_in(folders / "host")
    assert places is not None
    out = folders / "out"
    out.mkdir()
    weights = files.Output(ModelWeights(host), places, out)
    assert weights.whole()
    name, table = "model.encoder.layers.0.fc1.weight", "model.encoder.embed_tokens.weight"
    value = torch.randn(weights.shape(name))
    assert torch.equal(weights.read(table, 3, 7), host.model.shared.weight[3:7])
    assert torch.equal(weights.read(table, 390), host.model.shared.weight[390:])
    for factor in (1, 2):
        weights.write(name, factor * value)
        assert torch.equal(weights.read(name), factor * value)
        assert torch.equal(weights.read(name, 1, 2), factor * value[1:2])
    # copied beside, and written all the same
    weights.begin(["model.encoder.layers.0.*"])
    late = "model.decoder.layers.0.fc2.weight"
    weights.write(late, -value.T)
    weights.finish()
    weights.close()
    saved = load_file(out / files.SINGLE)
    assert torch.equal(saved.pop(name), 2 * value)
    assert torch.equal(saved.pop(late), -value.T)
    assert all(torch.equal(saved[key], host.state_dict()[key]) for key in saved)
    assert saved.keys() | {name, late} == weights.shapes.keys()


def test_a_damaged_file_is_named(folders: Path) -> None:
    file = folders / "host" / files.SINGLE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"--seq2seq=.*cut short"):
        run(request(folders, "naive", "out"))
    assert sorted(path.name for path in folders.iterdir()) == ["base", "donor", "host"]


def test_a_value_beyond_the_type_of_the_host_is_refused(folders: Path, rough_donor: Any) -> None:
    """Positions are scaled, and a host in half precision would hold infinity where float32 holds a large number."""
    halves = {name: value.half() for name, value in load_file(folders / "host" / files.SINGLE).items()}
    save_file(halves, folders / "host" / files.SINGLE, metadata={"format": "pt"})
    run(request(folders, "embeddings", "fits"))
    with torch.no_grad():
        rough_donor.roberta.embeddings.position_embeddings.weight[40] = 3e4
    rough_donor.save_pretrained(folders / "donor")
    before = sorted(path.name for path in folders.iterdir())
    words = r"model\.encoder\.embed_positions\.weight would hold values beyond float16, in which this host is saved"
    with pytest.raises(TransferError, match=words):
        run(request(folders, "embeddings", "out"))
    assert sorted(path.name for path in folders.iterdir()) == before
