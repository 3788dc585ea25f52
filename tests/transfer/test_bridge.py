from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.tokenizers import build_host_tokenizer
from graftlm.transfer.graft import Graft
from graftlm.transfer.report import Ledger
from graftlm.transfer.steps.bridge import Bridge, fit
from graftlm.transfer.strategy import check_steps
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights


@pytest.fixture
def stitched(donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any) -> Graft:
    """A graft into a host whose encoder has words of its own and LayerNorms that are not all ones at the end."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            if ("encoder." in name or "encoder_attn" in name) and parameter.ndim == 2:
                parameter.normal_(0, 0.3, generator=draw)
        host.model.encoder.layer_norm.weight.normal_(1, 0.3, generator=draw)
        host.model.encoder.layer_norm.bias.normal_(0, 0.3, generator=draw)
    host.model.encoder.embed_tokens = copy.deepcopy(host.model.encoder.embed_tokens)
    ledger = Ledger(ModelWeights(donor), ModelWeights(host), True)
    languages = ["en_XX" if index % 2 else "" for index in range(len(texts))]
    vocabulary = align(donor_tokenizer, host_tokenizer)
    return Graft.of_models(donor, host, vocabulary, ledger, calibration=texts, languages=languages)


def rotate(host: Any) -> None:
    """The same encoder in another basis. A rotation that leaves (1, …, 1) alone passes a plain LayerNorm."""
    width = host.config.d_model
    draw = torch.Generator().manual_seed(6)
    ones = torch.ones(width, 1) / width**0.5
    basis, _ = torch.linalg.qr(torch.cat([ones, torch.randn(width, width - 1, generator=draw)], 1))
    turned, _ = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=draw))
    inner = torch.block_diag(torch.ones(1, 1), turned)
    rotation = basis @ inner @ basis.T
    encoder = host.model.encoder
    with torch.no_grad():
        for table in (encoder.embed_tokens.weight, encoder.embed_positions.weight):
            table.copy_(table @ rotation.T)
        for layer in encoder.layers:
            attention = layer.self_attn
            for part in (attention.q_proj, attention.k_proj, attention.v_proj, layer.fc1):
                part.weight.copy_(part.weight @ rotation.T)
            for part in (attention.out_proj, layer.fc2):
                part.weight.copy_(rotation @ part.weight)
                part.bias.copy_(rotation @ part.bias)


def logits(host: Any, texts: Any, graft: Graft) -> torch.Tensor:
    ids = torch.from_numpy(graft.vocabulary.to_host(texts[3]))[None]
    with torch.no_grad():
        return host.eval()(input_ids=ids, decoder_input_ids=ids).logits


def test_a_rotated_encoder_is_read_as_the_old_one(stitched: Graft, texts: Any) -> None:
    host = stitched.host
    before = logits(host, texts, stitched)
    bridge = Bridge(tokens=4000, ridge=1e-10)
    bridge.prepare(stitched)
    rotate(host)
    broken = logits(host, texts, stitched)
    stitched.step = "bridge"
    bridge.apply(stitched)
    after = logits(host, texts, stitched)
    assert float((broken - before).norm() / before.norm()) > 0.05
    assert float((after - before).norm() / before.norm()) < 1e-4
    entry = stitched.ledger.host["model.decoder.layers.0.encoder_attn.k_proj.weight"]
    assert entry.status == "calibrated"
    assert "R² 1.000 on" in entry.note
    assert stitched.memory == {}
    assert {name for name, item in stitched.ledger.host.items() if item.step} == {
        f"model.decoder.layers.0.encoder_attn.{name}_proj.{kind}" for name in "kv" for kind in ("weight", "bias")
    }


def test_texts_are_read_as_fine_tuning_gives_them(stitched: Graft, host_tokenizer: Any) -> None:
    rows = Bridge(tokens=300, max_length=20)._rows(stitched)
    starts = {int(row[0]) for row in rows}
    assert starts == {host_tokenizer.convert_tokens_to_ids("en_XX"), stitched.vocabulary.roles["bos"][1]}
    assert {int(row[-1]) for row in rows} == {host_tokenizer.eos_token_id}
    assert max(map(len, rows)) == 20
    assert sum(map(len, rows)) <= 300
    again = Bridge(tokens=300, max_length=20)._rows(stitched)
    assert all(np.array_equal(one, other) for one, other in zip(rows, again, strict=True))


@pytest.mark.parametrize("format", ["mbart50", "cc25"])
def test_the_format_is_the_hosts(stitched: Graft, donor_tokenizer: Any, pieces: Any, format: Any) -> None:
    from graftlm.data.format import HostFormat

    tokenizer = build_host_tokenizer(pieces, format)
    stitched.vocabulary = align(donor_tokenizer, tokenizer)
    assert stitched.format == HostFormat.from_tokenizer(tokenizer)


def test_ridge_is_in_units_of_the_mean_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 6, generator=draw), torch.randn(200, 4, generator=draw)
    matrix, shift = fit(x, y, 0.3)
    centred = x.double() - x.double().mean(0)
    gram = centred.T @ centred
    gram += 0.3 * gram.diagonal().mean() * torch.eye(6)
    wanted = torch.linalg.inv(gram) @ centred.T @ y.double()
    assert torch.allclose(matrix.T, wanted)
    assert torch.allclose(x.double().mean(0) @ matrix.T + shift, y.double().mean(0))
    scaled, _ = fit(10 * x, y, 0.3)
    assert torch.allclose(10 * scaled, matrix)


def test_a_bridge_needs_a_new_encoder_before_it() -> None:
    (problem,) = check_steps([{"step": "bridge"}], "s")
    assert "bridge: needs a step before it that writes model.encoder.*" in str(problem)
    steps = [{"step": "embeddings"}, {"step": "encoder"}, {"step": "bridge"}]
    assert not list(check_steps(steps, "s"))
    (problem,) = check_steps([*steps[:2], {"step": "bridge", "text": "parallel"}], "s")
    assert "identical" in str(problem)
    # a cross-attention that is copied or drawn anew never read the old encoder
    written = [*steps[:2], {"step": "decoder"}, steps[2]]
    (problem,) = check_steps(written, "s")
    assert str(problem).startswith(
        "s[3].step=bridge: maps what the host's own cross-attention reads, which decoder has"
    )
    written[2] = {"step": "decoder", "cross_attention": "keep"}
    assert not list(check_steps(written, "s"))
