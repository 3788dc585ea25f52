"""Any rows and any bytes in a file of data: read, or refused in one line; and what is read comes back as it was."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from examples import JSON, examples
from hypothesis import given
from hypothesis import strategies as st

from graftlm.data.corpus import Corpus, write_corpus
from graftlm.data.rows import SPLITS, Pair, Text
from graftlm.data.settings import Columns, DataSettings, FilesData
from graftlm.data.sources import check_source, open_source
from graftlm.data.splits import Prepared, divide_pairs, divide_texts, fold, prepare
from graftlm.errors import DataError, GraftlmError
from graftlm.schema import ModelSettings

# a row: mostly one that is in order
ROW = st.one_of(
    st.builds(lambda text, other: {"text": text, "summary": other}, st.text(max_size=12), st.text(max_size=6)),
    st.dictionaries(st.sampled_from(["text", "summary", "lang", "other"]), JSON, max_size=4),
    JSON,
)
FORMATS = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.jsonl.gz", "a.csv.bz2"]


def read(file: Path, lang: str | None) -> None:
    """As `graftlm data` and the corpus stage read it: nothing but a line about the data may come of it."""
    columns = Columns(source_lang=lang)
    settings = FilesData("any", "files", train=[str(file)], columns=columns, source_lang=None if lang else "de_DE")
    problems = check_source(settings)
    assert all(str(problem).isprintable() for problem in problems)
    with contextlib.suppress(DataError):
        found = prepare(open_source(settings), settings)
        assert all(found.pairs[split] for split in SPLITS)


@examples(20, simpler=False)
@given(rows=st.lists(ROW, max_size=6), copies=st.integers(1, 30), lang=st.sampled_from([None, "lang"]))
def test_any_rows(tmp_path_factory: Any, rows: list[Any], copies: int, lang: str | None) -> None:
    file = tmp_path_factory.mktemp("any") / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows for _ in range(copies)), encoding="utf-8")
    read(file, lang)


@examples(20, simpler=False)
@given(
    name=st.sampled_from(FORMATS),
    content=st.one_of(st.binary(max_size=60), st.text(st.sampled_from('text,summary;\t\n"{}[]:0\0\r'), max_size=60)),
)
def test_any_bytes(tmp_path_factory: Any, name: str, content: bytes | str) -> None:
    file = tmp_path_factory.mktemp("any") / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    read(file, None)


WORDS = st.text(st.one_of(st.sampled_from("ab <>_▁\n\t\x00\u2028\x1fé中"), st.characters(codec="utf-8")), max_size=16)
SPOKEN = st.one_of(
    WORDS, st.sampled_from(["<mask>", "en_XX de_DE", "</s>", " ", "\u200b", "a" * 300, "\r\n", '"', "\\u"])
)


@examples(25, simpler=False)
@given(rows=st.lists(st.tuples(SPOKEN, SPOKEN, st.sampled_from(["de_DE", "en_XX", "zh_CN"])), min_size=1, max_size=8))
def test_any_text_comes_back_from_a_corpus_and_stands_for_nothing_special(
    tmp_path_factory: Any, rows: list[tuple[str, str, str]]
) -> None:
    pairs = [Pair(source, target, lang, "de_DE", str(place)) for place, (source, target, lang) in enumerate(rows)]
    pairs.append(Pair("a sound text", "a text", "en_XX", "de_DE", "last"))
    texts = [Text(pair.source, pair.source_lang, pair.group) for pair in pairs]
    folder = tmp_path_factory.mktemp("any") / "corpus"
    prepared = Prepared(dict.fromkeys(SPLITS, pairs), dict.fromkeys(SPLITS, texts), {})
    refused = ""
    try:
        write_corpus(prepared, ModelSettings("pico", vocab_size=400), folder)
    except GraftlmError as error:
        refused = str(error)
    if refused:
        assert "does not know" in refused, "letters that are too rare for the vocabulary"
        return
    corpus = Corpus(folder)
    spoken = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
    for split in SPLITS:
        found = corpus.pairs(split)
        assert [(item.source, item.target, item.source_lang) for item in found] == [
            (item.source, item.target, item.source_lang) for item in spoken
        ]
        sources = corpus.sources(split)
        assert len(sources) == len(corpus.targets(split)) == len(found)
        specials = corpus.format.specials
        assert not specials & {int(id_) for row in sources for id_ in row}
    assert not set(corpus.donor_tokenizer.all_special_ids) - {3} & {
        int(id_) for row in corpus.texts("train") for id_ in row
    }


@examples(80)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcxyz"), st.sampled_from([None, *SPLITS])), max_size=40
    )
)
def test_any_data_set_has_no_text_of_a_test_row_in_train(rows: list[tuple[str, str, Any]]) -> None:
    settings = DataSettings("any", "files")
    pairs = divide_pairs(
        [Pair(f"{one} ", other.upper(), "de_DE", "de_DE", one, split) for one, other, split in rows], settings
    )
    texts = divide_texts([Text(text, "de_DE", one) for one, other, _ in rows for text in (one, other)], pairs, settings)
    held: set[str] = set()
    for split in ("test", "validation", "train"):
        assert not held & {fold(pair.source) for pair in pairs[split]}
        assert not held & {fold(row.text) for row in texts[split]}
        held |= {fold(text) for pair in pairs[split] for text in (pair.source, pair.target)}
