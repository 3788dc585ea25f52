from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.tokenizers import build_host_tokenizer
from graftlm.errors import TransferError
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.frames import framed
from graftlm.transfer.reading import Row, pairs
from graftlm.transfer.ridge import Normal
from graftlm.transfer.vocabulary import align


def graft(
    donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any, *steps: Any, **others: Any
) -> Any:
    settings = TransferSettings(name="mine", steps=list(steps), **others)
    return apply_strategy(settings, donor, host, donor_tokenizer, host_tokenizer, texts[20:], texts[:20], False)


@pytest.mark.parametrize("format", ["mbart50", "cc25"])
@pytest.mark.parametrize("scaled", [True, False])
def test_first_layer_reads_what_the_donors_reads(
    rough_donor: Any, donor_tokenizer: Any, pieces: Any, texts: Any, model_settings: Any, format: Any, scaled: bool
) -> None:
    tokenizer = build_host_tokenizer(pieces, format)
    host = build_host(dataclasses.replace(model_settings, format=format), tokenizer, rough_donor.config)
    if not scaled:
        host.config.scale_embedding = False
        for side in (host.model.encoder, host.model.decoder):
            side.embed_tokens.embed_scale = 1.0
    graft(rough_donor, host, donor_tokenizer, tokenizer, texts, {"step": "embeddings"})
    vocabulary = align(donor_tokenizer, tokenizer)
    ids = framed(texts[:1], vocabulary, 60)[0]
    mapped = torch.from_numpy(vocabulary.to_host(ids))[None]
    with torch.no_grad():
        block = rough_donor.roberta.embeddings
        wanted = block(torch.from_numpy(ids)[None])
        # the two LayerNorms add their epsilon to variances of another scale: what no common factor can mend
        rows = torch.arange(len(ids)) + 2
        summed = block.word_embeddings.weight[torch.from_numpy(ids)] + block.position_embeddings.weight[rows]
        spread = float((1 / (summed + block.token_type_embeddings.weight[0]).var(1, unbiased=False)).std())
        room = 1e-5 + block.LayerNorm.eps * spread
        side = host.model.decoder.eval()
        got = side.layernorm_embedding(side.embed_tokens(mapped) + side.embed_positions(mapped))
        assert float((got - wanted).norm() / wanted.norm()) < room < 1e-3
        # the encoder, in the host's own format: what is not of the text stands elsewhere in cc25
        (pair,) = pairs([Row(ids, "de_DE")], vocabulary)
        code, end = vocabulary.languages["de_DE"], tokenizer.eos_token_id
        text = mapped[0, 1:-1].tolist()
        assert pair.host[0].tolist() == ([code, *text, end] if format == "mbart50" else [*text, end, code])
        got = pair.embedded(host.model.encoder.eval())[pair.both]
        assert len(got) == len(ids) - 1
        wanted = wanted[pair.both]
        assert float((got - wanted).norm() / wanted.norm()) < room
        # the scale of the tied output is kept
        assert torch.equal(host.lm_head.weight[vocabulary.host_of[7]], rough_donor.lm_head.decoder.weight[7])
        bias = host.final_logits_bias[0]
        assert torch.equal(bias[host_mask(tokenizer)], rough_donor.lm_head.bias[donor_tokenizer.mask_token_id])


def host_mask(tokenizer: Any) -> int:
    return int(tokenizer.mask_token_id)


def test_language_codes_can_be_told_apart_and_are_not_the_mask(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, {"step": "embeddings"})
    rows = host.model.shared.weight.detach()
    codes = sorted(align(donor_tokenizer, host_tokenizer).languages.values())
    distances = torch.cdist(rows[codes], rows[codes])
    assert float(distances.fill_diagonal_(9).min()) > 0.01
    mask = rough_donor.roberta.embeddings.word_embeddings.weight[donor_tokenizer.mask_token_id]
    assert not any(torch.equal(rows[code], mask) for code in codes)
    assert torch.equal(rows[host_tokenizer.mask_token_id], mask)


def test_positions_past_the_donors_repeat_the_last_one(
    rough_donor: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any, model_settings: Any
) -> None:
    longer = dataclasses.replace(model_settings.host, max_positions=80)
    settings = dataclasses.replace(model_settings, host=longer)
    host = build_host(settings, host_tokenizer, rough_donor.config)
    report = graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, {"step": "embeddings"})
    table = host.model.encoder.embed_positions.weight
    assert len(table) == 82
    assert torch.equal(table[81], table[65])
    assert not torch.equal(table[64], table[65])
    note = next(item.note for item in report.host_tensors if item.name == "model.encoder.embed_positions.weight")
    assert "rows 66..81" in note


