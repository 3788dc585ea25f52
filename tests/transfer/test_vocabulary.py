from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graftlm.data.languages import CODES
from graftlm.data.tokenizers import build_host_tokenizer
from graftlm.transfer.vocabulary import align


@pytest.fixture(params=["mbart50", "cc25"])
def format(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_id_has_the_same_string_or_the_same_role(donor_tokenizer: Any, pieces: Any, format: Any) -> None:
    host = build_host_tokenizer(pieces, format)
    vocabulary = align(donor_tokenizer, host)
    for host_id, donor_id in enumerate(vocabulary.donor_of):
        if donor_id >= 0:
            assert host.convert_ids_to_tokens(host_id) == donor_tokenizer.convert_ids_to_tokens(int(donor_id))
            assert vocabulary.host_of[donor_id] == host_id
    assert vocabulary.shared == len(donor_tokenizer)
    assert vocabulary.donor_only == 0
    assert vocabulary.host_only == len(CODES[format])


def test_mask_never_lands_on_a_language_code(donor_tokenizer: Any, pieces: Any, format: Any) -> None:
    host = build_host_tokenizer(pieces, format)
    vocabulary = align(donor_tokenizer, host)
    mask = donor_tokenizer.mask_token_id
    # by id it would: that is the trap
    assert host.convert_ids_to_tokens(mask) in CODES[format]
    assert vocabulary.host_of[mask] == host.mask_token_id
    assert all(vocabulary.donor_of[id_] == -1 for id_ in vocabulary.languages.values())
    assert set(vocabulary.languages) == set(CODES[format])


def test_a_piece_spelt_like_a_language_code_stays_out(pieces: Any) -> None:
    from transformers import XLMRobertaTokenizer

    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    donor = XLMRobertaTokenizer(vocab=[*special, ("de_DE", -3.0), *pieces, ("<mask>", 0.0)])
    vocabulary = align(donor, build_host_tokenizer(pieces, "mbart50"))
    assert vocabulary.host_of[4] == -1
    assert vocabulary.donor_only == 1


def test_unknown_tokens_become_unk(donor_tokenizer: Any, pieces: Any) -> None:
    host = build_host_tokenizer(pieces[:-5], "mbart50")
    vocabulary = align(donor_tokenizer, host)
    assert vocabulary.donor_only == 5
    gone = donor_tokenizer.convert_tokens_to_ids(pieces[-1][0])
    kept = donor_tokenizer.convert_tokens_to_ids(pieces[0][0])
    mapped = vocabulary.to_host(np.array([kept, gone]))
    assert mapped.tolist() == [host.convert_tokens_to_ids(pieces[0][0]), host.unk_token_id]


def test_shuffled_pieces_are_matched_by_string(donor_tokenizer: Any, pieces: Any) -> None:
    host = build_host_tokenizer(list(reversed(pieces)), "cc25")
    vocabulary = align(donor_tokenizer, host)
    token = pieces[7][0]
    assert vocabulary.host_of[donor_tokenizer.convert_tokens_to_ids(token)] == host.convert_tokens_to_ids(token)
    assert vocabulary.shared == len(donor_tokenizer)
