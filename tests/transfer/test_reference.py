"""The lossless reference, the standardised output, and the shuffled control."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graftlm.errors import TransferError
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.frames import framed
from graftlm.transfer.vocabulary import align

EMBEDDINGS = {"step": "embeddings"}
ENCODER = {"step": "encoder", "tokens": 2000}


def graft(donor: Any, host: Any, tokenizers: tuple[Any, Any], texts: Any, *steps: Any, **others: Any) -> Any:
    settings = TransferSettings("mine", steps=list(steps), **others)
    return apply_strategy(settings, donor, host, *tokenizers, texts[20:], texts[:20], False)


@pytest.fixture
def tokenizers(donor_tokenizer: Any, host_tokenizer: Any) -> tuple[Any, Any]:
    return donor_tokenizer, host_tokenizer


@pytest.fixture
def bart(rough_donor: Any, host: Any) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = host.config.to_dict()
    names = ("vocab_size", "d_model", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")
    shape = {f"{side}_{what}" for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
    config = BartConfig(**{name: sizes[name] for name in (*names, *sorted(shape))}, decoder_start_token_id=2)
    torch.manual_seed(0)
    return BartForConditionalGeneration(config).eval()


@pytest.mark.parametrize(("dtype", "room"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_a_post_ln_host_computes_what_the_donor_does(
    rough_donor: Any, bart: Any, tokenizers: Any, texts: Any, dtype: torch.dtype, room: float
) -> None:
    rough_donor.to(dtype)
    bart.to(dtype)
    with torch.no_grad():  # values that float32, in which tensors are carried, can hold
        for parameter in rough_donor.parameters():
            parameter.copy_(parameter.float())
        rough_donor.roberta.embeddings.token_type_embeddings.weight.zero_()  # it is added to the positions in float32
    report = graft(rough_donor, bart, tokenizers, texts, EMBEDDINGS, {"step": "exact"})
    vocabulary = align(*tokenizers)
    for ids in framed(texts[:3], vocabulary, 60):
        with torch.no_grad():
            theirs = rough_donor.roberta(torch.from_numpy(ids)[None]).last_hidden_state
            ours = bart.model.encoder(torch.from_numpy(vocabulary.to_host(ids))[None]).last_hidden_state
        assert float((ours - theirs).norm() / theirs.norm()) < room
    assert report.fidelity["after"]["cka"] == pytest.approx(1, abs=1e-6)
    assert all(item["after"]["relative_error"] < 1e-5 for item in report.fidelity["layers"])
    layers = [item for item in report.host_tensors if item.name.startswith("model.encoder.layers")]
    assert {item.status for item in layers} == {"copied"}


def test_each_kind_of_host_has_its_step(rough_donor: Any, bart: Any, host: Any, tokenizers: Any, texts: Any) -> None:
    with pytest.raises(TransferError, match=r"model\.host\.architecture=mbart: must be bart"):
        graft(rough_donor, host, tokenizers, texts, EMBEDDINGS, {"step": "exact"})
    with pytest.raises(TransferError, match=r"model\.host\.architecture=bart: must be mbart"):
        graft(rough_donor, bart, tokenizers, texts, EMBEDDINGS, ENCODER)
    for model, step, name in ((bart, {"step": "exact"}, "exact"), (host, ENCODER, "encoder")):
        model.config.activation_function = "relu"
        with pytest.raises(TransferError, match=f"step={name}: the donor's activation is gelu, the host's relu"):
            graft(rough_donor, model, tokenizers, texts, EMBEDDINGS, step)


@pytest.mark.parametrize("kind", ["mbart", "bart"])
def test_a_standardised_output(rough_donor: Any, bart: Any, host: Any, tokenizers: Any, texts: Any, kind: str) -> None:
    model, layers = (host, ENCODER) if kind == "mbart" else (bart, {"step": "exact"})
    step = {"step": "standardise", "tokens": 100_000}
    report = graft(rough_donor, model, tokenizers, texts, EMBEDDINGS, layers, step)
    vocabulary = align(*tokenizers)
    states = []
    longest = min(rough_donor.config.max_position_embeddings - 2, model.config.max_position_embeddings)
    with torch.no_grad():
        for ids in framed(texts[20:], vocabulary, longest):
            mapped = torch.from_numpy(vocabulary.to_host(ids))[None]
            states.append(model.eval().model.encoder(mapped).last_hidden_state[0])
    found = torch.cat(states)
    assert float(found.mean(0).abs().max()) < 1e-3
    assert torch.allclose(found.std(0, correction=0), torch.ones(found.shape[1]), atol=1e-2)
    assert any("rescaled on purpose" in warning for warning in report.warnings)


def test_the_shuffled_control_keeps_sizes_and_nothing_else(
    rough_donor: Any, host: Any, tokenizers: Any, texts: Any
) -> None:
    import copy

    other = copy.deepcopy(host)
    graft(rough_donor, other, tokenizers, texts, EMBEDDINGS, ENCODER)
    report = graft(rough_donor, host, tokenizers, texts, EMBEDDINGS, ENCODER, {"step": "shuffle"}, control=True)
    for (name, ours), theirs in zip(host.named_parameters(), other.parameters(), strict=True):
        if ".encoder.layers." not in name:
            assert torch.equal(ours, theirs), name
            continue
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values), name
        if ours.ndim > 1:
            assert not torch.equal(ours, theirs), name
    assert report.fidelity["after"]["cosine"] < 0.5
    fc1 = next(item for item in report.host_tensors if item.name.endswith("layers.0.fc1.weight"))
    assert fc1.step == "encoder + shuffle"