def test_calibration_carries_what_a_copy_does_not(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    untouched = copy.deepcopy(host)
    naive = graft(
        rough_donor, copy.deepcopy(host), donor_tokenizer, host_tokenizer, texts, {"step": "naive"}, control=True
    )
    both = [{"step": "embeddings"}, {"step": "encoder", "tokens": 8000}]
    report = graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, *both)
    before, after = report.fidelity["before"], report.fidelity["after"]
    assert naive.fidelity["before"] == before
    assert naive.fidelity["after"]["cosine"] < 0.5
    assert after["cosine"] > 0.95
    assert after["cka"] > 0.9
    assert after["relative_error"] < 0.3 < 0.8 < naive.fidelity["after"]["relative_error"]
    assert [entry["layer"] for entry in report.fidelity["layers"]] == [0, 1, 2]
    notes = {item.name: item.note for item in report.host_tensors}
    tokens = sum(len(row) for row in framed(texts[20:], align(donor_tokenizer, host_tokenizer), 64))
    used = int(re.fullmatch(r"on (\d+) tokens", notes["model.encoder.layers.0.self_attn.out_proj.weight"])[1])
    assert 8000 - 64 < used <= 8000 < tokens
    assert notes["model.encoder.layers.0.fc1.weight"] == ""
    # the figures are those of the host as it is now: measured again, apart from the strategy
    again = graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts)
    assert again.fidelity["before"] == pytest.approx(after)
    # the decoder's layers are not touched
    assert torch.equal(host.model.decoder.layers[0].fc1.weight, untouched.model.decoder.layers[0].fc1.weight)


def test_free_scales_beat_one_scale_where_tokens_differ_in_size(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    errors = {}
    for turns in (0, 4):
        step = {"step": "encoder", "tokens": 8000, "turns": turns}
        ours = copy.deepcopy(host)
        report = graft(rough_donor, ours, donor_tokenizer, host_tokenizer, texts, {"step": "embeddings"}, step)
        errors[turns] = report.fidelity["after"]["relative_error"]
    assert errors[4] < 0.95 * errors[0]


def test_one_scale_is_the_ridge_of_the_recipe(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    """The first output projection, solved again from the models' own forward passes."""
    step = {"step": "encoder", "tokens": 100_000, "turns": 0, "ridge": 0.05}
    graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, {"step": "embeddings"}, step)
    vocabulary = align(donor_tokenizer, host_tokenizer)
    layer, block = host.model.encoder.layers[0], rough_donor.roberta.encoder.layer[0].attention
    host.eval()
    features, sums, streams, inputs = [], [], [], []
    caught: dict[str, torch.Tensor] = {}
    handles = [
        layer.self_attn.out_proj.register_forward_pre_hook(lambda _, args: caught.update(a=args[0])),
        block.output.LayerNorm.register_forward_pre_hook(lambda _, args: caught.update(u=args[0])),
        layer.self_attn_layer_norm.register_forward_pre_hook(lambda _, args: caught.update(y=args[0])),
        block.self.register_forward_pre_hook(lambda _, args: caught.update(x=args[0])),
    ]
    with torch.no_grad():
        for row in framed(texts[20:], vocabulary, 64):
            rough_donor.roberta(torch.from_numpy(row)[None])
            host.model.encoder(torch.from_numpy(vocabulary.to_host(row))[None])
            for found, name in ((features, "a"), (sums, "u"), (streams, "y"), (inputs, "x")):
                found.append(caught[name][0])
    for handle in handles:
        handle.remove()
    a, u, y, x = (torch.cat(found).double() for found in (features, sums, streams, inputs))
    assert len(a) < 100_000, "all texts are used, so that both solve the same problem"
    alpha = (x * y).sum() / (x * x).sum()
    prior = alpha * torch.cat([block.output.dense.weight.T, block.output.dense.bias[None]]).double()
    a = torch.cat([a, torch.ones(len(a), 1, dtype=torch.float64)], 1)
    strength = torch.full((a.shape[1],), 0.05 * float((a.T @ a).diagonal()[:-1].mean()), dtype=torch.float64)
    strength[-1] = 0
    solution = prior + torch.linalg.solve(a.T @ a + strength.diag(), a.T @ (alpha * u - y - a @ prior))
    got = torch.cat([layer.self_attn.out_proj.weight.T, layer.self_attn.out_proj.bias[None]])
    assert float((got.detach() - solution).norm() / solution.norm()) < 1e-3


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_states_of_low_rank_are_solved_without_a_ridge_to_speak_of(scale: float) -> None:
    """Fewer tokens than features, all near a large common vector: float32 products leave nothing positive definite."""
    draw = torch.Generator().manual_seed(0)
    a = scale * (torch.randn(20, 3, generator=draw) @ torch.randn(3, 400, generator=draw) + 50)
    equations = Normal(400, 4)
    equations.add(a, torch.randn(20, 4, generator=draw), 1e8 * torch.rand(20, generator=draw))
    weight, bias = equations.solve((torch.zeros(4, 400), torch.zeros(4)), 1e-300)
    assert bool(torch.isfinite(weight).all())
    assert bool(torch.isfinite(bias).all())
    assert float((a @ weight.T + bias).abs().max()) < 100
    equations.gram[1, 2] = float("nan")
    with pytest.raises(TransferError, match="too large to calibrate on"):
        equations.solve((torch.zeros(4, 400), torch.zeros(4)), 0.1)


def test_the_input_map_is_an_option_and_is_accounted_for(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    step = {"step": "encoder", "tokens": 8000, "input_ridge": 0.1}
    report = graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, {"step": "embeddings"}, step)
    entry = next(item for item in report.host_tensors if item.name.endswith("encoder.layers.0.fc1.weight"))
    assert entry.status == "calibrated"
    assert report.fidelity["after"]["cosine"] > 0.9


def test_a_graft_is_deterministic_and_leaves_the_random_states_and_modes_alone(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    import random

    twin = copy.deepcopy(host)
    rough_donor.eval()
    host.train()
    host.model.encoder.layers[0].eval()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    steps = [{"step": "embeddings"}, {"step": "encoder", "tokens": 500}]
    graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, *steps)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert host.training
    assert not host.model.encoder.layers[0].training
    assert host.model.encoder.layers[1].training
    assert not rough_donor.training
    assert not any(module._forward_hooks for module in host.modules())
    torch.manual_seed(99)
    graft(rough_donor, twin, donor_tokenizer, host_tokenizer, texts, *steps)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in host.state_dict().items())


