from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from graftlm.transfer.fidelity import Comparison, compare
from graftlm.transfer.frames import batches, framed
from graftlm.transfer.vocabulary import align


def figures(ours: torch.Tensor, theirs: torch.Tensor, parts: int = 1) -> dict[str, Any]:
    comparison = Comparison()
    for a, b in zip(ours.chunk(parts), theirs.chunk(parts), strict=True):
        comparison.add(a, b)
    return comparison.figures()


def test_cka_equals_its_definition_and_does_not_depend_on_chunks() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(400, 12, generator=draw) + 100
    b = a @ torch.randn(12, 12, generator=draw) + torch.randn(400, 12, generator=draw)
    center = torch.eye(400, dtype=torch.float64) - 1 / 400
    ka, kb = (center @ m.double() @ m.double().T @ center for m in (a, b))
    wanted = float((ka * kb).sum() / (ka.norm() * kb.norm()))
    assert figures(a, b)["cka"] == pytest.approx(wanted, abs=1e-4)
    assert figures(a, b, 7) == pytest.approx(figures(a, b), abs=1e-4)


def test_figures_of_like_and_unlike_states() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3000, 8, generator=draw)
    assert figures(a, a) == pytest.approx({"cka": 1.0, "cosine": 1.0, "relative_error": 0.0}, abs=1e-5)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw))[0]
    turned = figures(3 * a @ turn, a)
    assert turned["cka"] == pytest.approx(1, abs=1e-5)
    assert abs(turned["cosine"]) < 0.9
    assert figures(torch.randn(3000, 8, generator=draw), a)["cka"] < 0.05
    assert figures(1.5 * a, a)["relative_error"] == pytest.approx(0.5, abs=1e-5)


def test_other_widths_and_constant_states_give_null() -> None:
    a = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    narrow = figures(a[:, :4], a)
    assert narrow["cosine"] is None
    assert narrow["relative_error"] is None
    assert 0 < narrow["cka"] <= 1
    assert figures(torch.ones(50, 8), a)["cka"] is None
    assert Comparison().figures() == {"cka": None, "cosine": None, "relative_error": None}


def test_batches_hold_each_row_once_with_its_own_mask() -> None:
    rows = [np.arange(5, 5 + length) for length in (3, 9, 1, 9, 30, 2)]
    seen = []
    for ids, mask in batches(rows, pad=1, tokens=20):
        assert ids.size <= 20 or len(ids) == 1
        assert (ids[~mask] == 1).all()
        seen += [tuple(row[keep]) for row, keep in zip(ids, mask, strict=True)]
    assert sorted(seen) == sorted(tuple(row) for row in rows)


def test_padding_and_grouping_do_not_change_the_comparison(
    donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    vocabulary = align(donor_tokenizer, host_tokenizer)
    together = compare(donor, host, vocabulary, texts[:12])
    assert together["texts"] == 12
    assert together["tokens"] == sum(len(row) for row in framed(texts[:12], vocabulary, 64))
    comparison = Comparison()
    donor.eval()
    host.eval()
    with torch.no_grad():
        for row in framed(texts[:12], vocabulary, 64):
            theirs = donor.roberta(torch.from_numpy(row)[None]).last_hidden_state[0]
            ours = host.model.encoder(torch.from_numpy(vocabulary.to_host(row))[None]).last_hidden_state[0]
            comparison.add(ours, theirs)
    assert together["last"] == pytest.approx(comparison.figures(), rel=1e-3)
    assert len(together["layers"]) == 3


def test_texts_are_cut_and_empty_ones_left_out(donor_tokenizer: Any, host_tokenizer: Any) -> None:
    vocabulary = align(donor_tokenizer, host_tokenizer)
    rows = framed([np.arange(10, 40), np.array([], dtype=int)], vocabulary, 10)
    assert [len(row) for row in rows] == [10]
    assert rows[0][0] == donor_tokenizer.bos_token_id
    assert rows[0][-1] == donor_tokenizer.eos_token_id


def test_variation_of_the_donors_layer_norms(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any
) -> None:
    """σ over the dimensions of each token at a LayerNorm's input, all tokens of all batches; γ over the dimensions."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 60, size=length) for length in (30, 4, 17, 30, 9)]
    seen: list[torch.Tensor] = []
    norm = rough_donor.roberta.encoder.layer[1].output.LayerNorm
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()[0].std(-1, correction=0)))
    with torch.no_grad():
        for ids in framed(texts, align(donor_tokenizer, host_tokenizer), 64):
            rough_donor.roberta(input_ids=torch.from_numpy(ids)[None])
    handle.remove()
    norms = compare(rough_donor, host, align(donor_tokenizer, host_tokenizer), texts)["norms"]
    assert [row["layer"] for row in norms] == [0, 1]
    sigma = torch.cat(seen)
    assert len(sigma) == sum(len(text) + 2 for text in texts)
    assert norms[1]["ffn_sigma_cv"] == pytest.approx(float(sigma.std(correction=0) / sigma.mean()), rel=1e-4)
    assert norms[0]["ffn_sigma_cv"] > 1.5 * norms[0]["attention_sigma_cv"]  # two neurons of layer 0 blow tokens up
    gamma = norm.weight.detach()
    assert norms[1]["ffn_gamma_cv"] == pytest.approx(float(gamma.std(correction=0) / gamma.mean().abs()), rel=1e-4)
    assert not norm._forward_pre_hooks
