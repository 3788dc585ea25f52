from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graftlm.console import Silent
from graftlm.context import Labels, StageContext
from graftlm.data.settings import DataSettings
from graftlm.data.tokenizers import build_host_tokenizer
from graftlm.errors import TransferError
from graftlm.models.build import build_host
from graftlm.models.loss import seq2seq_loss
from graftlm.running import LoggerSettings, TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, Settings, TransferSettings
from graftlm.stages import finetune
from graftlm.stages import graft as stage
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.graft import Graft
from graftlm.transfer.report import Ledger
from graftlm.transfer.steps.denoise import Denoise
from graftlm.transfer.strategy import check_steps
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights

EMBEDDINGS = {"step": "embeddings"}
ENCODER = {"step": "encoder", "tokens": 2000}


def apply(donor: Any, host: Any, tokenizers: tuple[Any, Any], texts: Any, *steps: Any, **others: Any) -> Any:
    settings = TransferSettings("mine", steps=list(steps))
    others.setdefault("languages", ["en_XX"] * len(texts))
    return apply_strategy(settings, donor, host, *tokenizers, texts, texts[:20], False, **others)


@pytest.fixture
def tokenizers(donor_tokenizer: Any, host_tokenizer: Any) -> tuple[Any, Any]:
    return donor_tokenizer, host_tokenizer


def graft_of(donor: Any, host: Any, tokenizers: tuple[Any, Any], texts: Any) -> Graft:
    return Graft.of_models(
        donor,
        host,
        align(*tokenizers),
        Ledger(ModelWeights(donor), ModelWeights(host), False),
        calibration=texts,
        languages=["en_XX"] * len(texts),
        donor_tokenizer=tokenizers[0],
        host_tokenizer=tokenizers[1],
    )


def test_operations_are_all_counted_though_few_steps_are_watched(
    rough_donor: Any, host: Any, tokenizers: Any, texts: Any
) -> None:
    graft = graft_of(rough_donor, host, tokenizers, texts)
    with FlopCounterMode(display=False) as everything:
        Denoise(steps=24, batch_tokens=128, max_length=24).apply(graft)
    assert graft.spent.flops == pytest.approx(everything.get_total_flops(), rel=1e-12)
    assert 1 < len(graft.spent._counted) <= 6


def test_the_host_learns_to_restore_text_and_the_encoder_stays(
    rough_donor: Any, host: Any, tokenizers: Any, texts: Any
) -> None:
    graft = graft_of(rough_donor, host, tokenizers, texts)
    step = Denoise(steps=40, lr=5e-3, batch_tokens=512, max_length=32)
    other = Denoise(seed=7, batch_tokens=512, max_length=32)
    batches = other._batches(graft, other._texts(graft)[0])
    held_out = [batches(number) for number in range(4)]

    def loss() -> float:
        with torch.no_grad():
            return sum(float(seq2seq_loss(host.eval(), batch)) for batch in held_out) / 4

    before, start = loss(), copy.deepcopy(host.state_dict())
    step.apply(graft)
    assert loss() < before - 0.5
    moved = {name for name, value in host.state_dict().items() if not torch.equal(value, start[name])}
    assert not any(".encoder.layers." in name or "encoder.layer_norm" in name for name in moved)
    assert any(".encoder_attn." in name for name in moved)
    entries = {item.name: item for item in graft.ledger.host.values()}
    first = {ModelWeights(host).aliases[name] for name in moved}
    assert {name for name, item in entries.items() if item.status == "trained"} == first
    assert all(parameter.requires_grad for parameter in host.parameters())


def test_the_same_seed_gives_the_same_host(rough_donor: Any, host: Any, tokenizers: Any, texts: Any) -> None:
    other = copy.deepcopy(host)
    step = {"step": "denoise", "steps": 3, "max_length": 32}
    torch.manual_seed(1)
    report = apply(rough_donor, host, tokenizers, texts, EMBEDDINGS, ENCODER, step)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    apply(rough_donor, other, tokenizers, texts, EMBEDDINGS, ENCODER, step)
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state()), "the graft leaves the global random state as it was"
    ours, theirs = host.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # the compute is charged: forward and backward
    assert report.steps[2].flops > 0
    assert report.flops == sum(item.flops for item in report.steps)
    noted = {item.name: item for item in report.host_tensors}["model.shared.weight"]
    assert noted.step == "embeddings + denoise"
    assert "3 steps of denoising" in noted.note


