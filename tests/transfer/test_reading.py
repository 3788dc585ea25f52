from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.tokenizers import build_host_tokenizer
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.fidelity import compare
from graftlm.transfer.graft import Graft
from graftlm.transfer.reading import Row, fitted_languages, paired, pairs
from graftlm.transfer.report import Ledger
from graftlm.transfer.steps.distill import Distill
from graftlm.transfer.steps.embeddings import Embeddings
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights

FORMATS = ("mbart50", "cc25")


@pytest.fixture(params=FORMATS)
def host_of(request: Any, pieces: Any, model_settings: Any, donor: Any) -> tuple[Any, Any]:
    """A host of either format, and its tokenizer."""
    tokenizer = build_host_tokenizer(pieces, request.param)
    torch.manual_seed(1)
    return build_host(dataclasses.replace(model_settings, format=request.param), tokenizer, donor.config), tokenizer


def test_states_of_the_host_are_put_into_the_donors_order(host_of: Any, donor_tokenizer: Any) -> None:
    tokenizer = host_of[1]
    vocabulary = align(donor_tokenizer, tokenizer)
    early = tokenizer.__class__.__name__ == "MBartTokenizer"
    rows = [Row(np.array([0, *text, 2]), lang) for text, lang in (((9, 8, 7), "de_DE"), ((9,), ""), ((6, 5), "xx_XX"))]
    (pair,) = pairs(rows, vocabulary)
    # sorted by length; `<s>` stands for a language that the host is not told or does not know
    start, codes = vocabulary.roles["bos"][1], [vocabulary.roles["bos"][1], vocabulary.roles["bos"][1]]
    codes.append(vocabulary.languages["de_DE"])
    for row, (text, code) in enumerate(zip(((9,), (6, 5), (9, 8, 7)), codes, strict=True)):
        mapped, end = vocabulary.to_host(np.array(text)).tolist(), tokenizer.eos_token_id
        wanted = [*mapped, end, code] if early else [code, *mapped, end]
        assert pair.host[row].tolist() == wanted + [tokenizer.pad_token_id] * (3 - len(text))
        ordered = pair.aligned(pair.host[..., None])[row, :, 0].tolist()
        assert ordered[: len(wanted)] == [code, *mapped, end]
        both = [code == start and not early, *[True] * (len(text) + 1)]
        assert pair.both[row].tolist() == both + [False] * (3 - len(text))
    assert pair.real.sum().item() == 3 + 4 + 5


def test_a_host_without_language_codes_reads_what_the_donor_reads(donor_tokenizer: Any) -> None:
    """BART's own tokenizer has none."""
    vocabulary = align(donor_tokenizer, donor_tokenizer)
    ids = np.array([[0, 9, 8, 2]])
    pair = paired(ids, np.ones_like(ids, dtype=bool), [""], vocabulary)
    assert pair.host.tolist() == ids.tolist()
    assert pair.places is None
    assert bool(pair.both.all())


