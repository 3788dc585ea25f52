from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.console import Silent
from graftlm.errors import TransferError
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.strategy import check_compatible, check_steps, step_class, step_names

EMBEDDINGS: dict[str, Any] = {"step": "embeddings"}
ENCODER: dict[str, Any] = {"step": "encoder", "tokens": 2000}
NAIVE: dict[str, Any] = {"step": "naive"}


def problems(*steps: Any) -> list[str]:
    return [str(problem) for problem in check_steps(list(steps), "transfer.steps")]


def test_steps_are_found_by_their_modules() -> None:
    assert {"naive", "embeddings", "encoder"} <= set(step_names())


def test_checking_steps_loads_no_torch() -> None:
    code = (
        "import sys; from graftlm.transfer.strategy import check_steps;"
        "assert not list(check_steps([{'step': 'embeddings'}, {'step': 'encoder'}], 'p'));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_misspelt_step_is_corrected() -> None:
    assert problems({"step": "embedings"}) == [
        "transfer.steps[0].step=embedings: is no step of a graft; did you mean embeddings?"
    ]
    assert "known are" in problems({"tokens": 3})[0]
    assert "must be a mapping" in problems("embeddings")[0]


def test_parameters_are_checked_where_they_stand() -> None:
    found = problems({**EMBEDDINGS, "langauges": "mean"}, {**ENCODER, "ridge": -1, "tokens": "many"})
    assert len(found) == 3
    assert "transfer.steps[0].langauges=mean: is no setting; did you mean languages?" in found
    assert any(line.startswith("transfer.steps[1].ridge=-1") for line in found)
    assert any(line.startswith("transfer.steps[1].tokens=many") for line in found)


def test_two_writers_of_one_tensor_are_refused_with_both_names() -> None:
    found = problems(EMBEDDINGS, NAIVE)
    assert len(found) == 1
    assert "naive" in found[0]
    assert "which embeddings writes too" in found[0]
    assert "stands twice" in problems(EMBEDDINGS, EMBEDDINGS)[0]
    # one change, carried twice: the trained donor has the adapter in it
    assert "that delta carries too" in problems({"step": "delta"}, {"step": "lora"})[0]


def test_order_counts() -> None:
    assert "needs embeddings before it" in problems(ENCODER, EMBEDDINGS)[0]
    assert not problems(EMBEDDINGS, ENCODER)
    shuffle = {"step": "shuffle"}
    assert not problems(EMBEDDINGS, {"step": "exact"}, shuffle)
    assert "needs a step before it that writes model.encoder.layers.*" in problems(EMBEDDINGS, shuffle)[0]
    assert any("must come after encoder" in line for line in problems(EMBEDDINGS, shuffle, ENCODER))


def test_steps_that_make_no_sense_are_refused_by_the_library_too(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    settings = TransferSettings("mine", steps=[ENCODER, EMBEDDINGS])
    with pytest.raises(TransferError, match="needs embeddings before it"):
        apply_strategy(settings, rough_donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)


@pytest.mark.parametrize("steps", [[], [NAIVE], [EMBEDDINGS], [EMBEDDINGS, ENCODER]])
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_tensor_is_accounted_for_once(
    rough_donor: Any,
    host: Any,
    donor_tokenizer: Any,
    host_tokenizer: Any,
    texts: Any,
    tmp_path: Path,
    steps: list[Any],
    pretrained: bool,
) -> None:
    settings = TransferSettings(name="mine", steps=steps, control=True)
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    report = apply_strategy(
        settings, rough_donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], pretrained
    )
    path = tmp_path / "deep" / "transfer.json"
    report.write(path)
    written = json.loads(path.read_text(encoding="utf-8"))
    named = {item["name"]: item for item in written["host_tensors"]}
    expected = {name for name, _ in host.named_parameters()} | {"final_logits_bias"}
    assert len(named) == len(written["host_tensors"])
    assert set(named) == expected
    donors = [item["name"] for item in written["donor_tensors"]]
    assert sorted(donors) == sorted(name for name, _ in rough_donor.named_parameters())
    assert all(item["status"] == "used" or item["note"] for item in written["donor_tensors"])
    assert sum(written["counts"]["host"].values()) == len(expected)
    total = sum(parameter.numel() for parameter in host.parameters()) + host.final_logits_bias.numel()
    assert sum(written["counts"]["host_parameters"].values()) == total
    # what the report says was left is what was left, and the other way round
    left = "kept" if pretrained else "initialised"
    for name, item in named.items():
        assert item["status"] != left or torch.equal(before[name], host.state_dict()[name]), name
        assert item["shape"] == list(before[name].shape)
        assert (item["status"] == left) == (item["source"] is None) == (item["step"] is None)
    if len(steps) == 2:
        encoder = [item for name, item in named.items() if name.startswith("model.encoder.layers.")]
        assert all(item["status"] in ("copied", "calibrated") for item in encoder)
        unused = {item["name"] for item in written["donor_tensors"] if item["status"] == "unused"}
        assert unused == {f"lm_head.{part}.{kind}" for part in ("dense", "layer_norm") for kind in ("weight", "bias")}
    assert [step["step"] for step in written["steps"]] == [step["step"] for step in steps]
    assert written["version"] == 1


def test_without_a_donor(host: Any, host_tokenizer: Any) -> None:
    report = apply_strategy(TransferSettings("none"), None, host, None, host_tokenizer, [], [], False)
    assert report.fidelity is None
    assert report.vocabulary is None
    assert report.donor_tensors == []
    assert {item.status for item in report.host_tensors} == {"initialised"}
    with pytest.raises(TransferError, match="needs a donor"):
        apply_strategy(TransferSettings("x", steps=[EMBEDDINGS]), None, host, None, host_tokenizer, [], [], False)


def test_steps_that_do_not_read_the_donor_need_none(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    """They do the same without it as beside it, and say so truly: nothing of it is used where it is there."""
    steps = [{"step": "standardise", "tokens": 300}, {"step": "denoise", "steps": 2, "language": "en_XX"}]
    settings = TransferSettings("mine", steps=steps)
    assert not settings.needs_donor
    twin = copy.deepcopy(host)
    alone = apply_strategy(settings, None, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], True)
    beside = apply_strategy(settings, rough_donor, twin, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], True)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in host.state_dict().items())
    assert alone.fidelity is None
    assert alone.warnings == ["fidelity was not measured: there is no donor to compare with"]
    assert alone.counts["donor"] == {"used": 0, "unused": 0}
    assert beside.fidelity is not None
    assert beside.counts["donor"]["used"] == 0


