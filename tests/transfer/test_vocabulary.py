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


def byte_level(rows: Any) -> Any:
    """A tokenizer of BART's kind: byte-level BPE, words start with `Ġ`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    # enough of one letter beyond ASCII for its two bytes to become one token
    tokenizer.train_from_iterator([*(text.text for text in rows[1]), *["aßa oßo öß"] * 500], trainer)
    names = ("bos", "pad", "eos", "unk", "mask")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in zip(names, special, strict=True)}
    )


@pytest.mark.parametrize("bytes_at", ["donor", "host"])
def test_another_mark_of_word_starts_is_no_hindrance(donor_tokenizer: Any, rows: Any, bytes_at: str) -> None:
    other = byte_level(rows)
    pair = (other, donor_tokenizer) if bytes_at == "donor" else (donor_tokenizer, other)
    vocabulary = align(*pair)
    byte_ids = vocabulary.donor_of if bytes_at == "donor" else vocabulary.host_of
    matched = {int(id_): int(found) for id_, found in enumerate(byte_ids) if found >= 0}
    # here the key is an id of SentencePiece, the value one of bytes
    assert len(matched) > 40
    assert matched[donor_tokenizer.mask_token_id] == other.mask_token_id
    words = 0
    for piece, byte in matched.items():
        if piece in donor_tokenizer.all_special_ids:
            continue
        token = donor_tokenizer.convert_ids_to_tokens(piece)
        assert other.decode([byte]) == token.replace("▁", " ")
        words += token.startswith("▁")
    assert words > 3
    texts = [donor_tokenizer.convert_ids_to_tokens(piece).strip("▁") for piece in matched]
    assert any(not text.isascii() for text in texts), "beyond ASCII"
    # one to one
    assert len(set(matched.values())) == len(matched)
    for host_id, found in vocabulary.pieces.items():
        text = "".join(pair[0].convert_ids_to_tokens(list(found)))
        text = text if bytes_at == "host" else pair[0].decode(list(found)).replace(" ", "▁")
        assert text in vocabulary.strings[host_id] or len(found) < len(vocabulary.strings[host_id])
    assert any("".join(pair[0].convert_ids_to_tokens(list(found))) for found in vocabulary.pieces.values())


def test_word_piece_marks_what_goes_on() -> None:
    from graftlm.transfer.vocabulary import canonical, style_of

    assert style_of({"the": 0, "##se": 1, "##s": 2}) == "##"
    assert [canonical(token, "##") for token in ("the", "##se")] == ["▁the", "se"]
    assert [canonical(token, "Ġ") for token in ("Ġthe", "ÃŁ", "Ã", "<mask>")] == ["▁the", "ß", "<0xC3>", "<mask>"]


def test_nothing_more_is_kept_where_nothing_is_missing(donor_tokenizer: Any, host_tokenizer: Any) -> None:
    vocabulary = align(donor_tokenizer, host_tokenizer)
    assert not vocabulary.strings
    assert not vocabulary.pieces
