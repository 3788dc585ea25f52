"""Hosts of another size than the donor: wider, deeper, with more units, with fewer layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from graftlm.errors import TransferError
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.layers import choose, places

STEPS = ({"step": "embeddings"}, {"step": "encoder", "tokens": 2000})


def grafted(donor: Any, tokenizers: tuple[Any, Any], texts: Any, model: Any, *steps: Any, **sizes: Any) -> Any:
    """A host of these sizes with the donor in it, and the report."""
    settings = dataclasses.replace(model, host=dataclasses.replace(model.host, **sizes))
    torch.manual_seed(0)
    host = build_host(settings, tokenizers[1], donor.config).eval()
    strategy = TransferSettings("mine", steps=list(steps or STEPS))
    report = apply_strategy(strategy, donor, host, *tokenizers, texts[20:], texts[:20], False)
    return host, report


def states(host: Any, width: int) -> torch.Tensor:
    ids = torch.arange(4, 60).view(4, 14)
    with torch.no_grad():
        return host.model.encoder(input_ids=ids).last_hidden_state[..., :width]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture
def tokenizers(donor_tokenizer: Any, host_tokenizer: Any) -> tuple[Any, Any]:
    return donor_tokenizer, host_tokenizer


def test_choices_of_layers() -> None:
    assert choose(24, 12) == list(range(1, 24, 2))
    assert choose(12, 4) == [2, 5, 8, 11]
    assert choose(24, 12, "first") == list(range(12))
    assert choose(24, 12, "last") == list(range(12, 24))
    assert choose(24, 12, "ends") == [*range(6), *range(18, 24)]
    assert choose(5, 3, "ends") == [0, 1, 4]
    assert choose(2, 4) == [0, 1]
    assert places(2, 4) == [(0, False), (0, True), (1, False), (1, True)]
    assert places(2, 4, "stack") == [(0, False), (1, False), (0, True), (1, True)]
    for donor, host in ((2, 3), (12, 24), (5, 7)):
        for more in ("each", "stack"):
            found = places(donor, host, more)
            assert len(found) == host
            assert [layer for layer, extra in found if not extra] == list(range(donor))


@pytest.mark.parametrize("more", ["each", "stack"])
def test_a_deeper_host_computes_what_one_of_the_donors_depth_does(
    rough_donor: Any, tokenizers: Any, texts: Any, model_settings: Any, more: str
) -> None:
    same, _ = grafted(rough_donor, tokenizers, texts, model_settings)
    steps = ({"step": "embeddings"}, {"step": "encoder", "tokens": 2000, "more": more})
    deep, report = grafted(rough_donor, tokenizers, texts, model_settings, *steps, encoder_layers=4)
    assert len(deep.model.encoder.layers) == 4
    width = rough_donor.config.hidden_size
    assert relative(states(deep, width), states(same, width)) < 1e-5
    extra = [item for item in report.host_tensors if "an extra layer" in item.note]
    assert len(extra) == 8  # weight and bias of two projections of two layers
    # the other maps are the donor's, so that the layer has something to begin from
    copied = deep.model.encoder.layers[2 if more == "stack" else 1].fc1.weight
    assert torch.equal(copied, rough_donor.roberta.encoder.layer[0].intermediate.dense.weight)


@pytest.mark.parametrize(
    "sizes",
    [{"d_model": 48, "heads": 3}, {"d_model": 48, "heads": 3, "ffn": 96}, {"ffn": 96}, {"d_model": 64, "heads": 4}],
)
def test_a_wider_host_computes_what_one_of_the_donors_width_does(
    rough_donor: Any, tokenizers: Any, texts: Any, model_settings: Any, sizes: dict[str, int]
) -> None:
    width = rough_donor.config.hidden_size
    same, _ = grafted(rough_donor, tokenizers, texts, model_settings)
    wide, report = grafted(rough_donor, tokenizers, texts, model_settings, **sizes)
    # inside the encoder it is exact; the embedding block's rest adds a little to the variance of a token
    assert relative(states(wide, width), states(same, width)) < (0.02 if "d_model" in sizes else 1e-5)
    assert report.fidelity["after"]["cosine"] > 0.97
    left = [item.name for item in report.host_tensors if item.status == "initialised"]
    assert all(name.startswith(("model.decoder.layers", "model.decoder.layer_norm")) for name in left)


@pytest.mark.parametrize("fewer", ["spread", "first", "last", "ends"])
def test_a_shallower_host_works_far_more_like_the_donor_than_before(
    rough_donor: Any, tokenizers: Any, texts: Any, model_settings: Any, fewer: str
) -> None:
    steps = ({"step": "embeddings"}, {"step": "encoder", "tokens": 2000, "fewer": fewer})
    host, report = grafted(rough_donor, tokenizers, texts, model_settings, *steps, encoder_layers=1)
    assert len(host.model.encoder.layers) == 1
    assert report.fidelity["after"]["cosine"] > report.fidelity["before"]["cosine"] + 0.3
    chosen = choose(2, 1, fewer)[0]
    (query,) = [item for item in report.host_tensors if item.name == "model.encoder.layers.0.self_attn.q_proj.weight"]
    assert query.source == f"roberta.encoder.layer.{chosen}.attention.self.query.weight"
    unused = {item.name for item in report.donor_tensors if item.status == "unused"}
    assert not any(".attention.self.query" in name for name in unused)  # the skipped layer was run to fit its gap


@pytest.mark.parametrize(
    ("sizes", "words"),
    [({"d_model": 48, "heads": 2}, "heads of the donor's 16"), ({"ffn": 32}, "at least the donor's 64")],
)
def test_sizes_that_cannot_be_grown_are_refused(
    rough_donor: Any, tokenizers: Any, texts: Any, model_settings: Any, sizes: dict[str, int], words: str
) -> None:
    with pytest.raises(TransferError, match=words):
        grafted(rough_donor, tokenizers, texts, model_settings, **sizes)


def test_copies_of_heads_and_units_part_in_training(
    rough_donor: Any, tokenizers: Any, texts: Any, model_settings: Any
) -> None:
    """With like shares of the columns they would have like gradients, and stay one unit for good."""
    denoise = {"step": "denoise", "steps": 8, "batch_tokens": 256, "encoder_lr": 1.0, "language": "en_XX"}
    wide, _ = grafted(
        rough_donor, tokenizers, texts, model_settings, *STEPS, denoise, d_model=48, heads=3, ffn=96, dropout=0.0
    )
    layer = wide.model.encoder.layers[0]
    assert float((layer.fc1.weight[:32] - layer.fc1.weight[64:]).detach().abs().max()) > 1e-3
    value = layer.self_attn.v_proj.weight  # the third head is a copy of the first
    assert float((value[:16] - value[32:]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize(("width", "heads"), [(48, 3), (64, 4), (96, 6)])
def test_what_is_new_in_the_embeddings_is_their_mean_and_is_not_standardised(
    rough_donor: Any, tokenizers: Any, texts: Any, model_settings: Any, width: int, heads: int
) -> None:
    steps = (*STEPS, {"step": "standardise"})
    wide, report = grafted(rough_donor, tokenizers, texts, model_settings, *steps, d_model=width, heads=heads)
    narrow = rough_donor.config.hidden_size
    encoder = wide.model.encoder
    ids = torch.arange(4, 60).view(4, 14)
    with torch.no_grad():
        read = encoder.layernorm_embedding(encoder.embed_tokens(ids) + encoder.embed_positions(ids))
        output = encoder(input_ids=ids).last_hidden_state
    assert torch.allclose(
        read[..., narrow:], read[..., :narrow].mean(-1, keepdim=True).expand(4, 14, width - narrow), atol=1e-5
    )
    assert float(output[..., narrow:].abs().max()) < 0.05  # nothing but rounding, which no gain has made large
    assert report.fidelity["after"]["cka"] > 0.9
