"""An adapter trained beside the donor, carried to the host, and trained on: through the stages themselves."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MBartForConditionalGeneration, XLMRobertaForMaskedLM

from graftlm.cli import main
from graftlm.console import Silent
from graftlm.context import Labels, StageContext
from graftlm.data.corpus import Corpus, write_corpus
from graftlm.data.settings import DataSettings
from graftlm.errors import TransferError
from graftlm.models import base as training
from graftlm.running import LoggerSettings, TrainerSettings
from graftlm.schema import AdapterSettings, FinetuneSettings, MaskSettings, PretrainSettings, Settings, TransferSettings
from graftlm.stages import finetune, pretrain
from graftlm.stages import graft as stage
from graftlm.stages.saving import CHECKPOINT
from graftlm.transfer import adapters
from graftlm.transfer.anatomy import donor_block, host_block
from graftlm.transfer.apply import apply_strategy

ADAPTER = AdapterSettings(rank=3, alpha=6.0, dropout=0.1, targets=["query", "value", "fc2"])


def settings(donor: Path, model: Any, *steps: Any, **others: Any) -> Settings:
    transfer = TransferSettings("mine", steps=list(steps) or [{"step": "lora"}], adapter=ADAPTER, fidelity_texts=10)
    return Settings(
        model=dataclasses.replace(
            model, vocab_size=None, donor=dataclasses.replace(model.donor, checkpoint=str(donor))
        ),
        data=DataSettings(name="files", kind="files"),
        mask=MaskSettings(),
        transfer=dataclasses.replace(transfer, **others),
        pretrain=PretrainSettings(max_steps=9, batch_tokens=600, max_length=32, lr=2e-2, val_interval=5, val_texts=20,
                                  checkpoint_interval=4),
        finetune=FinetuneSettings(max_steps=6, batch_tokens=600, max_source_length=64, max_target_length=64, lr=1e-2,
                                  val_interval=3, val_pairs=10, generate_pairs=2, checkpoint_interval=2),
        trainer=TrainerSettings(accelerator="cpu", threads=1),
        logger=LoggerSettings(kind="none"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, divided: Any, _donor: Any, donor_tokenizer: Any, model_settings: Any
) -> Path:
    """A folder with the donor as a checkpoint (`donor`) and the corpus in its vocabulary (`corpus`)."""
    folder = tmp_path_factory.mktemp("lora")
    _donor.save_pretrained(folder / "donor")
    donor_tokenizer.save_pretrained(folder / "donor")
    write_corpus(divided, settings(folder / "donor", model_settings).model, folder / "corpus")
    return folder


def run(stage: Any, chosen: Settings, folder: Path, work: str) -> Path:
    inputs = {name: folder / name for name in ("corpus", "pretrain", "graft")}
    (folder / work).mkdir(exist_ok=True)
    stage.run(StageContext(chosen, inputs, folder / work, Silent(), Labels("s", "j", {})))
    return folder / work


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, stage: Any, *arguments: Any) -> None:
    """The stage, killed at a step."""
    start = training.StageModule.on_train_batch_start

    def stop(module: Any, batch: Any, index: int) -> None:
        if module.global_step == at:
            raise RuntimeError("killed")
        start(module, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(training.StageModule, "on_train_batch_start", stop)
        with pytest.raises(RuntimeError, match="killed"):
            run(stage, *arguments)
    _, folder, work = arguments
    assert (folder / work / CHECKPOINT).is_file()


@pytest.fixture(scope="module")
def pretrained(place: Path, model_settings: Any) -> Path:
    return run(pretrain, settings(place / "donor", model_settings), place, "pretrain")


def test_pretraining_leaves_an_adapter_and_the_donor_with_it(pretrained: Path, place: Path) -> None:
    before = load_file(place / "donor" / "model.safetensors")
    after = load_file(pretrained / "model" / "model.safetensors")
    assert set(after) == set(before)
    adapter = adapters.read(pretrained / "adapter")
    assert (adapter.rank, adapter.scaling, adapter.dropout) == (3, 2.0, 0.1)
    names = {getattr(donor_block(layer), name) for layer in range(2) for name in ADAPTER.targets}
    assert set(adapter.maps) == names
    for name, value in after.items():
        module = name.removesuffix(".weight")
        if module in names:
            change = adapter.change(module)
            assert float(change.norm()) > 1e-3
            assert torch.allclose(value, before[name] + change, atol=1e-6)
        elif name.startswith(("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")):
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, before[name]), name
    # peft itself reads the folder
    from peft import PeftModel

    model = PeftModel.from_pretrained(
        XLMRobertaForMaskedLM.from_pretrained(place / "donor"), pretrained / "adapter"
    ).merge_and_unload()
    for module in names:
        assert torch.allclose(model.get_submodule(module).weight, after[f"{module}.weight"], atol=1e-6)
    cost = json.loads((pretrained / "cost.json").read_text())
    assert cost["steps"] == 9


def test_a_killed_pretraining_goes_on_with_its_adapter(
    pretrained: Path, place: Path, model_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(place / "donor", model_settings)
    interrupted(monkeypatch, 6, pretrain, chosen, place, "again")
    folder = run(pretrain, chosen, place, "again")
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = load_file(folder / name), load_file(pretrained / name)
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def graft(pretrained: Path, place: Path, host: Any, *steps: Any, **others: Any) -> Any:
    corpus = Corpus(place / "corpus")
    load = XLMRobertaForMaskedLM.from_pretrained
    texts = [corpus.texts("train")[index] for index in range(200)]
    return apply_strategy(
        TransferSettings("mine", steps=list(steps), adapter=ADAPTER), load(pretrained / "model"), host,
        corpus.donor_tokenizer, corpus.host_tokenizer, texts, texts[:5], True,
        base=load(place / "donor"), **{"adapter": pretrained / "adapter", **others},
    )  # fmt: skip


def test_the_adapter_is_added_to_the_same_maps(pretrained: Path, place: Path, host: Any) -> None:
    before = {name: value.clone() for name, value in host.state_dict().items()}
    adapter = adapters.read(pretrained / "adapter")
    report = graft(pretrained, place, host, {"step": "lora", "scale": 0.5})
    changed = set()
    for layer in range(2):
        for name in ADAPTER.targets:
            weight = f"{getattr(host_block(layer), name)}.weight"
            change = 0.5 * adapter.change(getattr(donor_block(layer), name))
            assert torch.allclose(host.state_dict()[weight], before[weight] + change, atol=1e-6)
            changed.add(weight)
    assert changed == {name for name, value in host.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {item.name for item in report.host_tensors if item.status == "mapped"}
    used = {item.name for item in report.donor_tensors if item.status == "used"}
    assert used == {f"{module}.weight" for module in adapter.maps}


def test_on_the_base_it_gives_the_merged_donor(pretrained: Path, place: Path, host: Any) -> None:
    """The steps before it carry the base; a host in another scale gets the change in that scale."""
    steps = [{"step": "embeddings"}, {"step": "encoder", "tokens": 2000}]
    base, scaled = copy.deepcopy(host), copy.deepcopy(host)
    graft(pretrained, place, host, *steps, {"step": "lora"})
    merged = load_file(pretrained / "model" / "model.safetensors")
    for layer in range(2):
        for name in ("query", "value"):
            ours, theirs = getattr(host_block(layer), name), getattr(donor_block(layer), name)
            assert torch.allclose(host.get_submodule(ours).weight, merged[f"{theirs}.weight"], atol=1e-6)
    names = [(host_block(layer).fc2, donor_block(layer).fc2) for layer in range(2)]
    with torch.no_grad():
        for ours, theirs in names:
            weights = XLMRobertaForMaskedLM.from_pretrained(place / "donor").get_submodule(theirs).weight
            base.get_submodule(ours).weight.copy_(weights)
            scaled.get_submodule(ours).weight.copy_(-3 * weights)
    graft(pretrained, place, base, {"step": "lora", "recalibrate": True})
    graft(pretrained, place, scaled, {"step": "lora", "recalibrate": True})
    for ours, theirs in names:
        assert torch.allclose(base.get_submodule(ours).weight, merged[f"{theirs}.weight"], atol=1e-5)
        assert torch.allclose(scaled.get_submodule(ours).weight, -3 * merged[f"{theirs}.weight"], atol=1e-4)


def test_kept_beside_the_weights_it_is_the_same_model_and_merges_away(pretrained: Path, place: Path, host: Any) -> None:
    merged = copy.deepcopy(host)
    graft(pretrained, place, merged, {"step": "lora"})
    plain = {name: value.clone() for name, value in host.state_dict().items()}
    report = graft(pretrained, place, host, {"step": "lora", "mode": "train"})
    assert {item.name for item in report.host_tensors if item.status == "mapped"} == {
        f"{getattr(host_block(layer), name)}.weight" for layer in range(2) for name in ADAPTER.targets
    }
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=ids, decoder_input_ids=ids).logits for model in (host, merged))
    assert torch.allclose(ours, theirs, atol=1e-5)
    trained = {name for name, parameter in host.named_parameters() if parameter.requires_grad}
    assert all(("lora_" in name) == name.startswith("model.encoder.") for name in trained)
    assert {"model.shared.weight", "model.decoder.layers.0.fc1.weight"} <= trained
    assert sum("lora_" in name for name in trained) == 12
    adapters.merge(host)
    assert set(host.state_dict()) == set(plain)
    for name, value in host.state_dict().items():
        assert torch.allclose(value, merged.state_dict()[name], atol=1e-6), name
    adapters.merge(host)  # nothing left to do


def test_a_trained_adapter_is_accounted_for_as_the_hosts_own(pretrained: Path, place: Path, host: Any) -> None:
    """Its tensors, what they come from and what they are merged into; and what later steps do to them."""
    twin = copy.deepcopy(host)
    adapter = adapters.read(pretrained / "adapter")
    report = graft(pretrained, place, host, {"step": "lora", "mode": "train", "scale": 0.5})
    entries = {item.name: item for item in report.host_tensors}
    assert set(entries) == {
        name.replace(".base_layer.", ".") for name in (*dict(host.named_parameters()), "final_logits_bias")
    }
    total = sum(parameter.numel() for parameter in host.parameters()) + host.final_logits_bias.numel()
    assert sum(report.counts["host_parameters"].values()) == total
    place_of = {getattr(host_block(layer), name): getattr(donor_block(layer), name)
                for layer in range(2) for name in ADAPTER.targets}  # fmt: skip
    assert len(entries) == len(list(twin.parameters())) + 1 + 2 * len(place_of)
    for ours, theirs in place_of.items():
        a, b = (entries[f"{ours}.lora_{side}.default.weight"] for side in "AB")
        assert (a.status, b.status) == ("copied", "mapped")
        assert a.source == b.source == f"the adapter of {theirs}.weight"
        assert a.shape == list(adapter.maps[theirs][0].shape)
        assert a.note == f"A, merged into {ours}.weight when the model is saved"
        assert b.note.startswith("0.5 x B, merged into")
        assert torch.equal(host.get_parameter(b.name), 0.5 * adapter.maps[theirs][1])
        assert "merged into it when the model is saved" in entries[f"{ours}.weight"].note
    assert "an adapter of 12 tensors (" in report.summary()
    carried = int(report.summary().split("% of")[0].rsplit(" ", 1)[1])
    assert carried == round(100 * sum(twin.get_parameter(f"{ours}.weight").numel() for ours in place_of)
                            / (total - sum(p.numel() for n, p in host.named_parameters() if "lora_" in n)))  # fmt: skip
    adapters.merge(host)
    assert {name for name, _ in host.named_parameters()} == {name for name in entries if "lora_" not in name} - {
        "final_logits_bias"
    }
    # a later step trains it, and it is said
    denoise = {"step": "denoise", "steps": 2, "encoder_lr": 1.0, "language": "en_XX", "max_length": 32}
    later = graft(pretrained, place, twin, {"step": "lora", "mode": "train"}, denoise)
    found = {item.name: item for item in later.host_tensors}[f"{host_block(0).query}.lora_B.default.weight"]
    assert (found.status, found.step) == ("trained", "lora + denoise")


@pytest.fixture(scope="module")
def finetuned(pretrained: Path, place: Path, model_settings: Any) -> tuple[Path, Settings]:
    steps = [{"step": "embeddings"}, {"step": "encoder", "tokens": 2000}, {"step": "lora", "mode": "train"}]
    chosen = settings(place / "donor", model_settings, *steps, freeze_encoder=0.0, control=True)
    run(stage, chosen, place, "graft")
    return run(finetune, chosen, place, "finetune"), chosen


def test_fine_tuning_trains_the_adapter_and_leaves_a_plain_model(
    finetuned: tuple[Path, Settings], pretrained: Path, place: Path, host: Any
) -> None:
    folder, _ = finetuned
    tensors = load_file(folder / "model" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in tensors)
    MBartForConditionalGeneration.from_pretrained(folder / "model")
    report = json.loads((place / "graft" / "transfer.json").read_text())
    grafted = {item["name"]: item for item in report["host_tensors"]}
    assert "kept beside it and trained" in grafted["model.encoder.layers.0.fc2.weight"]["note"]
    assert grafted["model.encoder.layers.0.fc2.lora_A.default.weight"]["step"] == "lora"
    # what stands beside no adapter is what the graft left, and the adapted maps have moved by a matrix of rank 3
    merged = load_file(pretrained / "model" / "model.safetensors")
    key = donor_block(0).key
    assert torch.equal(tensors[f"{host_block(0).key}.weight"], merged[f"{key}.weight"])
    base = load_file(place / "donor" / "model.safetensors")
    query = tensors[f"{host_block(0).query}.weight"]
    moved = query - base[f"{donor_block(0).query}.weight"]
    assert int(torch.linalg.matrix_rank(moved, tol=1e-4)) == 3
    assert not torch.allclose(query, merged[f"{donor_block(0).query}.weight"], atol=1e-4)


def test_a_killed_fine_tuning_keeps_its_own_adapter(
    finetuned: tuple[Path, Settings], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, chosen = finetuned
    interrupted(monkeypatch, 5, finetune, chosen, place, "killed")
    again = run(finetune, chosen, place, "killed")
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (again, folder))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_from_folder_to_folder(
    finetuned: tuple[Path, Settings], pretrained: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", "--encoder", str(pretrained / "model"), "--seq2seq", str(finetuned[0] / "model"),
             "--base", str(place / "donor"), "--strategy", "lora"]  # fmt: skip
    adapter = ["--adapter", str(pretrained / "adapter")]
    assert main([*words, *adapter, "--out", str(tmp_path / "out"), "transfer.steps=[{step: lora}]"]) == 0
    before, after = (load_file(path / "model.safetensors") for path in (finetuned[0] / "model", tmp_path / "out"))
    name = host_block(1).value
    change = adapters.read(pretrained / "adapter").change(donor_block(1).value)
    assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"] + change, atol=1e-6)
    assert torch.equal(after[f"{name}.bias"], before[f"{name}.bias"])
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "no"), "transfer.steps=[{step: lora}]"]) == 2
    assert "--adapter: is needed by the step lora" in capsys.readouterr().err
    train = "transfer.steps=[{step: lora, mode: train}]"
    assert main([*words, *adapter, "--out", str(tmp_path / "no"), train]) == 2
    assert "mode=train: nothing is trained here; take merge" in capsys.readouterr().err


def test_what_cannot_be_carried(pretrained: Path, place: Path, host: Any, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="the donor has no adapter to carry"):
        graft(pretrained, place, host, {"step": "lora"}, adapter=None)
    before = {name: value.clone() for name, value in host.state_dict().items()}
    with pytest.raises(TransferError, match="holds no adapter that can be read"):
        graft(pretrained, place, host, {"step": "embeddings"}, {"step": "lora"}, adapter=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items()), "told before any step"
    config = json.loads((pretrained / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (pretrained / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(TransferError, match=r"is more than a plain LoRA \(LORA, use_dora\)"):
        graft(pretrained, place, host, {"step": "lora"}, adapter=tmp_path)


def test_an_adapter_of_another_model_is_refused_in_one_line(
    pretrained: Path, place: Path, host: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `graftlm transfer --adapter` meets it: wider, deeper, or with a factor that is not there."""
    (tmp_path / "adapter_config.json").write_bytes((pretrained / "adapter" / "adapter_config.json").read_bytes())
    tensors = load_file(pretrained / "adapter" / "adapter_model.safetensors")
    host.save_pretrained(tmp_path / "host")
    Corpus(place / "corpus").host_tokenizer.save_pretrained(tmp_path / "host")

    def said(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, tmp_path / "adapter_model.safetensors")
        words = ["transfer", "--encoder", str(pretrained / "model"), "--seq2seq", str(tmp_path / "host"),
                 "--base", str(place / "donor"), "--strategy", "lora", "--adapter", str(tmp_path),
                 "--out", str(tmp_path / "out"), "transfer.steps=[{step: lora}]"]  # fmt: skip
        assert main(words) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    wide = {name: torch.zeros(3, 48) if ".lora_A." in name else torch.zeros(48, 3) for name in tensors}
    error = said(wide)
    assert f"transfer.adapter={tmp_path}: is the adapter of another model" in error
    assert re.search(r"has shape \(48, 48\), in the donor \(32, (32|64)\); name the one", error)
    assert "Traceback" not in error
    deep = {name.replace(".layer.1.", ".layer.7."): value for name, value in tensors.items()}
    assert "layer.7" in (error := said(deep))
    assert "is not in the donor" in error
    lost = {name: value for name, value in tensors.items() if not (".lora_B." in name and ".layer.0." in name)}
    assert "has no two factors of rank 3 for roberta.encoder.layer.0." in said(lost)
    more = {**tensors, "base_model.model.roberta.encoder.layer.0.intermediate.dense.bias": torch.ones(64)}
    assert "is more than a plain LoRA: it changes base_model.model.roberta.encoder.layer.0.inter" in said(more)
    unlearned = {name: value * (".lora_A." in name) for name, value in tensors.items()}
    assert f"transfer.adapter={tmp_path}: has learned nothing: each of its changes is 0" in said(unlearned)
    head = {**tensors, "base_model.model.lm_head.dense.weight": torch.ones(32, 32)}  # trained beside it, not carried
    save_file(head, tmp_path / "adapter_model.safetensors")
    assert adapters.read(tmp_path).maps.keys() == adapters.read(pretrained / "adapter").maps.keys()


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapters.missing("transfer.adapter") == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = adapters.missing("transfer.adapter")
    assert str(problem).endswith("pip install 'graftlm[lora]'")
