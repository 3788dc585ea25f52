"""A model cut to some tokens says of them what the whole one says, and grows back without a bit lost."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.corpus import Corpus, write_corpus
from graftlm.data.tokenizers import pieces_of
from graftlm.errors import CheckpointError
from graftlm.models.build import build_donor, build_host, set_generation
from graftlm.models.expand import expand_folder
from graftlm.models.tied import untie
from graftlm.models.trim import TABLES, expand, trim


def rows_of(tokenizer: Any) -> np.ndarray:
    """The first four ids, every second piece, and all specials at the end (languages, mask)."""
    pieces = len(pieces_of(tokenizer))
    return np.asarray([*range(4), *range(4, 4 + pieces, 2), *range(4 + pieces, len(tokenizer))])


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits


def shaken(model: Any) -> Any:
    """Biases that are not zero, and everything a little other than before, as after training."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=draw))
    return model


@pytest.fixture(params=["donor", "host", "untied host", "bart"])
def full(request: pytest.FixtureRequest, donor: Any, host: Any, model_settings: Any, host_tokenizer: Any) -> Any:
    if request.param == "donor":
        return shaken(donor)
    if request.param == "bart":
        shape = dataclasses.replace(model_settings.host, architecture="bart")
        return shaken(build_host(dataclasses.replace(model_settings, host=shape), host_tokenizer, donor.config))
    if request.param == "untied host":
        host.config.tie_word_embeddings = False
        for name in TABLES:
            if name in host.state_dict() and name != "final_logits_bias":
                module = host.get_submodule(name.rpartition(".")[0])
                module.weight = torch.nn.Parameter(module.weight.detach().clone())
    return shaken(host)


@pytest.fixture
def kept(full: Any, donor_tokenizer: Any, host_tokenizer: Any) -> np.ndarray:
    return rows_of(host_tokenizer if full.config.is_encoder_decoder else donor_tokenizer)


def test_logits_of_kept_tokens_are_the_whole_models(full: Any, kept: np.ndarray, tmp_path: Path) -> None:
    places = torch.randint(0, len(kept), (3, 12), generator=torch.Generator().manual_seed(2))
    index = torch.as_tensor(kept)
    expected = logits(full, index[places])[..., index]
    small = trim(copy.deepcopy(full), kept)
    assert small.config.vocab_size == len(kept) == small.get_input_embeddings().num_embeddings
    torch.testing.assert_close(logits(small, places), expected, rtol=0, atol=1e-6)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, places), expected, rtol=0, atol=1e-6)


def test_what_was_tied_stays_tied(donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any) -> None:
    trim(donor, rows_of(donor_tokenizer))
    assert donor.lm_head.decoder.weight is donor.roberta.embeddings.word_embeddings.weight
    assert donor.lm_head.decoder.bias is donor.lm_head.bias
    trim(host, rows_of(host_tokenizer))
    shared = host.model.shared.weight
    assert host.lm_head.weight is shared
    assert host.model.encoder.embed_tokens.weight is shared
    assert host.model.decoder.embed_tokens.weight is shared
    assert shared.requires_grad
    assert len({id(item) for item in host.parameters()}) == len(list(host.parameters()))


def test_expanded_it_has_learnt_and_lost_nothing(full: Any, kept: np.ndarray) -> None:
    before = {name: tensor.clone() for name, tensor in full.state_dict().items()}
    small = shaken(trim(copy.deepcopy(full), kept))
    places = torch.randint(0, len(kept), (3, 12), generator=torch.Generator().manual_seed(2))
    index = torch.as_tensor(kept)
    grown = expand(small, copy.deepcopy(full), kept)
    torch.testing.assert_close(logits(grown, index[places])[..., index], logits(small, places), rtol=0, atol=1e-6)
    cut_off = torch.ones(full.config.vocab_size, dtype=torch.bool)
    cut_off[index] = False
    for name, tensor in grown.state_dict().items():
        if name not in TABLES:
            assert torch.equal(tensor, small.state_dict()[name]), name
            continue
        old, new = (table.reshape(full.config.vocab_size, -1) for table in (before[name], tensor))
        assert torch.equal(new[cut_off], old[cut_off]), name
        assert not torch.equal(new[index], old[index]), name


def test_a_host_untied_since_it_was_trimmed_grows_untied(host: Any, host_tokenizer: Any) -> None:
    kept = rows_of(host_tokenizer)
    small = trim(copy.deepcopy(host), kept)
    untie(small)
    shaken(small)
    places = torch.randint(0, len(kept), (3, 12), generator=torch.Generator().manual_seed(2))
    index = torch.as_tensor(kept)
    grown = expand(small, host, kept)
    torch.testing.assert_close(logits(grown, index[places])[..., index], logits(small, places), rtol=0, atol=1e-6)


