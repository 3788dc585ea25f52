from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from graftlm.errors import TransferError
from graftlm.models.build import build_donor, build_host
from graftlm.schema import TransferSettings
from graftlm.transfer import anatomy
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.changes import paired_layers
from graftlm.transfer.strategy import build_steps, check_steps, unfit_for_random
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights


def shift(model: Any, seed: int, size: float = 0.02) -> Any:
    """The model after a training: every tensor a little elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return trained


def maps(host_layer: int, donor_layer: int) -> list[tuple[str, str]]:
    pairs = zip(anatomy.host_block(host_layer).linear(), anatomy.donor_block(donor_layer).linear(), strict=True)
    return [named for one, other in pairs for named in zip(anatomy.pair(one), anatomy.pair(other), strict=True)]


def graft(donor: Any, base: Any, host: Any, tokenizers: Any, *steps: Any, texts: Any = ()) -> Any:
    settings = TransferSettings(name="mine", steps=list(steps))
    return apply_strategy(settings, donor, host, *tokenizers, texts, [], True, base=base)


@pytest.fixture
def tokenizers(donor_tokenizer: Any, host_tokenizer: Any) -> tuple[Any, Any]:
    return donor_tokenizer, host_tokenizer


def test_a_host_that_is_the_base_becomes_the_donor(donor: Any, host: Any, tokenizers: Any) -> None:
    base, donor = donor, shift(donor, 1)
    vocabulary = align(*tokenizers)
    known = vocabulary.donor_of >= 0
    rows = torch.from_numpy(vocabulary.donor_of[known])
    tensors, theirs, ours = host.state_dict(), base.state_dict(), donor.state_dict()
    for layer in range(2):
        for to, of in maps(layer, layer):
            tensors[to].copy_(theirs[of])
    tensors["model.shared.weight"][known] = theirs[anatomy.DONOR_WORDS][rows]
    before = {name: value.clone() for name, value in tensors.items()}
    report = graft(donor, ModelWeights(base), host, tokenizers, {"step": "delta"})
    for layer in range(2):
        for to, of in maps(layer, layer):
            assert torch.allclose(tensors[to], ours[of], atol=1e-6)
    assert torch.allclose(tensors["model.shared.weight"][known], ours[anatomy.DONOR_WORDS][rows], atol=1e-6)
    changed = {name for name, value in tensors.items() if not torch.equal(value, before[name])}
    status = {item.name: item.status for item in report.host_tensors}
    assert {name for name in status if status[name] == "mapped"} == changed & set(status)
    # language codes, LayerNorms, positions and the decoder are as they were
    assert torch.equal(tensors["model.shared.weight"][~known], before["model.shared.weight"][~known])
    assert not any("norm" in name or "positions" in name or "decoder.layers" in name for name in changed)
    used = {item.name for item in report.donor_tensors if item.status == "used"}
    words = ModelWeights(donor).aliases[anatomy.DONOR_WORDS]
    assert used == {words} | {of for layer in range(2) for _, of in maps(layer, layer)}


def test_scale_and_size_of_a_change(donor: Any, host: Any, tokenizers: Any) -> None:
    base, donor = donor, shift(donor, 2)
    to, of = maps(0, 0)[0]
    change = donor.state_dict()[of] - base.state_dict()[of]
    before = host.state_dict()[to].clone()
    twin = copy.deepcopy(host)
    graft(donor, base, host, tokenizers, {"step": "delta", "parts": ["attention"], "scale": 0.5})
    assert torch.allclose(host.state_dict()[to], before + 0.5 * change, atol=1e-6)
    assert torch.equal(host.model.shared.weight, twin.model.shared.weight)
    assert torch.equal(host.model.encoder.layers[0].fc1.weight, twin.model.encoder.layers[0].fc1.weight)
    with torch.no_grad():
        twin.state_dict()[to].mul_(30)
        twin.model.shared.weight.mul_(7)
    words = twin.model.shared.weight.detach().clone()
    graft(donor, base, twin, tokenizers, {"step": "delta", "relative": True})
    factor = 30 * before.norm() / base.state_dict()[of].norm()
    assert torch.allclose(twin.state_dict()[to], 30 * before + factor * change, atol=1e-5)
    known = torch.from_numpy(align(*tokenizers).donor_of >= 0)
    rows = torch.from_numpy(align(*tokenizers).donor_of)[known]
    theirs = base.state_dict()[anatomy.DONOR_WORDS]
    moved = donor.state_dict()[anatomy.DONOR_WORDS] - theirs
    factor = words[known].norm() / theirs[rows].norm()
    assert torch.allclose(twin.model.shared.weight[known], words[known] + factor * moved[rows], atol=1e-5)


@pytest.mark.parametrize(
    ("donor", "host", "how", "wanted"),
    [
        (24, 12, "spread", list(range(1, 24, 2))),
        (24, 12, "first", list(range(12))),
        (24, 12, "last", list(range(12, 24))),
        (3, 3, "spread", [0, 1, 2]),
        (2, 4, "spread", [0, 0, 1, 1]),
        (2, 4, "first", [0, 1, None, None]),
        (2, 4, "last", [None, None, 0, 1]),
    ],
)
def test_which_layer_goes_where(donor: int, host: int, how: Any, wanted: list[int | None]) -> None:
    assert paired_layers(donor, host, how) == wanted


def test_fewer_layers_take_the_last_of_each_group(donor: Any, tokenizers: Any, model_settings: Any) -> None:
    shallow = dataclasses.replace(model_settings, host=dataclasses.replace(model_settings.host, encoder_layers=1))
    host = build_host(shallow, tokenizers[1], donor.config)
    base, donor = donor, shift(donor, 3)
    to, of = maps(0, 1)[4]
    wanted = host.state_dict()[to] + donor.state_dict()[of] - base.state_dict()[of]
    graft(donor, base, host, tokenizers, {"step": "delta"})
    assert torch.allclose(host.state_dict()[to], wanted, atol=1e-6)


def test_steps_before_a_change_carry_the_donor_as_it_was(donor: Any, host: Any, tokenizers: Any, texts: Any) -> None:
    """Or the change would be there twice."""
    base, donor = donor, shift(donor, 4)
    steps = [{"step": "embeddings"}, {"step": "encoder", "tokens": 500}, {"step": "delta", "scale": 0.5}]
    graft(donor, base, host, tokenizers, *steps, texts=texts[20:])
    known = torch.from_numpy(align(*tokenizers).donor_of >= 0)
    rows = torch.from_numpy(align(*tokenizers).donor_of)[known]
    middle = (base.state_dict()[anatomy.DONOR_WORDS] + donor.state_dict()[anatomy.DONOR_WORDS]) / 2
    assert torch.allclose(host.model.shared.weight[known], middle[rows], atol=1e-6)
    query = (base.state_dict()[maps(0, 0)[0][1]] + donor.state_dict()[maps(0, 0)[0][1]]) / 2
    assert torch.allclose(host.model.encoder.layers[0].self_attn.q_proj.weight, query, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "lacks"),
    [
        ([{"step": "delta"}], "delta"),
        ([{"step": "lora"}], "lora"),
        ([{"step": "lora", "mode": "train"}], "lora"),
        ([{"step": "delta", "parts": ["embeddings"]}], "delta"),
        ([{"step": "embeddings"}, {"step": "delta"}], "delta"),
        ([{"step": "embeddings"}, {"step": "lora"}, {"step": "denoise"}], "lora"),
        ([{"step": "embeddings"}, {"step": "delta", "parts": ["embeddings"]}], ""),
        ([{"step": "embeddings"}, {"step": "encoder"}, {"step": "delta"}], ""),
        ([{"step": "embeddings"}, {"step": "exact"}, {"step": "lora"}], ""),
        ([{"step": "naive"}, {"step": "delta"}], ""),
        ([{"step": "naive"}, {"step": "lora"}], ""),
    ],
)
def test_random_weights_have_nothing_to_change(steps: list[Any], lacks: str) -> None:
    found = unfit_for_random(build_steps(steps, "s", []))
    assert (found[0] if found else "") == lacks


def test_a_change_of_random_weights_is_refused_before_anything_is_written(
    donor: Any, host: Any, tokenizers: Any
) -> None:
    before = {name: value.clone() for name, value in host.state_dict().items()}
    settings = TransferSettings(name="mine", steps=[{"step": "delta"}])
    words = r"transfer=mine: delta needs a pretrained host, or a step before it .*; name model\.host\.checkpoint"
    with pytest.raises(TransferError, match=words):
        apply_strategy(settings, shift(donor, 1), host, *tokenizers, [], [], False, base=donor)
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())


def test_without_the_earlier_donor_or_fitting_sizes(
    donor: Any, host: Any, tokenizers: Any, model_settings: Any
) -> None:
    with pytest.raises(TransferError, match="delta needs the donor as it was before"):
        graft(donor, None, host, tokenizers, {"step": "delta"})
    wide = dataclasses.replace(model_settings, host=dataclasses.replace(model_settings.host, ffn=96))
    other = build_host(wide, tokenizers[1], donor.config)
    with pytest.raises(TransferError, match=r"model\.host\.ffn=96: must be the donor's 64 for a change"):
        graft(donor, donor, other, tokenizers, {"step": "delta"})
    graft(shift(donor, 1), donor, other, tokenizers, {"step": "delta", "parts": ["embeddings", "attention"]})
    (problem,) = check_steps([{"step": "delta", "parts": []}], "s")
    assert str(problem).startswith("s[0].parts=[]: names nothing to carry")
    found = [str(problem) for problem in check_steps([{"step": "delta"}, {"step": "embeddings"}], "s")]
    assert "must come after embeddings" in found[0]
    assert "which delta has refined" in found[1]


def test_no_change_is_no_graft(donor: Any, host: Any, tokenizers: Any) -> None:
    """A donor that is its own base, in the parts that are carried."""
    with pytest.raises(TransferError, match="delta: finds no change to carry: the donor's embeddings, attention, ffn"):
        graft(donor, copy.deepcopy(donor), host, tokenizers, {"step": "delta"})
    trained = copy.deepcopy(donor)
    with torch.no_grad():
        trained.roberta.encoder.layer[1].output.dense.bias[0] += 1
    with pytest.raises(TransferError, match="finds no change to carry: the donor's attention are"):
        graft(trained, donor, host, tokenizers, {"step": "delta", "parts": ["attention"]})
    before = host.model.encoder.layers[1].fc2.bias.detach().clone()
    graft(trained, donor, host, tokenizers, {"step": "delta"})
    assert int((host.model.encoder.layers[1].fc2.bias != before).sum()) == 1


def test_a_base_of_another_shape_is_told_before_other_steps_run(
    donor: Any, host: Any, tokenizers: Any, model_settings: Any, texts: Any
) -> None:
    thin = dataclasses.replace(model_settings, donor=dataclasses.replace(model_settings.donor, ffn=32))
    base = build_donor(thin, tokenizers[0])
    before = {name: value.clone() for name, value in host.state_dict().items()}
    steps = [{"step": "embeddings"}, {"step": "delta"}]
    with pytest.raises(TransferError, match=r"had shape \(32, 32\) before pretraining and has \(64, 32\) now"):
        graft(donor, base, host, tokenizers, *steps, texts=texts)
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
