from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from graftlm.data.corpus import Corpus, build_corpus, write_corpus
from graftlm.data.rows import Pair, Text
from graftlm.data.settings import Columns, FilesData
from graftlm.data.splits import Prepared
from graftlm.errors import CheckpointError, DataError, StoreError
from graftlm.schema import MaskSettings, Settings, TransferSettings


def prepared(pairs: list[Pair], texts: list[Text]) -> Prepared:
    return Prepared(
        pairs={"train": pairs, "validation": pairs[:2], "test": pairs[2:4]},
        texts={"train": texts, "validation": texts[:2], "test": texts[2:4]},
        dropped={},
    )


def test_tokens_match_the_rows(corpus: Corpus, rows: Any) -> None:
    for split in ("train", "validation", "test"):
        pairs = corpus.pairs(split)
        assert len(pairs) == len(corpus.sources(split)) == len(corpus.targets(split))
        assert corpus.source_langs(split) == [pair.source_lang for pair in pairs]
        assert corpus.target_langs(split) == [pair.target_lang for pair in pairs]
        for index in (0, len(pairs) - 1):
            assert corpus.host_tokenizer.decode(corpus.sources(split)[index].tolist()) == pairs[index].source
            assert corpus.host_tokenizer.decode(corpus.targets(split)[index].tolist()) == pairs[index].target
    texts = corpus.texts("train")
    assert len(texts) == 640 == len(corpus.text_langs("train"))
    assert corpus.donor_tokenizer.decode(texts[0].tolist()) == rows[1][0].text
    specials = set(corpus.donor_tokenizer.all_special_ids)
    assert not any(specials & set(texts[index].tolist()) for index in range(50))


def test_test_texts_never_reach_the_donor(corpus: Corpus) -> None:
    assert not list((corpus.path / "tokens").glob("texts.test*"))
    held_out = {pair.source for pair in corpus.pairs("test")} - {pair.source for pair in corpus.pairs("train")}
    written = {corpus.donor_tokenizer.decode(ids.tolist()) for ids in corpus.texts("train")}
    assert held_out
    assert not held_out & written


def test_summary(corpus: Corpus) -> None:
    summary = json.loads((corpus.path / "summary.json").read_text())
    assert summary["pairs"]["train"] == {"count": 320, "languages": {"de_DE>en_XX": 160, "en_XX>de_DE": 160}}
    assert summary["texts"]["train"]["languages"] == {"de_DE": 320, "en_XX": 320}
    assert summary["tokens"]["source.train"] == corpus.sources("train").tokens
    assert summary["dropped"] == {"a repeat": 3}
    assert summary["unknown"]["all"] == 0
    assert summary["languages"] == ["de_DE", "en_XX"]
    assert summary["vocabulary"] == {"donor": len(corpus.donor_tokenizer), "host": len(corpus.host_tokenizer)}


def test_opens_in_a_worker_and_refuses_another_folder(corpus: Corpus, tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(corpus))
    assert again.sources("test")[0].tolist() == corpus.sources("test")[0].tolist()
    with pytest.raises(StoreError, match="holds no corpus"):
        Corpus(tmp_path)


def test_built_from_files_twice_is_the_same(corpus_files: Path, model_settings: Any, tmp_path: Path) -> None:
    data = FilesData(
        name="mine",
        kind="files",
        task="translation",
        train=[str(corpus_files / "pairs.jsonl")],
        columns=Columns(source_lang="source_lang", target_lang="target_lang", group="group"),
        validation_share=0.1,
        test_share=0.1,
    )
    settings = Settings(
        model=model_settings, data=data, mask=MaskSettings(name="r15"), transfer=TransferSettings(name="none")
    )
    for name in ("one", "two"):
        build_corpus(settings, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_host_over_a_donor_checkpoint(rows: Any, model_settings: Any, donor_tokenizer: Any, tmp_path: Path) -> None:
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    donor = dataclasses.replace(model_settings.donor, checkpoint=str(tmp_path / "donor"))
    model = dataclasses.replace(model_settings, donor=donor, vocab_size=None)
    write_corpus(prepared(*rows), model, tmp_path / "corpus")
    assert Corpus(tmp_path / "corpus").donor_tokenizer.get_vocab() == donor_tokenizer.get_vocab()
    host = dataclasses.replace(model.host, checkpoint=str(tmp_path / "corpus" / "tokenizer" / "host"))
    wrong = dataclasses.replace(model, host=host, format="cc25")
    with pytest.raises(
        CheckpointError, match=r"has the format mbart50, not model\.format=cc25; set model\.format=mbart50"
    ):
        write_corpus(prepared(*rows), wrong, tmp_path / "other")


def test_text_that_the_tokenizer_does_not_know(
    rows: Any, model_settings: Any, donor_tokenizer: Any, tmp_path: Path
) -> None:
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    donor = dataclasses.replace(model_settings.donor, checkpoint=str(tmp_path / "donor"))
    model = dataclasses.replace(model_settings, donor=donor, vocab_size=None)
    greek = [dataclasses.replace(row, source="Ο σκύλος και η γάτα") for row in rows[0]]
    with pytest.raises(DataError, match=r"^model\.donor\.checkpoint=.*does not know \d+% of the sources"):
        write_corpus(prepared(greek, rows[1]), model, tmp_path / "corpus")


def test_text_with_no_letter(rows: Any, model_settings: Any, tmp_path: Path) -> None:
    digits = prepared([Pair("1 2 3", "4", "en_XX", "de_DE", "a")] * 4, [Text("12 34", "en_XX", "a")] * 4)
    with pytest.raises(DataError, match="no letter"):
        write_corpus(digits, model_settings, tmp_path)


def test_languages_that_the_host_lacks(rows: Any, model_settings: Any, tmp_path: Path) -> None:
    model = dataclasses.replace(model_settings, format="cc25")
    polish = [dataclasses.replace(row, target_lang="pl_PL") for row in rows[0]]
    with pytest.raises(DataError, match=r"^data=pl_PL: 404 rows .*model\.format=cc25"):
        write_corpus(prepared(polish, rows[1]), model, tmp_path)


def test_empty_sides_are_dropped(rows: Any, model_settings: Any, tmp_path: Path) -> None:
    pairs = [dataclasses.replace(rows[0][0], target="  "), *rows[0]]
    write_corpus(prepared(pairs, rows[1]), model_settings, tmp_path)
    made = Corpus(tmp_path)
    assert made.summary["dropped"]["an empty source or target"] == 2
    assert min(made.targets("train").lengths) > 0
