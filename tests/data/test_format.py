from __future__ import annotations

from typing import Any

import pytest
import torch

from graftlm.data.format import HostFormat
from graftlm.data.tokenizers import build_host_tokenizer, encode

TEXTS = ["The dog sees the cat.", "Katze hört Hund (Straße).", "a"]


@pytest.mark.parametrize("kind", ["mbart50", "cc25"])
def test_equals_the_real_tokenizer(kind: Any, pieces: Any) -> None:
    tokenizer = build_host_tokenizer(pieces, kind)
    format = HostFormat.from_tokenizer(tokenizer)
    assert format.kind == kind
    for length in (4, 7, 64):
        for text, ids in zip(TEXTS, encode(tokenizer, TEXTS), strict=True):
            tokenizer.src_lang, tokenizer.tgt_lang = "de_DE", "fr_XX"
            real = tokenizer(text, text_target=text, max_length=length, truncation=True)
            assert format.source(ids, "de_DE", length) == real["input_ids"]
            assert format.target(ids, "fr_XX", length) == real["labels"]


@pytest.mark.parametrize("kind", ["mbart50", "cc25"])
def test_decoder_input_equals_mbarts_shift(kind: Any, pieces: Any) -> None:
    from transformers.models.mbart.modeling_mbart import shift_tokens_right

    tokenizer = build_host_tokenizer(pieces, kind)
    format = HostFormat.from_tokenizer(tokenizer)
    rows = [format.target(ids, "de_DE", 32) for ids in encode(tokenizer, TEXTS)]
    longest = max(map(len, rows))
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    shifted = shift_tokens_right(labels, format.pad_id)
    for row, real in zip(rows, shifted.tolist(), strict=True):
        ours = format.decoder_input(row)
        assert ours == real[: len(ours)]
        assert ours[0] == format.decoder_start("de_DE")


def test_generation_ids(pieces: Any) -> None:
    fifty = HostFormat.from_tokenizer(build_host_tokenizer(pieces, "mbart50"))
    assert (fifty.decoder_start("de_DE"), fifty.forced_bos("de_DE")) == (2, fifty.languages["de_DE"])
    old = HostFormat.from_tokenizer(build_host_tokenizer(pieces, "cc25"))
    assert (old.decoder_start("de_DE"), old.forced_bos("de_DE")) == (old.languages["de_DE"], None)
    assert len(fifty.languages) == 52
    assert len(old.languages) == 25
    assert "pl_PL" in fifty.languages
    assert "pl_PL" not in old.languages


@pytest.mark.parametrize("kind", ["mbart50", "cc25"])
def test_strip_undoes_the_wrapping(kind: Any, pieces: Any) -> None:
    tokenizer = build_host_tokenizer(pieces, kind)
    format = HostFormat.from_tokenizer(tokenizer)
    (ids,) = encode(tokenizer, TEXTS[:1])
    labels = format.target(ids, "en_XX", 64)
    assert format.strip([*labels, -100, -100]) == ids
    assert format.strip([format.decoder_start("en_XX"), *labels, 1, 1]) == ids
    assert tokenizer.decode(format.strip(labels)) == TEXTS[0]