def test_trim_and_expand_untrained_is_bit_identical(full: Any, kept: np.ndarray) -> None:
    small = trim(copy.deepcopy(full), kept)
    grown = expand(small, copy.deepcopy(full), kept)
    for name, tensor in full.state_dict().items():
        assert torch.equal(tensor, grown.state_dict()[name]), name


def test_special_ids_move_and_come_back(host: Any, host_tokenizer: Any) -> None:
    from graftlm.data.format import HostFormat

    format = HostFormat.from_tokenizer(host_tokenizer)
    set_generation(host, format, "de_DE")
    full = copy.deepcopy(host)
    rows = rows_of(host_tokenizer)
    small = trim(host, rows)
    german = format.languages["de_DE"]
    assert rows[small.generation_config.forced_bos_token_id] == german
    assert small.generation_config.decoder_start_token_id == 2 == small.config.decoder_start_token_id
    full.generation_config.forced_bos_token_id = None
    assert expand(small, full, rows).generation_config.forced_bos_token_id == german


def test_rows_that_cannot_be(donor: Any, host: Any) -> None:
    for rows, words in (([0, 1, 2, 3, 9999], "between"), ([0, 1, 2, 3, 3], "twice"), ([0, 2, 1, 3], "<pad>")):
        with pytest.raises(ValueError, match=words):
            trim(donor, np.asarray(rows))
    with pytest.raises(ValueError, match="no trimmed form"):
        expand(host, donor, np.arange(8))


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, _donor: Any, _host: Any, donor_tokenizer: Any, host_tokenizer: Any
) -> dict[str, str]:
    """Donor and host with their tokenizers, as folders."""
    places = {}
    for role, model, tokenizer in (("donor", _donor, donor_tokenizer), ("host", _host, host_tokenizer)):
        folder = tmp_path_factory.mktemp(role)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        places[role] = str(folder)
    return places


def test_a_trimmed_pair_from_checkpoints(
    checkpoints: dict[str, str], few_rows: Any, model_settings: Any, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        model_settings,
        vocab_size=None,
        trim=5,
        donor=dataclasses.replace(model_settings.donor, checkpoint=checkpoints["donor"]),
        host=dataclasses.replace(model_settings.host, checkpoint=checkpoints["host"]),
    )
    write_corpus(few_rows, settings, tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus")
    assert corpus.donor_rows is not None
    assert corpus.host_rows is not None
    donor = build_donor(settings, corpus.donor_tokenizer, corpus.donor_rows)
    host = build_host(settings, corpus.host_tokenizer, donor.config, corpus.host_rows)
    assert donor.config.vocab_size == len(corpus.donor_tokenizer) < corpus.summary["trimmed_from"]["donor"]
    assert host.config.vocab_size == len(corpus.host_tokenizer) < corpus.summary["trimmed_from"]["host"]
    whole = build_donor(dataclasses.replace(settings, trim=None), _tokenizer(checkpoints["donor"]))
    ids = torch.as_tensor(corpus.texts("train")[0].astype(np.int64))[None]
    old = torch.as_tensor(corpus.donor_rows)
    torch.testing.assert_close(logits(donor, ids), logits(whole, old[ids])[..., old], rtol=0, atol=1e-6)

    host.save_pretrained(tmp_path / "trained")
    expand_folder(tmp_path / "trained", checkpoints["host"], corpus.host_rows, tmp_path / "grown", host=True)
    before, after = (
        build_host(_with_host(settings, place), _tokenizer(checkpoints["host"], "host"), donor.config)
        for place in (checkpoints["host"], str(tmp_path / "grown"))
    )
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="cannot be trimmed"):
        build_donor(settings, corpus.donor_tokenizer, corpus.donor_rows + 10_000)


def test_a_host_that_is_built_has_the_trimmed_tokens(
    checkpoints: dict[str, str], few_rows: Any, model_settings: Any, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        model_settings,
        vocab_size=None,
        trim=0,
        donor=dataclasses.replace(model_settings.donor, checkpoint=checkpoints["donor"]),
    )
    write_corpus(few_rows, settings, tmp_path)
    corpus = Corpus(tmp_path)
    donor = build_donor(settings, corpus.donor_tokenizer, corpus.donor_rows)
    host = build_host(settings, corpus.host_tokenizer, donor.config, corpus.host_rows)
    assert host.config.vocab_size == len(corpus.host_tokenizer) == donor.config.vocab_size + 52


def _tokenizer(folder: str, kind: str = "donor") -> Any:
    from graftlm.data.tokenizers import load_tokenizer

    return load_tokenizer(folder, kind=kind)


def _with_host(settings: Any, checkpoint: str) -> Any:
    return dataclasses.replace(settings, host=dataclasses.replace(settings.host, checkpoint=checkpoint))
