import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from graftlm.data.settings import Columns, FilesData
from graftlm.data.sources import check_source, open_source
from graftlm.data.splits import prepare
from graftlm.errors import DataError

ROWS = [
    {"text": f"Ein langer Text Nummer {n}", "summary": f"Text {n}", "lang": "de", "family": f"f{n}"} for n in range(40)
]


def settings(train: list[Path] | list[str], **values: Any) -> FilesData:
    columns = Columns(**values.pop("columns", {}))
    values.setdefault("source_lang", "de_DE")
    return FilesData("files", "files", train=[str(file) for file in train], columns=columns, **values)


def jsonl(file: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def delimited(file: Path, delimiter: str = ",", rows: list[dict[str, Any]] = ROWS) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def parquet(file: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return file


def zipped(file: Path) -> Path:
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def array(file: Path) -> Path:
    file.write_text(json.dumps(ROWS), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", jsonl),
        ("a.json", array),
        ("a.csv", delimited),
        ("a.tsv", lambda file: delimited(file, "\t")),
        ("a.parquet", parquet),
        ("a.jsonl.gz", zipped),
        ("odd [name] *.jsonl", jsonl),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, write: Any) -> None:
    chosen = settings([write(tmp_path / name)], columns={"source_lang": "lang", "group": "family"}, source_lang=None)
    assert check_source(chosen) == []
    source = open_source(chosen)
    pairs = list(source.pairs())
    assert [(pair.source, pair.target, pair.group) for pair in pairs] == [
        (row["text"], row["summary"], row["family"]) for row in ROWS
    ]
    assert {(pair.source_lang, pair.target_lang, pair.split) for pair in pairs} == {("de_DE", "de_DE", None)}
    texts = [text.text for text in source.texts()]
    assert len(texts) == 2 * len(ROWS)
    assert texts[:2] == [ROWS[0]["text"], ROWS[0]["summary"]]


def test_a_text_file_is_text_only(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("erste Zeile\n\nzweite Zeile\n", encoding="utf-8")
    chosen = settings([jsonl(tmp_path / "a.jsonl")], text=[str(plain)])
    assert check_source(chosen) == []
    source = open_source(chosen)
    assert [text.text for text in source.texts()][-2:] == ["erste Zeile", "zweite Zeile"]
    assert len(list(source.pairs())) == len(ROWS)
    assert len(list(open_source(settings([plain])).texts())) == 2
    assert list(open_source(settings([plain])).pairs()) == []
    assert "hold no pairs" in str(check_source(settings([plain]))[0])


def test_a_text_file_needs_a_constant_language(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("Zeile\n")
    chosen = settings(
        [jsonl(tmp_path / "a.jsonl")], text=[str(plain)], columns={"source_lang": "lang"}, source_lang=None
    )
    (problem,) = check_source(chosen)
    assert "data.source_lang" in str(problem)


def test_globs_expand_sorted_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    jsonl(tmp_path / "deep" / "b.jsonl", ROWS[:1])
    jsonl(tmp_path / "deep" / "er" / "c.jsonl", ROWS[1:2])
    jsonl(tmp_path / "deep" / "a.jsonl", ROWS[2:3])
    monkeypatch.setenv("HOME", str(tmp_path))
    chosen = settings(["~/deep/**/*.jsonl", "~/deep/a.jsonl"])
    assert [pair.target for pair in open_source(chosen).pairs()] == ["Text 2", "Text 0", "Text 1"]


def test_own_splits_are_kept_and_the_missing_one_is_split_off(tmp_path: Path) -> None:
    rows = [{**row, "text": f"{row['text']} {n}"} for n in range(10) for row in ROWS]
    other = [{**row, "text": f"anders {row['text']}"} for row in ROWS]
    chosen = settings([jsonl(tmp_path / "a.jsonl", rows)], validation=[str(jsonl(tmp_path / "v.jsonl", other))])
    done = prepare(open_source(chosen), chosen)
    assert len(done.pairs["validation"]) == len(other)
    assert len(done.pairs["test"]) == pytest.approx(20, abs=14)
    assert sum(map(len, done.pairs.values())) == len(rows) + len(other)


def test_empty_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "text": "  "}, {**ROWS[0], "summary": None}]
    chosen = settings([jsonl(tmp_path / "a.jsonl", rows)])
    done = prepare(open_source(chosen), chosen)
    assert done.dropped["rows of a.jsonl without source or target"] == 2


def test_translation_with_nested_and_numeric_columns(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"translation": {"de": "Hallo", "en": "NA"}, "n": 7}])
    chosen = settings([file], columns={"source": "translation.de", "target": "translation.en"}, target_lang="en")
    (pair,) = open_source(chosen).pairs()
    assert (pair.source, pair.target, pair.source_lang, pair.target_lang) == ("Hallo", "NA", "de_DE", "en_XX")


