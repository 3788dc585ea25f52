"""`graftlm transfer` with models and options that are not as they should be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftlm.errors import Problem, TransferError
from graftlm.schema import TransferSettings
from graftlm.transfer.anatomy import DONOR_HEAD
from graftlm.transfer.command import Request, run
from graftlm.transfer.graft import Graft
from graftlm.transfer.options import in_options
from graftlm.transfer.report import Ledger
from graftlm.transfer.steps.decoder import Decoder
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights

EMBEDDINGS = TransferSettings("mine", steps=[{"step": "embeddings"}])


@pytest.fixture
def request_(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, corpus_files: Path, tmp_path: Path
) -> Request:
    """Two folders and text."""
    for name, model, tokenizer in (("donor", rough_donor, donor_tokenizer), ("host", host, host_tokenizer)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    text = corpus_files / "texts.txt"
    return Request(str(tmp_path / "donor"), str(tmp_path / "host"), EMBEDDINGS, tmp_path / "out", text)


def test_a_donor_without_its_head(request_: Request, rough_donor: Any) -> None:
    """As AutoModel saves it: what transformers makes up is no part of the donor."""
    file = Path(request_.encoder) / "model.safetensors"
    body = {name.removeprefix("roberta."): value for name, value in load_file(file).items() if "lm_head" not in name}
    save_file(body, file, metadata={"format": "pt"})
    fold = TransferSettings("fold", steps=[{"step": "embeddings"}, {"step": "decoder", "head": "fold"}])
    with pytest.raises(
        TransferError, match=r"^transfer\.steps\[1\]\.head=fold: the donor's checkpoint has no MLM head"
    ):
        run(dataclasses.replace(request_, strategy=fold))
    report = run(request_)
    notes = {item.name: (item.status, item.note) for item in report.donor_tensors}
    for name in ("lm_head.bias", *DONOR_HEAD):
        assert notes[name] == ("unused", "not in the donor's checkpoint: random, so nothing is taken from it")
    (bias,) = [item for item in report.host_tensors if item.name == "final_logits_bias"]
    assert (bias.status, bias.source) == ("kept", None)


@pytest.mark.parametrize(
    ("side", "option", "name"),
    [
        ("donor", "--encoder", "roberta.encoder.layer.1.output.dense.bias"),
        ("host", "--seq2seq", "model.decoder.layers.0.fc1.bias"),
    ],
)
def test_values_that_are_not_finite_are_named(request_: Request, side: str, option: str, name: str) -> None:
    file = request_.out.parent / side / "model.safetensors"
    tensors = load_file(file)
    tensors[name][3] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TransferError) as caught:
        run(request_)
    assert str(caught.value).startswith(
        f"{option}={file.parent}: {name} holds values of the {side} that are not finite"
    )
    assert not request_.out.exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_of_the_host_is_kept(request_: Request, dtype: torch.dtype, rough_donor: Any) -> None:
    from transformers import AutoModelForSeq2SeqLM

    AutoModelForSeq2SeqLM.from_pretrained(request_.seq2seq).to(dtype).save_pretrained(request_.seq2seq)
    run(request_)
    run(dataclasses.replace(request_, text=None, out=request_.out.with_name("files")))
    for name in ("out", "files"):
        tensors = load_file(request_.out.with_name(name) / "model.safetensors")
        assert {value.dtype for value in tensors.values()} == {dtype}
        assert AutoModelForSeq2SeqLM.from_pretrained(request_.out.with_name(name)).dtype == dtype
    if dtype == torch.float16:
        with torch.no_grad():
            rough_donor.roberta.embeddings.position_embeddings.weight[40] = 3e4
        rough_donor.save_pretrained(request_.encoder)
        words = r"--seq2seq=.*: ?model\.\w+\.embed_positions\.weight would hold values beyond float16"
        with pytest.raises(TransferError, match=words.replace("=.*: ?", ": ")):
            run(dataclasses.replace(request_, out=request_.out.with_name("large")))


def test_each_tensor_of_a_host_of_two_types_keeps_its_own(request_: Request) -> None:
    from transformers import AutoModelForSeq2SeqLM

    file = Path(request_.seq2seq) / "model.safetensors"
    before = {name: value.to(torch.float32 if "norm" in name else torch.bfloat16)
              for name, value in load_file(file).items()}  # fmt: skip
    before["final_logits_bias"] = before["final_logits_bias"].float()
    save_file(before, file, metadata={"format": "pt"})
    run(request_)
    run(dataclasses.replace(request_, text=None, out=request_.out.with_name("files")))
    for name in ("out", "files"):
        tensors = load_file(request_.out.with_name(name) / "model.safetensors")
        assert {name: value.dtype for name, value in tensors.items()} == {n: v.dtype for n, v in before.items()}
        AutoModelForSeq2SeqLM.from_pretrained(request_.out.with_name(name))


def test_how_many_texts_are_fitted_on(request_: Request) -> None:
    few = dataclasses.replace(EMBEDDINGS, calibration_texts=7)
    assert run(dataclasses.replace(request_, strategy=few)).calibration == {"texts": 7, "at_most": 7}
    found = run(dataclasses.replace(request_, out=request_.out.with_name("all"))).as_dict()["calibration"]
    assert found["at_most"] == 20_000
    assert 7 < found["texts"] < 20_000


def test_an_option_that_no_step_reads(request_: Request) -> None:
    for name, value in (("base", request_.encoder), ("adapter", Path(request_.encoder))):
        with pytest.raises(TransferError) as caught:
            run(dataclasses.replace(request_, **{name: value}))
        assert str(caught.value) == f"--{name}={value}: is read by no step of mine; leave it out"


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (
            Problem("model.host.ffn", 48, "must be 64", "set model.host.ffn=null, or take a host checkpoint"),
            "--seq2seq=H: its ffn=48 must be 64; take a host checkpoint",
        ),
        (
            Problem("model.host.heads", 3, "must divide", "set it to 4, or model.host.d_model to null"),
            "--seq2seq=H: its heads=3 must divide; name another folder",
        ),
        (
            Problem("model.donor", "x.weight", "is infinite", "take another"),
            "--encoder=D: x.weight is infinite; take another",
        ),
        (Problem("transfer", "mine", "gives nothing", "train longer"), "--strategy=mine: gives nothing; train longer"),
        (Problem("transfer.steps[1].lr", 3, "diverged", "lower it"), "transfer.steps[1].lr=3: diverged; lower it"),
        (Problem("--out", "O", "is there", "name another"), "--out=O: is there; name another"),
    ],
)
def test_problems_name_options(problem: Problem, line: str) -> None:
    assert str(in_options(problem, "D", "H", False)) == line


def test_of_a_built_host_the_architecture_is_an_option() -> None:
    remedy = "set model.host.architecture=bart, or take transfer=calibrated"
    problem = Problem("model.host.architecture", "mbart", "must be bart", remedy)
    line = "--architecture=mbart: must be bart; set --architecture bart, or take --strategy calibrated"
    assert str(in_options(problem, "D", "config", True)) == line
    line = "--seq2seq=H: its architecture=mbart must be bart; take --strategy calibrated"
    assert str(in_options(problem, "D", "H", False)) == line


def test_a_decoder_step_that_changes_nothing_says_so(
    donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any
) -> None:
    said: list[str] = []

    class Heard:
        def say(self, line: str) -> None:
            said.append(line)

    for step in (
        Decoder(layers="random", output="keep"),
        Decoder(layers="random", output="keep", cross_attention="zero"),
    ):
        graft = Graft.of_models(
            donor,
            host,
            align(donor_tokenizer, host_tokenizer),
            Ledger(ModelWeights(donor), ModelWeights(host), False),
            progress=Heard(),
        )
        step.apply(graft)
    assert said == ["decoder: changed nothing: what it would draw anew is random already"]
