"""Words encoded once give the ids of the whole texts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftlm.data import encoding
from graftlm.data.encoding import Encoder
from graftlm.data.tokenizers import build_host_tokenizer, encode

AWKWARD = [
    "",
    "  ",
    "The dog  sees\tthe cat.\nThe dog.",
    "a<mask>b and en_XX and </s>",
    "a \u0301b",  # a combining mark after a space
    "\u0600 1 \u0d4e x",  # letters that join what follows
    "x \u200d y\u200b z",
    "\U0001f468 \U0001f3fd",
    "ﬁne ½ ´ ¨ \u00a0 \u3000 ａｂｃ",
    "é e\u0301 \u1112\u1161\u11ab 한",
    "\ufeffThe dog",
]


def encoded(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(texts)
    assert len(ids) == lengths.sum()
    ends = lengths.cumsum()
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


@pytest.fixture(scope="module")
def rows_of_text(rows: Any) -> list[str]:
    return [row.text for row in rows[1]]


@pytest.fixture(params=["donor", "mbart50", "cc25"])
def tokenizer(request: pytest.FixtureRequest, pieces: Any, donor_tokenizer: Any) -> Any:
    return donor_tokenizer if request.param == "donor" else build_host_tokenizer(pieces, request.param)


def test_the_same_ids(tokenizer: Any, rows_of_text: list[str]) -> None:
    encoder = Encoder(tokenizer)
    assert encoder._by_words
    for some in (rows_of_text[:40], AWKWARD, rows_of_text[20:], AWKWARD[::-1], []):
        assert encoded(encoder, some) == encode(tokenizer, some)


def test_a_real_normaliser(donor_tokenizer: Any) -> None:
    """Compositions across a space would show: NFKC makes of ´ a space and a combining mark."""
    from tokenizers import normalizers

    donor_tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    try:
        assert encoded(Encoder(donor_tokenizer), AWKWARD) == encode(donor_tokenizer, AWKWARD)
    finally:
        donor_tokenizer.backend_tokenizer.normalizer = None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.one_of(st.sampled_from("ab \u0301<_▁"), st.characters())), max_size=4))
def test_any_text(donor_tokenizer: Any, texts: list[str]) -> None:
    clean = [text.encode("utf-8", "ignore").decode() for text in texts]
    assert encoded(Encoder(donor_tokenizer), clean) == encode(donor_tokenizer, clean)


def test_what_is_forgotten_is_learnt_again(
    donor_tokenizer: Any, rows_of_text: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MOST_WORDS", 3)
    encoder = Encoder(donor_tokenizer)
    for start in range(0, 60, 5):
        some = rows_of_text[start : start + 5]
        assert encoded(encoder, some) == encode(donor_tokenizer, some)


def test_another_kind_of_tokenizer_encodes_whole_texts(donor_tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    before = donor_tokenizer.backend_tokenizer.pre_tokenizer
    donor_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    try:
        encoder = Encoder(donor_tokenizer)
        assert not encoder._by_words
        assert encoded(encoder, ["a b", "c"]) == encode(donor_tokenizer, ["a b", "c"])
    finally:
        donor_tokenizer.backend_tokenizer.pre_tokenizer = before