def test_naive_puts_the_mask_on_a_language_code(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    report = graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, {"step": "naive"}, control=True)
    mask = donor_tokenizer.mask_token_id
    row = host.model.shared.weight[mask]
    assert torch.equal(row, rough_donor.roberta.embeddings.word_embeddings.weight[mask])
    assert host_tokenizer.convert_ids_to_tokens(mask) == "ar_AR"
    assert report.control


def test_a_host_with_other_tokens_is_refused(
    rough_donor: Any, donor_tokenizer: Any, texts: Any, model_settings: Any
) -> None:
    others = [(f"▁other{index}", -5.0) for index in range(300)]
    tokenizer = build_host_tokenizer(others, "mbart50")
    host = build_host(model_settings, tokenizer, rough_donor.config)
    with pytest.raises(TransferError, match=r"transfer.steps\[0\].min_shared=0.5: only \d+% of the host's"):
        graft(rough_donor, host, donor_tokenizer, tokenizer, texts, {"step": "embeddings"})


def test_calibration_without_text_is_refused(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any
) -> None:
    with pytest.raises(TransferError, match="no calibration text"):
        graft(rough_donor, host, donor_tokenizer, host_tokenizer, [], {"step": "embeddings"}, {"step": "encoder"})


def test_a_random_decoder_over_carried_words_is_not_over_confident(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    """A trained decoder's gain would be left: it knows its own scale."""
    with torch.no_grad():
        rough_donor.roberta.embeddings.word_embeddings.weight.mul_(20)
    kept, trained = copy.deepcopy(host), copy.deepcopy(host)
    step = {"step": "embeddings"}
    graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, step)
    graft(rough_donor, kept, donor_tokenizer, host_tokenizer, texts, {**step, "output": "keep"})
    apply_strategy(
        TransferSettings(name="mine", steps=[step]), rough_donor, trained, donor_tokenizer, host_tokenizer,
        texts[20:], texts[:20], True,
    )  # fmt: skip
    vocabulary = align(donor_tokenizer, host_tokenizer)
    ids = torch.from_numpy(vocabulary.to_host(framed(texts[30:31], vocabulary, 60)[0]))[None]
    with torch.no_grad():
        spread, before = (
            float(model.eval().lm_head(model.model(ids, decoder_input_ids=ids).last_hidden_state).std(-1).mean())
            for model in (host, kept)
        )
    assert before > 2
    assert spread == pytest.approx(1, abs=0.3)
    assert torch.equal(trained.model.decoder.layer_norm.weight, torch.ones(32))
