from __future__ import annotations

import random

import pytest
from tokenizers.normalizers import Precompiled

from graftlm.data.charsmap import build_charsmap


def test_each_key_becomes_its_replacement_and_nothing_else_does() -> None:
    draw = random.Random(5)
    letters = [
        chr(code)
        for code in (*range(0x21, 0x7F), *range(0xA1, 0x250), *range(0x3041, 0x3097), *range(0x1F600, 0x1F640))
    ]
    keys = draw.sample(letters, 400)
    replacements = {key: draw.choice(["", " ", "x", "ß", "漢字", "1⁄2"]) for key in keys}
    normalizer = Precompiled(build_charsmap(replacements))
    for letter in letters:
        assert normalizer.normalize_str(letter) == replacements.get(letter, letter)


def test_a_grapheme_of_two_characters_is_a_key() -> None:
    normalizer = Precompiled(build_charsmap({"e\u0301": "é", "\t": " "}))
    assert normalizer.normalize_str("cafe\u0301\te\u0300") == "café e\u0300"


def test_what_a_charsmap_cannot_hold_is_refused() -> None:
    for replacements in ({"": "x"}, {"a\0": "x"}, {"a": "\0"}):
        with pytest.raises(ValueError, match="charsmap"):
            build_charsmap(replacements)