@pytest.mark.parametrize("steps", [["encoder"], ["encoder", "distill"]])
def test_a_calibrated_host_works_in_its_own_format(
    rough_donor: Any, host_of: Any, donor_tokenizer: Any, texts: Any, rows: Any, steps: list[str]
) -> None:
    """Measured by hand on what fine-tuning gives the host: cc25 had its tokens one position early."""
    host, tokenizer = host_of
    languages = [text.lang for text in rows[1]]
    settings = {"encoder": {"tokens": 3000}, "distill": {"steps": 20, "batch_tokens": 512}}
    strategy = TransferSettings(
        "mine", steps=[{"step": "embeddings"}, *({"step": step, **settings[step]} for step in steps)]
    )
    report = apply_strategy(
        strategy,
        rough_donor,
        host,
        donor_tokenizer,
        tokenizer,
        texts[40:],
        texts[:40],
        False,
        languages=languages[40:],
        held_out_languages=languages[:40],
    )
    vocabulary = align(donor_tokenizer, tokenizer)
    format = vocabulary.format
    host.eval()
    found, wanted = [], []
    with torch.no_grad():
        for text, language in zip(texts[:40], languages[:40], strict=True):
            ids = torch.from_numpy(np.array([0, *text[:62], 2]))[None]
            source = torch.tensor([format.source(vocabulary.to_host(text[:62]).tolist(), language, 64)])
            wanted.append(rough_donor.roberta(ids).last_hidden_state[0, 1:])
            states = host.model.encoder(source).last_hidden_state[0]
            found.append(states[format.first_place :][: len(wanted[-1])])
    ours, theirs = torch.cat(found), torch.cat(wanted)
    cosine = float(torch.nn.functional.cosine_similarity(ours, theirs).mean())
    assert report.fidelity is not None
    assert report.fidelity["tokens"] == len(ours)
    assert report.fidelity["after"]["cosine"] == pytest.approx(cosine, abs=1e-4)
    print(steps, format.kind, cosine)
    assert cosine > 0.93


def test_fidelity_hears_the_language(donor: Any, host_of: Any, donor_tokenizer: Any, texts: Any) -> None:
    host, tokenizer = host_of
    vocabulary = align(donor_tokenizer, tokenizer)
    known = compare(donor, host, vocabulary, texts[:5], languages=["de_DE"] * 5)
    unknown = compare(donor, host, vocabulary, texts[:5])
    extra = 5 if vocabulary.format.first_place else 0
    assert unknown["tokens"] - known["tokens"] == extra
    assert unknown["last"]["cosine"] != known["last"]["cosine"]


def test_what_a_fit_gives_mbart50_is_the_donors_start(
    donor: Any, host_of: Any, donor_tokenizer: Any, texts: Any
) -> None:
    host, tokenizer = host_of
    vocabulary = align(donor_tokenizer, tokenizer)
    ledger = Ledger(ModelWeights(donor), ModelWeights(host), False)
    graft = Graft.of_models(donor, host, vocabulary, ledger, calibration=texts[:2], languages=["de_DE", ""])
    told = fitted_languages(graft, [1, 0])
    assert told == (["", ""] if vocabulary.format.first_place else ["", "de_DE"])


def test_the_language_token_is_read_but_not_fitted(
    rough_donor: Any, host_of: Any, donor_tokenizer: Any, texts: Any
) -> None:
    """Its value reaches the fit through attention alone; of mBART-50 `<s>` is a token like the others."""
    from graftlm.transfer.calibrate import _start, choose_texts
    from graftlm.transfer.growth import Growth

    host, tokenizer = host_of
    vocabulary = align(donor_tokenizer, tokenizer)
    ledger = Ledger(ModelWeights(rough_donor), ModelWeights(host), False)
    graft = Graft.of_models(rough_donor, host, vocabulary, ledger, calibration=texts[:9], languages=["de_DE"] * 9)
    Embeddings().apply(graft)
    with torch.no_grad():
        streams = _start(graft, choose_texts(graft, 10_000, 60, 0), Growth.between(rough_donor.config, host.config))
    for batch in streams:
        if vocabulary.format.first_place:
            assert torch.equal(batch.fitted, batch.real)
            assert torch.allclose(batch.x[batch.real], batch.y[batch.real], atol=5e-3)
        else:
            assert not bool(batch.fitted[:, 0].any())
            assert torch.equal(batch.fitted[:, 1:], batch.real[:, 1:])
            assert torch.allclose(batch.x[batch.fitted], batch.y[batch.fitted], atol=5e-3)
            assert not torch.allclose(batch.x[:, 0], batch.y[:, 0], atol=1e-1)
    assert streams
    before = copy.deepcopy(host.state_dict())
    from graftlm.transfer.distillation import distill

    distill(graft, Distill(steps=2, batch_tokens=128))
    assert all(torch.equal(before[name], value) for name, value in host.state_dict().items())
