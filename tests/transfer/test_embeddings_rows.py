"""Rows that the donor lacks: language codes and tokens without a twin."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.tokenizers import build_host_tokenizer
from graftlm.errors import TransferError
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.tokens import sparsemax
from graftlm.transfer.vocabulary import align

EXTRA = ["▁gardenhouse", "rses", "▁finden", "ǂǂǂ"]


@pytest.fixture
def tokenizer(pieces: Any) -> Any:
    """A host's, with four tokens that the donor lacks among the others."""
    return build_host_tokenizer([*pieces[:5], *((text, -9.0) for text in EXTRA), *pieces[5:]], "mbart50")


@pytest.fixture
def wider(model_settings: Any, tokenizer: Any, rough_donor: Any) -> Any:
    torch.manual_seed(5)
    return build_host(model_settings, tokenizer, rough_donor.config)


def graft(
    donor: Any, host: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any, pretrained: bool = False,
    codes: Any = (), **step: Any,
) -> str:  # fmt: skip
    """The note on the words."""
    settings = TransferSettings(name="mine", steps=[{"step": "embeddings", "output": "keep", **step}])
    report = apply_strategy(
        settings, donor, host, donor_tokenizer, tokenizer, texts[20:], texts[:20], pretrained, languages=codes
    )
    return next(item.note for item in report.host_tensors if item.name == "model.shared.weight")


def words(donor: Any) -> Any:
    return donor.roberta.embeddings.word_embeddings.weight.detach()


def ids_of(tokenizer: Any, *tokens: str) -> list[int]:
    return [int(id_) for id_ in tokenizer.convert_tokens_to_ids(list(tokens))]


def test_pieces_give_their_mean_and_what_has_none_the_mean_of_all(
    rough_donor: Any, wider: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any
) -> None:
    note = graft(rough_donor, wider, donor_tokenizer, tokenizer, texts, missing="pieces")
    assert "3 unknown tokens from the mean of their pieces" in note
    assert "1 from the mean, for want of any" in note
    table, rows = words(rough_donor), wider.model.shared.weight.detach()
    # the donor's tokenizer splits a whole word as it splits this token
    split = donor_tokenizer("gardenhouse", add_special_tokens=False)["input_ids"]
    assert len(split) > 1
    assert torch.allclose(rows[ids_of(tokenizer, "▁gardenhouse")[0]], table[split].mean(0), atol=1e-6)
    # the inside of a word gets no word start
    inside = align(donor_tokenizer, tokenizer).pieces[ids_of(tokenizer, "rses")[0]]
    assert "".join(donor_tokenizer.convert_ids_to_tokens(list(inside))) == "rses"
    shared = [id_ for id_ in align(donor_tokenizer, tokenizer).donor_of if id_ >= 0]
    assert torch.allclose(rows[ids_of(tokenizer, "ǂǂǂ")[0]], table[shared].mean(0), atol=1e-5)


def test_focus_takes_near_tokens_by_their_letters_where_the_host_is_not_trained(
    rough_donor: Any, wider: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any
) -> None:
    note = graft(rough_donor, wider, donor_tokenizer, tokenizer, texts, missing="focus", k=5)
    assert "3 unknown tokens by focus in the space of character n-grams (k=5), 1 from the mean" in note
    table, rows = words(rough_donor), wider.model.shared.weight.detach()
    got = rows[ids_of(tokenizer, "▁finden")[0]]
    near = donor_tokenizer.convert_tokens_to_ids("▁find")
    assert near != donor_tokenizer.unk_token_id
    best = torch.nn.functional.cosine_similarity(table, got[None]).argmax()
    assert int(best) == near


def test_focus_takes_near_rows_where_the_host_is_trained(
    rough_donor: Any, wider: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any
) -> None:
    one, other = ids_of(tokenizer, "▁find", "ouse")
    row = ids_of(tokenizer, "ǂǂǂ")[0]
    with torch.no_grad():
        own = wider.model.shared.weight
        own[row] = own[one] / own[one].norm() + own[other] / own[other].norm()
    note = graft(rough_donor, wider, donor_tokenizer, tokenizer, texts, True, missing="focus", k=2)
    assert "4 unknown tokens by focus in the space of the host's own rows" in note
    donor_of = align(donor_tokenizer, tokenizer).donor_of
    wanted = words(rough_donor)[donor_of[[one, other]]].mean(0)
    assert torch.allclose(wider.model.shared.weight.detach()[row], wanted, atol=1e-5)