@pytest.mark.parametrize("name", step_names())
def test_a_step_that_says_it_does_not_read_the_donor_names_nothing_of_it(name: str) -> None:
    source = Path(inspect.getfile(step_class(name))).read_text(encoding="utf-8")
    reads = any(word in source for word in ("graft.source", "graft.donor", "graft.base", "anatomy.DONOR"))
    assert step_class(name).reads_donor or not reads


def test_a_graft_that_transplants_nothing_is_refused_unless_it_is_a_control(
    rough_donor: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any, model_settings: Any
) -> None:
    # by name, nothing fits into a host of another width
    wide = dataclasses.replace(model_settings, host=dataclasses.replace(model_settings.host, d_model=48))
    host = build_host(wide, host_tokenizer, rough_donor.config)
    arguments = (rough_donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)
    with pytest.raises(TransferError, match="works no more like the donor's than before"):
        apply_strategy(TransferSettings("mine", steps=[NAIVE]), *arguments)
    report = apply_strategy(TransferSettings("mine", steps=[NAIVE], control=True), *arguments)
    assert "works no more like" in report.warnings[0]


@pytest.mark.parametrize("rough", [True, False])
def test_an_encoder_that_adds_nothing_to_the_embeddings_is_refused(
    rough: bool, request: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    """On a small model the embeddings alone clear every fixed bar: the layers have to come nearer than they do."""
    donor = request.getfixturevalue("rough_donor" if rough else "donor")
    shuffled = [EMBEDDINGS, ENCODER, {"step": "shuffle"}]

    def graft(*steps: Any, ours: Any, **others: Any) -> Any:
        settings = TransferSettings("mine", steps=list(steps), **others)
        return apply_strategy(settings, donor, ours, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)

    embedded = graft(EMBEDDINGS, ours=copy.deepcopy(host))
    assert embedded.fidelity["before_layers"] is None
    report = graft(*shuffled, ours=copy.deepcopy(host), control=True)
    assert report.fidelity["before_layers"] == pytest.approx(embedded.fidelity["after"])
    assert "works no more like the donor's than before its layers were carried" in report.warnings[0]
    standardised = [*shuffled, {"step": "standardise"}]
    for nothing in (shuffled, standardised):
        with pytest.raises(
            TransferError, match=r"than before its layers were carried \(cosine [01]\.\d+ → [01]\.\d+, cka"
        ):
            graft(*nothing, ours=copy.deepcopy(host))
    warned = graft(*standardised, ours=copy.deepcopy(host), control=True).warnings
    assert ["expected of a control" in warned[0], "rescaled on purpose" in warned[1]] == [True, True]
    good = graft(EMBEDDINGS, ENCODER, ours=host)
    assert good.warnings == []
    assert good.fidelity["before_layers"] == report.fidelity["before_layers"]
    assert "(before its layers" in good.summary()
    # a host that works like the donor has nothing to gain
    again = graft(EMBEDDINGS, ENCODER, ours=host)
    assert again.fidelity["before"] == pytest.approx(good.fidelity["after"])


def test_a_graft_is_judged_before_a_training_that_moves_it(
    host: Any, rough_donor: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    """What transplants nothing is refused before that takes its hours; what was carried is not, wherever it moves."""
    moving = {"step": "denoise", "steps": 12, "lr": 0.1, "encoder_lr": 1.0, "max_length": 24, "batch_tokens": 200}
    said: list[str] = []

    class Display(Silent):
        def task(self, label: str, total: int | None) -> Any:
            said.append(label)
            return super().task(label, total)

    def graft(*steps: Any, ours: Any) -> Any:
        settings = TransferSettings("mine", steps=[*steps, {**moving, "language": "en"}])
        arguments = (rough_donor, ours, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)
        return apply_strategy(settings, *arguments, Display())

    with pytest.raises(TransferError, match="than before its layers were carried"):
        graft(EMBEDDINGS, ENCODER, {"step": "shuffle"}, ours=copy.deepcopy(host))
    assert "denoising" not in said
    report = graft(EMBEDDINGS, ENCODER, ours=host)
    assert "denoising" in said
    assert report.fidelity["after"]["cka"] < report.fidelity["before_layers"]["cka"]
    assert "with what followed its graft" in report.warnings[0]


@pytest.mark.parametrize(("setting", "value"), [("d_model", 16), ("heads", 4), ("ffn", 32)])
def test_shapes_that_differ_are_refused_before_anything_is_written(
    rough_donor: Any,
    donor_tokenizer: Any,
    host_tokenizer: Any,
    texts: Any,
    model_settings: Any,
    setting: str,
    value: int,
) -> None:
    other = dataclasses.replace(model_settings.host, **{setting: value})
    settings = dataclasses.replace(model_settings, host=other)
    host = build_host(settings, host_tokenizer, rough_donor.config)
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    strategy = TransferSettings("calibrated", steps=[EMBEDDINGS, ENCODER])
    found = check_compatible(strategy, rough_donor.config.to_dict(), host.config.to_dict())
    assert f"model.host.{setting}={value}" in str(found[0])
    with pytest.raises(
        TransferError, match=rf"model\.host\.{setting}={value}: must (be at least|give heads of) the donor's"
    ):
        apply_strategy(strategy, rough_donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)
    assert all(torch.equal(before[name], tensor) for name, tensor in host.state_dict().items())


def test_weights_that_are_not_finite_are_refused(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    with torch.no_grad():
        rough_donor.roberta.encoder.layer[1].intermediate.dense.weight[0, 0] = float("nan")
    settings = TransferSettings("mine", steps=[EMBEDDINGS, ENCODER])
    with pytest.raises(TransferError, match="not finite"):
        apply_strategy(settings, rough_donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)


def test_an_untied_host_gets_every_copy_of_the_words(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    from torch import nn

    host.lm_head.weight = nn.Parameter(host.lm_head.weight.detach().clone())
    settings = TransferSettings("mine", steps=[EMBEDDINGS])
    report = apply_strategy(settings, rough_donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:9], False)
    assert torch.equal(host.lm_head.weight, host.model.shared.weight)
    assert {"lm_head.weight", "model.shared.weight"} <= {item.name for item in report.host_tensors if item.step}