def test_words_that_look_empty_or_numeric_in_csv_are_text(tmp_path: Path) -> None:
    file = delimited(tmp_path / "a.csv", rows=[{"text": "NA", "summary": "null"}, {"text": "x", "summary": "007"}])
    assert [pair.target for pair in open_source(settings([file])).pairs()] == ["null", "007"]


def test_an_unknown_language_names_file_row_column_and_value(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "lang": "tlh"}]
    chosen = settings([jsonl(tmp_path / "a.jsonl", rows)], columns={"source_lang": "lang"})
    assert check_source(chosen) == [], "it is not among the first rows"
    with pytest.raises(DataError) as caught:
        list(open_source(chosen).pairs())
    line = str(caught.value)
    assert "data.columns.source_lang=lang" in line
    assert "row 41 of" in line
    assert "a.jsonl" in line
    assert "'tlh'" in line
    first = settings([jsonl(tmp_path / "b.jsonl", rows[::-1])], columns={"source_lang": "lang"})
    assert "row 1 of" in str(check_source(first)[0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.jsonl", None, "no such file"),
        ("a.jsonl", b"", "is empty"),
        ("a.docx", b"x", "no known format"),
        ("a.jsonl", b'{"text": "a", "summary": \n{{{', "cannot be read as json"),
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
        ("a.csv", b"text,other\na,b\n", "data.columns.target=summary: is no column of"),
        ("a.jsonl", b'{"body": "a", "summary": "b"}\n', "its columns are body, summary"),
        ("a.jsonl", b'{"text": {"de": "x"}, "summary": "b"}\n', "nested columns there"),
    ],
)
def test_mistakes_are_one_line_each(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    problems = check_source(settings([file]))
    assert len(problems) == 1
    assert said in str(problems[0])
    with pytest.raises(DataError) as caught:
        list(open_source(settings([file])).pairs())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (problem,) = check_source(settings([tmp_path]))
    assert "is a folder" in str(problem)


def test_all_mistakes_come_together(tmp_path: Path) -> None:
    chosen = settings([tmp_path / "x.jsonl"], validation=[str(tmp_path / "y.jsonl")])
    assert [problem.path for problem in check_source(chosen)] == ["data.train", "data.validation"]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl")
    before = open_source(settings([file])).fingerprint()
    (tmp_path / "sub").mkdir()
    assert open_source(settings([jsonl(tmp_path / "sub" / "a.jsonl")])).fingerprint() == before
    jsonl(file, ROWS[1:])
    assert open_source(settings([file])).fingerprint() != before


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    file = jsonl(tmp_path / "a.jsonl")
    code = (
        "import sys; from graftlm.data.settings import FilesData;"
        "from graftlm.data.sources import check_source, open_source;"
        "s = FilesData('f', 'files', train=[sys.argv[1]], source_lang='de_DE'); assert not check_source(s);"
        "print(len(list(open_source(s).pairs())))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, "HOME": str(home), "TMPDIR": str(temporary)},
    )
    assert done.stdout.strip() == str(len(ROWS))
    assert done.stderr == ""
    assert list(home.rglob("*")) == []
    assert list(temporary.rglob("*")) == []