def test_omp_finds_the_combination_in_the_hosts_space_and_applies_it_to_the_donors_rows(
    rough_donor: Any, wider: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any
) -> None:
    one, other, third = ids_of(tokenizer, "▁find", "ouse", "ver")
    row = ids_of(tokenizer, "ǂǂǂ")[0]
    share = torch.tensor([0.9, -0.6, 0.4])
    with torch.no_grad():
        # rows of very different length, which must not decide
        wider.model.shared.weight.mul_(torch.rand(len(wider.model.shared.weight), 1) * 3 + 0.1)
        wider.model.shared.weight[row] = share @ torch.nn.functional.normalize(
            wider.model.shared.weight[[one, other, third]]
        )
        share = share / wider.model.shared.weight[[one, other, third]].norm(dim=1)
    # greedy picks need not be the three at once; as many more as there are dimensions are exact in the host's space
    note = graft(rough_donor, wider, donor_tokenizer, tokenizer, texts, True, missing="omp", k=6)
    assert "4 unknown tokens by omp (k=6; mean relative error 0." in note
    donor_of = align(donor_tokenizer, tokenizer).donor_of
    wanted = share @ words(rough_donor)[donor_of[[one, other, third]]]
    assert torch.allclose(wider.model.shared.weight.detach()[row], wanted, atol=1e-4)


def test_omp_needs_a_trained_host(
    rough_donor: Any, wider: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any
) -> None:
    with pytest.raises(TransferError, match=r"transfer.steps\[0\].missing=omp: needs trained rows of the host"):
        graft(rough_donor, wider, donor_tokenizer, tokenizer, texts, missing="omp")


@pytest.mark.parametrize("missing", ["keep", "mean"])
def test_other_tokens_are_left_or_get_the_mean(
    rough_donor: Any, wider: Any, donor_tokenizer: Any, tokenizer: Any, texts: Any, missing: str
) -> None:
    before = wider.model.shared.weight.detach().clone()
    note = graft(rough_donor, wider, donor_tokenizer, tokenizer, texts, missing=missing)
    assert f"4 unknown tokens {'left' if missing == 'keep' else 'from the mean'}" in note
    rows = ids_of(tokenizer, *EXTRA)
    assert torch.equal(wider.model.shared.weight[rows], before[rows]) == (missing == "keep")


def test_a_language_code_is_the_mean_of_its_languages_tokens(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any, rows: Any
) -> None:
    codes = [text.lang for text in rows[1]][20:]
    step = {"languages": "language", "spread": 0.0}
    note = graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, codes=codes, **step)
    assert "2 language codes from the mean of their language's tokens" in note
    assert "50 language codes from <s>, without calibration text" in note
    counts = Counter(int(id_) for text, code in zip(texts[20:], codes, strict=True) if code == "de_DE" for id_ in text)
    weights = torch.tensor(list(counts.values()), dtype=torch.float32)
    wanted = (weights / weights.sum()) @ words(rough_donor)[list(counts)]
    german, french = ids_of(host_tokenizer, "de_DE", "fr_XX")
    got = host.model.shared.weight.detach()
    assert torch.allclose(got[german], wanted, atol=1e-5)
    assert torch.equal(got[french], words(rough_donor)[donor_tokenizer.bos_token_id])


def test_languages_that_no_text_is_known_to_be_in_are_refused(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any
) -> None:
    for codes in ((), [""] * len(texts[20:])):
        with pytest.raises(
            TransferError, match=r"steps\[0\].languages=language: no calibration text is known to be in"
        ):
            graft(rough_donor, host, donor_tokenizer, host_tokenizer, texts, codes=codes, languages="language")


def test_the_gain_of_the_output_is_measured_within_the_hosts_positions(
    rough_donor: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any, model_settings: Any
) -> None:
    short = dataclasses.replace(model_settings, host=dataclasses.replace(model_settings.host, max_positions=16))
    host = build_host(short, host_tokenizer, rough_donor.config)
    longest = [np.concatenate([*texts[:8]]), *texts[20:]]
    settings = TransferSettings(name="mine", steps=[{"step": "embeddings"}])
    report = apply_strategy(settings, rough_donor, host, donor_tokenizer, host_tokenizer, longest, texts[:20], False)
    norm = next(item for item in report.host_tensors if item.name == "model.decoder.layer_norm.weight")
    assert "logits of unit variance" in norm.note


def test_sparsemax_is_the_projection_onto_the_simplex() -> None:
    scores = np.random.default_rng(0).normal(0, 1, (50, 9))
    scores[3, 4:] = -np.inf
    weights = sparsemax(scores)
    assert np.allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    assert (weights[3, 4:] == 0).all()
    # the projection is optimal: no mass moved between two entries comes closer
    finite = scores[[row for row in range(50) if row != 3]]
    best = weights[[row for row in range(50) if row != 3]]
    distance = np.square(finite - best).sum(1)
    for a in range(9):
        for b in range(9):
            moved = best.copy()
            step = np.minimum(moved[:, a], 1e-3)
            moved[:, a] -= step
            moved[:, b] += step
            assert (np.square(finite - moved).sum(1) >= distance - 1e-12).all()
