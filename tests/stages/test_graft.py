"""The graft as a stage: what it leaves, and that fine-tuning begins alike with it and without."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graftlm.console import Silent
from graftlm.context import Labels, StageContext
from graftlm.data.corpus import write_corpus
from graftlm.data.settings import DataSettings
from graftlm.errors import TransferError
from graftlm.models.base import StageModule
from graftlm.running import LoggerSettings, TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings, Settings, TransferSettings
from graftlm.stages import finetune, graft, pretrain


def run(
    stage: Any, work: Path, model: Any, steps: Any, inputs: dict[str, Path], seed: int = 1, pretraining: int = 0
) -> Path:
    work.mkdir()
    chosen = Settings(
        model=model,
        data=DataSettings(name="files", kind="files"),
        mask=MaskSettings(),
        transfer=TransferSettings("mine", steps=steps, fidelity_texts=5),
        finetune=FinetuneSettings(seed=seed, max_steps=2, batch_tokens=600, max_source_length=64, max_target_length=64,
                                  lr=1e-2, val_interval=2, val_pairs=6, generate_pairs=0),
        pretrain=PretrainSettings(max_steps=pretraining, batch_tokens=600, max_length=64, val_texts=4),
        trainer=TrainerSettings(accelerator="cpu", threads=1),
        logger=LoggerSettings(kind="none"),
    )  # fmt: skip
    torch.manual_seed(random.randrange(10**6))  # whatever a process has drawn before
    stage.run(StageContext(chosen, inputs, work, Silent(), Labels("s", "j", {})))
    return work


@pytest.fixture
def inputs(tmp_path: Path, divided: Any, model_settings: Any, _donor: Any, donor_tokenizer: Any) -> dict[str, Path]:
    write_corpus(divided, model_settings, tmp_path / "corpus")
    _donor.save_pretrained(tmp_path / "pretrain" / "model")
    donor_tokenizer.save_pretrained(tmp_path / "pretrain" / "model")
    return {name: tmp_path / name for name in ("corpus", "pretrain")}


def test_fine_tuning_begins_alike_with_a_graft_and_without(
    tmp_path: Path, model_settings: Any, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a seed: the same host where the graft wrote nothing, and the same state of every random generator."""
    grafted = run(graft, tmp_path / "graft", model_settings, [{"step": "embeddings"}], inputs)
    other = run(graft, tmp_path / "other", model_settings, [{"step": "embeddings"}], inputs, seed=2)
    states: list[list[Any]] = []
    hosts: list[dict[str, torch.Tensor]] = []

    def begin(module: Any) -> None:
        states.append([torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()])
        hosts.append({name: value.clone() for name, value in module.model.state_dict().items()})

    monkeypatch.setattr(StageModule, "on_fit_start", begin)
    with_graft = {"corpus": inputs["corpus"], "graft": grafted}
    run(finetune, tmp_path / "with", model_settings, [{"step": "embeddings"}], with_graft)
    run(finetune, tmp_path / "without", model_settings, [], {"corpus": inputs["corpus"]})
    assert states[0] == states[1]
    saved = load_file(grafted / "model" / "model.safetensors")
    assert all(torch.equal(hosts[0][name], value) for name, value in saved.items())
    report = json.loads((grafted / "transfer.json").read_text(encoding="utf-8"))
    status = {item["name"]: item["status"] for item in report["host_tensors"]}
    assert {"copied", "initialised"} <= set(status.values())
    for name in (name for name, kind in status.items() if kind == "initialised"):
        assert torch.equal(hosts[0][name], hosts[1][name]), name
    assert not torch.equal(hosts[0]["model.shared.weight"], hosts[1]["model.shared.weight"])
    fresh = next(name for name, kind in status.items() if kind == "initialised" and "fc1.weight" in name)
    seeded = load_file(other / "model" / "model.safetensors")
    assert not torch.equal(saved[fresh], seeded[fresh]), "the seed of the fine-tuning draws the host"
    assert json.loads((tmp_path / "without" / "transfer.json").read_text())["counts"]["host"]["copied"] == 0
    assert not (tmp_path / "with" / "transfer.json").exists()
    assert json.loads((grafted / "cost.json").read_text())["seconds"] == round(report["seconds"], 3)


def test_a_head_that_no_checkpoint_has_and_no_training_made_lends_nothing(
    tmp_path: Path, divided: Any, model_settings: Any, donor: Any, donor_tokenizer: Any
) -> None:
    """An encoder alone, taken as it is: what stands in the place of its head in the pretrain stage is random."""
    donor.roberta.save_pretrained(tmp_path / "headless")
    donor_tokenizer.save_pretrained(tmp_path / "headless")
    shape = dataclasses.replace(model_settings.donor, checkpoint=str(tmp_path / "headless"))
    model = dataclasses.replace(model_settings, donor=shape, vocab_size=None)
    write_corpus(divided, model, tmp_path / "corpus")
    inputs = {
        "corpus": tmp_path / "corpus",
        "pretrain": run(pretrain, tmp_path / "pretrain", model, [], {"corpus": tmp_path / "corpus"}),
    }
    folded = [{"step": "embeddings"}, {"step": "encoder", "tokens": 500}, {"step": "decoder", "head": "fold"}]
    with pytest.raises(TransferError, match=r"transfer\.steps\[2\]\.head=fold: the donor's checkpoint has no MLM head"):
        run(graft, tmp_path / "folded", model, folded, inputs)
    report = json.loads(
        (run(graft, tmp_path / "plain", model, folded[:1], inputs) / "transfer.json").read_text(encoding="utf-8")
    )
    heads = [
        item
        for item in report["donor_tensors"]
        if item["name"].startswith("lm_head.") and "decoder" not in item["name"]
    ]
    assert {item["status"] for item in heads} == {"unused"}
    trained = run(pretrain, tmp_path / "trained", model, [], {"corpus": tmp_path / "corpus"}, pretraining=1)
    assert not (trained / pretrain.FRESH).exists()
