import json
import time
from pathlib import Path
from typing import Any

import pytest

from graftlm.data.settings import Columns, HubData
from graftlm.data.sources import check_source, open_source
from graftlm.data.splits import prepare
from graftlm.errors import DataError
from graftlm.hub import reachable


def settings(dataset: Path | str, **values: Any) -> HubData:
    columns = Columns(**values.pop("columns", {}))
    values.setdefault("source_lang", "de_DE")
    return HubData("hub", "hub", dataset=str(dataset), columns=columns, **values)


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(count: int, word: str = "train") -> list[dict[str, Any]]:
    return [{"text": f"{word} text number {n}", "summary": f"{word} {n}"} for n in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "set" / "data" / "train.jsonl", rows(200))
    write(tmp_path / "set" / "data" / "test.jsonl", rows(20, "test"))
    return tmp_path / "set"


def test_a_folder_in_hub_layout(folder: Path) -> None:
    chosen = settings(folder)
    assert check_source(chosen) == []
    done = prepare(open_source(chosen), chosen)
    assert len(done.pairs["test"]) == 20
    assert {pair.target.split()[0] for pair in done.pairs["test"]} == {"test"}
    assert 4 <= len(done.pairs["validation"]) <= 20, "the missing split is split off"
    assert len(done.texts["train"]) == 2 * len(done.pairs["train"])


def test_parquet_configs_and_nested_columns(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for config in ("de-en", "fr-en"):
        first = config[:2]
        (tmp_path / config).mkdir()
        for split in ("train", "validation", "test"):
            table = pyarrow.Table.from_pylist(
                [{"translation": {first: f"{first} {split} {n}", "en": f"en {split} {n}"}} for n in range(5)]
            )
            pyarrow.parquet.write_table(table, tmp_path / config / f"{split}.parquet")
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(
            f"  - split: {split}\n    path: {config}/{split}.parquet\n" for split in ("train", "validation", "test")
        )
        for config in ("de-en", "fr-en")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    columns = {"source": "translation.fr", "target": "translation.en"}
    chosen = settings(tmp_path, config="fr-en", columns=columns, source_lang="fr", target_lang="en")
    assert check_source(chosen) == []
    pairs = list(open_source(chosen).pairs())
    assert [pair.split for pair in pairs] == ["train"] * 5 + ["validation"] * 5 + ["test"] * 5
    assert (pairs[0].source, pairs[0].target) == ("fr train 0", "en train 0")
    assert (pairs[0].source_lang, pairs[0].target_lang) == ("fr_XX", "en_XX")

    (problem,) = check_source(settings(tmp_path, config="xx-en", columns=columns))
    assert problem.path == "data.config"
    (problem, *_) = check_source(settings(tmp_path, config="de-en", columns=columns))
    assert "data.columns.source=translation.fr" in str(problem)
    assert "translation.de" in str(problem)


def test_a_missing_train_split_is_named(folder: Path) -> None:
    (problem,) = check_source(settings(folder, train_split="training"))
    assert "data.train_split=training" in str(problem)
    assert "its splits are train, test" in str(problem)


def test_the_fingerprint_follows_the_files(folder: Path) -> None:
    before = open_source(settings(folder)).fingerprint()
    assert open_source(settings(folder)).fingerprint() == before
    write(folder / "data" / "test.jsonl", rows(21, "test"))
    assert open_source(settings(folder)).fingerprint() != before


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    (problem,) = check_source(settings(tmp_path))
    assert "holds no file of rows; put its files there" in str(problem)
    assert "\n" not in str(problem)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_path_that_is_no_folder(name: str) -> None:
    (problem,) = check_source(settings(name))
    assert "is no folder" in str(problem)


def test_without_network_an_uncached_name_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    begun = time.monotonic()
    (problem,) = check_source(settings("graftlm-nobody/no-such-data"))
    assert "neither a folder here nor cached, and the hub cannot be reached" in str(problem)
    with pytest.raises(DataError) as caught:
        list(open_source(settings("graftlm-nobody/no-such-data")).pairs())
    assert str(caught.value) == str(problem)
    assert time.monotonic() - begun < 15


def test_an_address_that_does_not_answer_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    reachable.cache_clear()
    try:
        (problem,) = check_source(settings("graftlm-nobody/no-such-data"))
    finally:
        reachable.cache_clear()
    assert problem.path == "data.dataset"
    assert "the hub cannot be reached" in str(problem)
