"""Texts on disk are divided as texts in memory were, at a cost that does not grow with their length."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftlm.console import Silent
from graftlm.data.groups import HELD_OUT, fold
from graftlm.data.rows import SPLITS, Pair, Split, Text
from graftlm.data.settings import DataSettings
from graftlm.data.splits import assign_texts, by_split, divide_pairs, divide_texts, draw, prepare, weigh
from graftlm.data.spool import Spooled, spooled
from graftlm.data.tokenizers import encode
from graftlm.data.writing import Writing, languages_of


def one_by_one(texts: list[Text], pairs: Any, settings: DataSettings, dropped: Counter[str]) -> Any:
    """Dividing as a list is divided, row after row."""
    rows = by_split(assign_texts(texts, [pair for some in pairs.values() for pair in some], settings))
    held_out: set[str] = set()
    kept: dict[Split, list[Text]] = {split: [] for split in SPLITS}
    for split in (*HELD_OUT, "train"):
        seen: set[str] = set()
        for text in rows[split]:
            key = fold(text.text)
            if key in held_out:
                dropped[f"texts of {split} that are a text of a held-out row"] += 1
            elif key in seen:
                dropped[f"texts of {split} that repeat another"] += 1
            else:
                seen.add(key)
                kept[split].append(text)
        held_out |= seen | {fold(text) for pair in pairs[split] for text in (pair.source, pair.target)}
    return kept


@pytest.mark.parametrize("groups", [7, 300, 3000])
@pytest.mark.parametrize("named", [False, True])
def test_divided_as_a_list_is(groups: int, named: bool) -> None:
    draw_ = np.random.default_rng(groups)
    settings = DataSettings("some", "files", validation_share=0.1)
    pairs = divide_pairs(
        [
            Pair(f"s {n}", f"t {n % 40}", "de_DE", "de_DE", f"g{int(draw_.integers(groups))}", None)
            for n in range(0, 3000, 3)
        ],
        DataSettings("some", "files", validation_share=0.1, test_share=0.2),
    )
    wanted: list[Split | None] = ["train", "validation", None]
    texts = [
        Text(
            f"{'S' if n % 2 else 's'}  {int(draw_.integers(2500))}",
            "de_DE" if n % 5 else "en_XX",
            f"g{int(draw_.integers(2 * groups))}",
            wanted[int(draw_.integers(3))] if named else None,
        )
        for n in range(4000)
    ]
    ours, theirs = Counter[str](), Counter[str]()
    found = divide_texts(texts, pairs, settings, ours)
    assert found == one_by_one(texts, pairs, settings, theirs)
    assert ours == theirs
    assert ours.total() > 100
    assert found["train"].langs == [row.lang for row in found["train"]]


def test_a_sequence() -> None:
    texts = [Text(f"text {n}", "de_DE", f"{'ab'[n % 2]}/{n}") for n in range(20)]
    spool = spooled(texts, len, len)
    rows = Spooled(spool, np.arange(20)[::-1], "train")
    wanted = [Text(row.text, row.lang, row.group, "train") for row in texts[::-1]]
    assert rows == wanted
    assert [rows[0], rows[-1], rows[7]] == [wanted[0], wanted[-1], wanted[7]]
    assert rows[3:9] == wanted[3:9]
    assert rows != wanted[:-1]
    assert draw(rows, 5) == draw(wanted, 5)
    assert weigh(rows, {"a": 2.5, "b": 0.3}) == weigh(wanted, {"a": 2.5, "b": 0.3})


class Long:
    """Texts that are many times larger than what may be held."""

    words = "dog sees cat hears Straße fish".split()

    def fingerprint(self) -> dict[str, object]:
        return {}

    def pairs(self) -> Iterator[Pair]:
        for number in range(60):
            yield Pair("dog " * (number + 1), "sees " * (number + 1), "en_XX", "en_XX", f"p{number}", None)

    def texts(self) -> Iterator[Text]:
        for number in range(700):
            yield Text(" ".join(self.words * 150) + f" {number}", "en_XX", f"g{number}")


def test_memory_does_not_grow_with_the_texts(donor_tokenizer: Any, tmp_path: Path) -> None:
    total = sum(len(text.text) for text in Long().texts())
    tracemalloc.start()
    try:
        settings = DataSettings("some", "files", validation_share=0.2, test_share=0.2)
        prepared = prepare(Long(), settings, None, tmp_path)
        assert not list(tmp_path.iterdir()), "the file has no name"
        train = prepared.texts["train"]
        writing = Writing(tmp_path, ["en_XX"], Silent(), characters=5_000)
        writing.write("texts.train", donor_tokenizer, (row.text for row in train), languages_of(train))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 3_000_000
    assert held < total / 3
    assert sum(map(len, prepared.texts.values())) == 700
    assert len(writing.files["texts.train"]) == len(train) > 100
    assert writing.files["texts.train"][3].tolist() == encode(donor_tokenizer, [train[3].text])[0]
