from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftlm.data.charsmap import build_charsmap
from graftlm.data.languages import CC25, MBART50
from graftlm.data.tokenizers import (
    WHITE_SPACE,
    build_donor_tokenizer,
    build_host_tokenizer,
    encode,
    host_tokenizer_from_donor,
    load_tokenizer,
    pieces_of,
    plain,
    train_pieces,
)
from graftlm.errors import CheckpointError

FORMATS = ("mbart50", "cc25")
ORDINARY = [
    "The dog sees the cat near the house.",
    "Hund hört Katze (Straße). Zwei  Leerzeichen",
    "a line\nand another\r\n\tindented",
    "unknown 漢字 letters é",
    " leading and trailing ",
    "<s> is written here, and <mask>, and de_DE too</s>",
]


def test_ids_follow_fairseq(pieces: Any, donor_tokenizer: Any) -> None:
    assert donor_tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert donor_tokenizer.mask_token_id == len(donor_tokenizer) - 1 == len(pieces) + 4
    for format, codes in (("mbart50", MBART50), ("cc25", CC25)):
        host = build_host_tokenizer(pieces, format)
        assert len(host) == len(pieces) + 4 + len(codes) + 1
        assert host.convert_tokens_to_ids(list(codes)) == list(range(len(pieces) + 4, len(pieces) + 4 + len(codes)))
        assert host.mask_token_id == len(host) - 1
        assert host.convert_ids_to_tokens(list(range(50))) == donor_tokenizer.convert_ids_to_tokens(list(range(50)))


@pytest.mark.parametrize("format", FORMATS)
def test_host_cuts_text_as_the_donor_does(format: Any, pieces: Any, donor_tokenizer: Any) -> None:
    host = build_host_tokenizer(pieces, format)
    assert encode(host, ORDINARY) == encode(donor_tokenizer, ORDINARY)
    for text in ORDINARY[:4]:  # also called the ordinary way, line ends and all
        assert host.tokenize(text) == donor_tokenizer.tokenize(text), text


@pytest.mark.parametrize("format", FORMATS)
def test_save_and_reload_changes_nothing(format: Any, pieces: Any, donor_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for built in (donor_tokenizer, build_host_tokenizer(pieces, format)):
        built.save_pretrained(tmp_path / format)
        again = AutoTokenizer.from_pretrained(tmp_path / format)
        assert type(again) is type(built)
        assert again.get_vocab() == built.get_vocab()
        assert [again(text).input_ids for text in ORDINARY] == [built(text).input_ids for text in ORDINARY]
        assert again.mask_token_id == built.mask_token_id
        assert pieces_of(again) == pieces


def test_written_specials_stay_text(donor_tokenizer: Any, host_tokenizer: Any) -> None:
    text = "code de_DE and <mask> or <s> here </s> en_XX<pad>"
    for tokenizer in (donor_tokenizer, host_tokenizer):
        (ids,) = encode(tokenizer, [text])
        specials = {i for t, i in tokenizer.get_vocab().items() if t in {*MBART50, "<mask>", "<s>", "</s>", "<pad>"}}
        assert not specials & set(ids)
    assert plain("nothing_to a < b") == "nothing_to a < b"


def test_truncation_of_an_earlier_call_does_not_cut_the_corpus(donor_tokenizer: Any) -> None:
    before = encode(donor_tokenizer, ORDINARY)
    donor_tokenizer(ORDINARY, truncation=True, max_length=4, padding=True)
    assert encode(donor_tokenizer, ORDINARY) == before


def test_training_is_the_same_in_another_process(rows: Any, pieces: Any) -> None:
    here = json.dumps(pieces)
    code = (
        "import json, sys; from graftlm.data.tokenizers import train_pieces;"
        "print(json.dumps(train_pieces(json.load(sys.stdin), 400)))"
    )
    texts = json.dumps([text.text for text in rows[1]])
    there = subprocess.run([sys.executable, "-c", code], input=texts, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_vocabulary_size_counts_specials_and_little_text_gives_fewer(caplog: Any) -> None:
    words = [f"{a}{b}{c}{d} {a}{b}{c} {a}{b}" for a in "abcdefgh" for b in "aeiou" for c in "klmnop" for d in "xyz"]
    assert len(build_donor_tokenizer(train_pieces(words, 120))) == 120
    with caplog.at_level(logging.WARNING):
        few = train_pieces(["only a few words"], 5000)
    assert 5 < len(few) < 100
    assert "model.vocab_size=5000" in caplog.text


def test_rare_characters_do_not_fill_the_vocabulary() -> None:
    rare = "".join(chr(0x4E00 + n) for n in range(300))
    pieces = train_pieces(["plain words are written here again and again"] * 20000 + [rare], 320)
    assert len(pieces) <= 315
    assert not {character for piece, _ in pieces for character in piece} & set(rare)


@pytest.mark.parametrize("format", FORMATS)
def test_host_over_a_donor_checkpoint(format: Any, pieces: Any, donor_tokenizer: Any, tmp_path: Path) -> None:
    donor_tokenizer.save_pretrained(tmp_path)
    donor = load_tokenizer(str(tmp_path))
    made = host_tokenizer_from_donor(donor, format)
    assert made.get_vocab() == build_host_tokenizer(pieces, format).get_vocab()
    assert encode(made, ORDINARY) == encode(donor, ORDINARY)


def test_charsmap_of_a_donor_reaches_the_host(pieces: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    donor = build_donor_tokenizer(pieces, build_charsmap(WHITE_SPACE))
    host = host_tokenizer_from_donor(donor, "cc25")
    host.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.normalizer is None  # the trap in transformers
    again = load_tokenizer(str(tmp_path), path="model.host.checkpoint")
    assert "Precompiled" in str(json.loads(again.backend_tokenizer.to_str())["normalizer"]["type"])


def test_mistakes_are_one_line(tmp_path: Path, donor_tokenizer: Any) -> None:
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    (tmp_path / "empty").mkdir()
    for checkpoint, path, words in (
        (str(tmp_path / "nowhere"), "model.donor.checkpoint", "no such folder"),
        (str(tmp_path / "empty"), "model.donor.checkpoint", "has none of"),
        (
            str(tmp_path / "donor"),
            "model.host.checkpoint",
            "XLMRobertaTokenizer, not MBart50Tokenizer or MBartTokenizer",
        ),
        ("no-such-org/no-such-model", "model.donor.checkpoint", "cannot be loaded"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_tokenizer(checkpoint, None, path)
        line = str(caught.value)
        assert line.startswith(f"{path}={checkpoint[:60]}")
        assert words in line
        assert "\n" not in line


def test_training_gives_the_same_pieces_in_every_process() -> None:
    """A text with many ties: a trainer that walks hash maps would break them another way in each process."""
    code = (
        "import string; from graftlm.data.tokenizers import train_pieces;"
        "texts = [f'{c}word of {d}text {c}{d}' for c in string.printable[:62] for d in 'äöüßéèñø'];"
        "print(train_pieces(texts, 120))"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(outputs) == 1