def test_alone_it_is_fine_tuned_without_any_donor(corpus: Any, model_settings: Any, tmp_path: Path) -> None:
    """Through the stage itself: there is no pretrain artifact, the texts are in the donor's ids all the same."""
    settings = Settings(
        model=model_settings,
        data=DataSettings(name="files", kind="files"),
        mask=MaskSettings(),
        transfer=TransferSettings("denoising", steps=[{"step": "denoise", "steps": 3, "max_length": 32}]),
        finetune=FinetuneSettings(max_steps=2, batch_tokens=600, max_source_length=64, max_target_length=64,
                                  val_interval=2, val_pairs=6, generate_pairs=0),
        trainer=TrainerSettings(accelerator="cpu", threads=1),
        logger=LoggerSettings(kind="none"),
    )  # fmt: skip
    labels = Labels("s", "j", {})
    grafted, tuned = tmp_path / "graft", tmp_path / "finetune"
    tuned.mkdir()
    stage.run(StageContext(settings, {"corpus": corpus.path}, grafted, Silent(), labels))
    finetune.run(StageContext(settings, {"corpus": corpus.path, "graft": grafted}, tuned, Silent(), labels))
    report = json.loads((grafted / "transfer.json").read_text(encoding="utf-8"))
    assert report["donor"] is None
    assert report["donor_tensors"] == []
    assert report["warnings"] == ["fidelity was not measured: there is no donor to compare with"]
    assert {item["status"] for item in report["host_tensors"]} >= {"trained"}
    assert report["flops"] == json.loads((grafted / "cost.json").read_text(encoding="utf-8"))["flops"] > 0
    assert not (tuned / "transfer.json").exists()


def test_text_without_a_known_language_is_refused(rough_donor: Any, host: Any, tokenizers: Any, texts: Any) -> None:
    with pytest.raises(TransferError, match=r"transfer\.steps\[0\]\.language: no calibration text"):
        apply(rough_donor, host, tokenizers, texts, {"step": "denoise", "steps": 2}, languages=[])
    apply(rough_donor, host, tokenizers, texts, {"step": "denoise", "steps": 2, "language": "en_XX"}, languages=[])
    (problem,) = check_steps([{"step": "denoise", "language": "Klingon"}], "s")
    assert str(problem).startswith("s[0].language=Klingon: is no language of mBART; known codes are")


def test_text_that_cannot_be_used_is_told_before_other_steps_run(
    rough_donor: Any, host: Any, tokenizers: Any, texts: Any
) -> None:
    before = {name: value.clone() for name, value in host.state_dict().items()}
    with pytest.raises(TransferError, match=r"transfer\.steps\[1\]\.language: no calibration text"):
        apply(rough_donor, host, tokenizers, texts, EMBEDDINGS, {"step": "denoise", "steps": 2}, languages=[])
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())


def test_a_text_in_a_language_that_the_host_lacks_is_left_out_and_said(
    rough_donor: Any, pieces: Any, donor_tokenizer: Any, texts: Any, model_settings: Any
) -> None:
    """The fallback is for texts whose language nobody knows: Afrikaans is no English for want of a code in cc25."""
    tokenizer = build_host_tokenizer(pieces, "cc25")
    host = build_host(dataclasses.replace(model_settings, format="cc25"), tokenizer, rough_donor.config)
    codes = ["de_DE", "af_ZA", "", "tlh"] * (len(texts) // 4)
    step = Denoise(steps=2, language="en_XX", batch_tokens=256, max_length=32)
    ledger = Ledger(ModelWeights(rough_donor), ModelWeights(host), False)
    graft = Graft.of_models(
        rough_donor,
        host,
        align(donor_tokenizer, tokenizer),
        ledger,
        calibration=texts[: len(codes)],
        languages=codes,
        donor_tokenizer=donor_tokenizer,
        host_tokenizer=tokenizer,
    )
    count = len(codes) // 4
    kept, left_out = step._texts(graft)
    assert {lang for _, lang in kept} == {"de_DE", "en_XX"}
    vocabulary = graft.vocabulary
    for lang, first in (("de_DE", 0), ("en_XX", 2)):
        wanted = [
            vocabulary.to_host(text[at : at + 30]) for text in texts[first : len(codes) : 4] for at in (0, 30, 60, 90)
        ]
        ours = [ids.tolist() for ids, code in kept if code == lang]
        assert ours == [ids.tolist() for ids in wanted if len(ids) >= 4]
    some = f"{count} in af_ZA, which the host has no code for, {count} in tlh, which the host has no code for"
    assert left_out == f"texts left out: {some}"
    alone = dataclasses.replace(step, language=None)._texts(graft)[1]
    assert alone == f"texts left out: {count} of unknown language, {some}"
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    graft.progress = Heard()
    graft.step = "denoise"
    step.apply(graft)
    assert said == [f"denoise: {left_out}"]
    assert "2 steps of denoising, last loss" in ledger.host["model.shared.weight"].note
    assert left_out in ledger.host["model.shared.weight"].note
    graft.languages = ["af_ZA"] * len(codes)
    with pytest.raises(TransferError, match="no calibration text has a language that the host knows"):
        step.apply(graft)
