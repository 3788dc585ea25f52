from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftlm.data.corpus import Corpus, write_corpus
from graftlm.data.tokenizers import build_donor_tokenizer, build_host_tokenizer, encode, load_tokenizer, pieces_of
from graftlm.data.trimming import trim_pair
from graftlm.errors import CheckpointError

FORMATS = ("mbart50", "cc25")


@pytest.fixture
def folder(donor_tokenizer: Any, donor: Any, tmp_path: Path) -> Path:
    donor.save_pretrained(tmp_path / "donor")
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    return tmp_path / "donor"


def trimmed_settings(settings: Any, folder: Path, **more: Any) -> Any:
    donor = dataclasses.replace(settings.donor, checkpoint=str(folder))
    return dataclasses.replace(settings, vocab_size=None, donor=donor, **more)


@pytest.mark.parametrize("format", FORMATS)
def test_the_corpus_is_cut_into_the_same_tokens(
    format: Any, folder: Path, few_rows: Any, model_settings: Any, tmp_path: Path
) -> None:
    whole = trimmed_settings(model_settings, folder, format=format)
    write_corpus(few_rows, whole, tmp_path / "whole")
    write_corpus(few_rows, dataclasses.replace(whole, trim=3), tmp_path / "cut")
    old, new = Corpus(tmp_path / "whole"), Corpus(tmp_path / "cut")
    assert new.summary["trimmed_from"] == old.summary["vocabulary"]
    assert old.summary["trimmed_from"] is None
    assert new.summary["vocabulary"]["donor"] < old.summary["vocabulary"]["donor"]
    assert {**new.summary, "vocabulary": 0, "trimmed_from": 0} == {**old.summary, "vocabulary": 0, "trimmed_from": 0}
    assert type(new.host_tokenizer) is type(old.host_tokenizer)
    assert new.format.kind == format
    assert set(new.format.languages) == set(old.format.languages)
    for side, tokenizer, table in (
        ("texts", new.donor_tokenizer, new.donor_rows),
        ("sources", new.host_tokenizer, new.host_rows),
        ("targets", new.host_tokenizer, new.host_rows),
    ):
        before, after = getattr(old, side)("train"), getattr(new, side)("train")
        for index in range(len(after)):
            assert table[after[index]].tolist() == before[index].tolist()
            assert encode(tokenizer, [tokenizer.decode(after[index].tolist())]) == [after[index].tolist()]
    assert encode(new.donor_tokenizer, [text.text for text in few_rows.texts["train"]]) == [
        row.tolist() for row in (new.texts("train")[index] for index in range(len(new.texts("train"))))
    ]


def test_rows_name_the_same_token_in_both_vocabularies(
    folder: Path, few_rows: Any, model_settings: Any, tmp_path: Path
) -> None:
    write_corpus(few_rows, trimmed_settings(model_settings, folder, trim=3), tmp_path / "cut")
    corpus = Corpus(tmp_path / "cut")
    full_donor = load_tokenizer(str(folder))
    full_host = build_host_tokenizer(pieces_of(full_donor), "mbart50")
    for small, full, table in (
        (corpus.donor_tokenizer, full_donor, corpus.donor_rows),
        (corpus.host_tokenizer, full_host, corpus.host_rows),
    ):
        assert table is not None
        assert table[:4].tolist() == [0, 1, 2, 3]
        assert table[-1] == full.mask_token_id
        assert (np.diff(table) > 0).all()
        assert small.convert_ids_to_tokens(list(range(len(small)))) == full.convert_ids_to_tokens(table.tolist())


def test_the_margin_is_the_likeliest_of_the_others(donor_tokenizer: Any, host_tokenizer: Any, pieces: Any) -> None:
    used = [4, 5, 60]
    none, _ = trim_pair(donor_tokenizer, host_tokenizer, used, used, 0, "mbart50")
    some, host = trim_pair(donor_tokenizer, host_tokenizer, used, used, 6, "mbart50")
    least = len(pieces) + 3
    assert none.rows.tolist() == [0, 1, 2, 3, 4, 5, 60, least, donor_tokenizer.mask_token_id]
    assert some.rows.tolist() == [*range(12), 60, least, donor_tokenizer.mask_token_id]
    assert host.rows[:14].tolist() == some.rows[:14].tolist()


def test_unknown_letters_cost_what_they_did(pieces: Any) -> None:
    """The price of `<unk>` hangs on the least likely piece: without it "ab" + unknown could be cut otherwise."""
    tokenizer = build_donor_tokenizer(pieces)
    host = build_host_tokenizer(pieces, "mbart50")
    texts = ["The dog 漢 sees 字 the cat.", "Straße漢字 hört é", "x漢y"]
    ids = encode(tokenizer, texts)
    flat = [id_ for row in ids for id_ in row]
    small, _ = trim_pair(tokenizer, host, flat, flat, 0, "mbart50")
    assert [small.rows[row].tolist() for row in encode(small.tokenizer, texts)] == ids
    assert min(score for _, score in pieces_of(small.tokenizer)) == min(score for _, score in pieces)


def test_a_token_that_is_no_piece_is_named(pieces: Any, host_tokenizer: Any) -> None:
    tokenizer = build_donor_tokenizer(pieces)
    tokenizer.add_tokens(["<unit>"])
    with pytest.raises(CheckpointError, match=r"model\.donor\.checkpoint: <unit> is no piece"):
        trim_pair(tokenizer, host_tokenizer, [5, len(tokenizer) - 1], [5], 0, "mbart50")


def test_a_checkpoint_of_another_vocabulary_is_found_when_trimming(
    folder: Path, few_rows: Any, model_settings: Any, pieces: Any, tmp_path: Path
) -> None:
    build_donor_tokenizer(pieces[:-1]).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="its tokenizer"):
        write_corpus(few_rows, trimmed_settings(model_settings, folder, trim=3), tmp_path)
