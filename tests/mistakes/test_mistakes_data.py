"""Mistakes in data: files, columns, languages, splits, data sets, mixtures."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

from mistake import FILES, SMOKE, Mistake, rows, told

ONE = (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=de")
CSV = (*FILES, "data.train=[{data}/a.csv]", "data.source_lang=de")
HUB = (*SMOKE, "data=hub", "data.dataset={data}/set", "data.source_lang=de")
WHOLE = (*ONE, "data.validation=[{data}/v.jsonl]", "data.test=[{data}/t.jsonl]")
MIXTURE = (*SMOKE, "data=mixture")


def parquet(data: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([json.loads(line) for line in rows(50).splitlines()]), data / "a.parquet"
    )
    (data / "a.parquet").write_bytes((data / "a.parquet").read_bytes()[:-40])


def unreadable(data: Path) -> None:
    (data / "a.jsonl").write_text(rows(30))
    (data / "a.jsonl").chmod(0)


MISTAKES = [
    Mistake(
        "rows wider than the header",
        (*FILES, "data.train=[{data}/a.csv]", "data.source_lang=de"),
        "data.train",
        ("4 fields", "header 2"),
        {"a.csv": "text,summary\n" + "".join(f"long text {n},short {n},author,url\n" for n in range(50))},
    ),
    Mistake("no file named", (*FILES, "data.source_lang=de"), "data.train", ("names no file",)),
    Mistake(
        "missing file", (*FILES, "data.train=[nowhere.jsonl]", "data.source_lang=de"), "data.train", ("nowhere.jsonl",)
    ),
    Mistake(
        "empty file",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=de"),
        "data.train",
        ("empty",),
        {"a.jsonl": ""},
    ),
    Mistake(
        "missing column",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=de", "data.columns.target=headline"),
        "data.columns.target",
        ("headline", "summary"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "wrong language code",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=xx_QQ"),
        "data.source_lang",
        ("xx_QQ", "known codes"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a language by its own name",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=deutsch"),
        "data.source_lang=deutsch",
        ("known codes are de_DE, ", " more"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "wrong language in a row",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.columns.source_lang=lang"),
        "data.columns.source_lang",
        ("qq",),
        {"a.jsonl": rows(30, lang="qq")},
    ),
    Mistake(
        "a language of the other format",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.source_lang=uk_UA", "model.format=cc25"),
        "data.source_lang",
        ("model.format=cc25",),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a format that is not known",
        (*FILES, "data.train=[{data}/a.docx]", "data.source_lang=de"),
        "data.train",
        ("docx", "jsonl"),
        {"a.docx": "x"},
    ),
    Mistake(
        "hub data without network",
        (*SMOKE, "data=hub", "data.dataset=csebuetnlp/xlsum", "data.source_lang=en"),
        "data.dataset",
        ("csebuetnlp/xlsum",),
    ),
    Mistake(
        "a binary file", ONE, "data.train", ("a.jsonl", "cannot be read as json"), {"a.jsonl": bytes(range(256)) * 20}
    ),
    Mistake("UTF-16", ONE, "data.train", ("a.jsonl", "UTF-8"), {"a.jsonl": rows(30).encode("utf-16")}),
    Mistake(
        "Latin-1",
        CSV,
        "data.train",
        ("a.csv", "UTF-8"),
        {"a.csv": "text,summary\nl\u00e4nger,kurz\n".encode("latin-1")},
    ),
    Mistake(
        "half an archive",
        (*FILES, "data.train=[{data}/a.jsonl.gz]", "data.source_lang=de"),
        "data.train",
        ("a.jsonl.gz", "cannot be read"),
        {"a.jsonl.gz": gzip.compress(rows(3000).encode(), mtime=0)[:-200]},
    ),
    Mistake(
        "an archive that is none",
        (*FILES, "data.train=[{data}/a.jsonl.gz]", "data.source_lang=de"),
        "data.train",
        ("a.jsonl.gz", "cannot be read"),
        {"a.jsonl.gz": rows(30)},
    ),
    Mistake(
        "half a parquet file",
        (*FILES, "data.train=[{data}/a.parquet]", "data.source_lang=de"),
        "data.train",
        ("a.parquet", "cannot be read as parquet"),
        make=parquet,
    ),
    Mistake("a web page", ONE, "data.train", ("cannot be read as json",), {"a.jsonl": "<!DOCTYPE html>\n<p>404</p>\n"}),
    Mistake(
        "a kind of archive that is not known",
        (*FILES, "data.train=[{data}/a.jsonl.zip]", "data.source_lang=de"),
        "data.train",
        ("no known format",),
        {"a.jsonl.zip": b"PK"},
    ),
    Mistake(
        "rows inside of something",
        (*FILES, "data.train=[{data}/a.json]", "data.source_lang=de", "data.columns.target=data"),
        "data.columns.source",
        ("is no column", "data"),
        {"a.json": json.dumps({"data": [json.loads(line) for line in rows(30).splitlines()]})},
    ),
    Mistake(
        "a list in a column of text",
        ONE,
        "data.columns.source",
        ("row 1", "a list"),
        {"a.jsonl": rows(30, text=["a", "b"])},
    ),
    Mistake("lists instead of rows", ONE, "data.train", ("a.jsonl",), {"a.jsonl": '["a", "b"]\n' * 30}),
    Mistake(
        "null instead of rows", ONE, "data.train", ("a.jsonl", "line 1 is null"), {"a.jsonl": "null\n" * 3 + rows(30)}
    ),
    Mistake(
        "null instead of rows, further down",
        (*FILES, "data.train=[{data}/a.jsonl.gz]", "data.source_lang=de"),
        "data.train",
        ("a.jsonl.gz", "line 41 is null"),
        {"a.jsonl.gz": gzip.compress((rows(40) + " null\n").encode(), mtime=0)},
    ),
    Mistake("null instead of a data set", HUB, "data.dataset", ("train.jsonl", "null"), {"set/train.jsonl": "null\n"}),
    Mistake("a file without a name", (*FILES, "data.train=['']", "data.source_lang=de"), "data.train", ("no file",)),
    Mistake("numbers instead of rows", ONE, "data.train", ("a.jsonl",), {"a.jsonl": "5\n" * 30}),
    Mistake(
        "semicolons",
        CSV,
        "data.train",
        ("a.csv", "text;summary", "commas"),
        {"a.csv": "text;summary\n" + "lang;kurz\n" * 30},
    ),
    Mistake(
        "a column that is there twice",
        CSV,
        "data.train",
        ("a.csv", "column text twice"),
        {"a.csv": "text,text,summary\n" + "a,b,c\n" * 30},
    ),
    Mistake("nothing but a header", CSV, "data", ("a.csv", "no row"), {"a.csv": "text,summary\n"}),
    Mistake(
        "a quotation mark that stays open",
        CSV,
        "data.train",
        ("a.csv", "quotation marks"),
        {"a.csv": 'text,summary\n"a,b\n' + "c,d\n" * 30},
    ),
    Mistake(
        "one file for train and test",
        (*ONE, "data.test=[{data}/a.jsonl]"),
        "data.test",
        ("is a file of data.train too",),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a copy of train as test",
        (*ONE, "data.test=[{data}/b.jsonl]"),
        "data.test",
        ("b.jsonl", "is a copy of", "data.train"),
        {"a.jsonl": rows(30), "b.jsonl": rows(30)},
    ),
    Mistake(
        "a folder for a file",
        (*FILES, "data.train=[{data}/in]", "data.source_lang=de"),
        "data.train",
        ("is a folder", "*.jsonl"),
        {"in/a.jsonl": rows(30)},
    ),
    Mistake(
        "a glob that finds nothing",
        (*FILES, "data.train=['{data}/*.csv']", "data.source_lang=de"),
        "data.train",
        ("no such file",),
        {"a.jsonl": rows(3)},
    ),
    Mistake(
        "a link to nowhere",
        ONE,
        "data.train",
        ("no such file",),
        make=lambda data: (data / "a.jsonl").symlink_to("gone.jsonl"),
    ),
    Mistake("a pipe", ONE, "data.train", ("no such file",), make=lambda data: os.mkfifo(data / "a.jsonl")),
    Mistake(
        "a file that may not be read", ONE, "data.train", ("a.jsonl", "may not be read"), make=unreadable, user=True
    ),
    Mistake(
        "an address for a file",
        (*FILES, "data.train=[https://example.org/a.jsonl]", "data.source_lang=de"),
        "data.train",
        ("no such file",),
    ),
    Mistake(
        "a language that is not said",
        (*FILES, "data.train=[{data}/a.jsonl]"),
        "data.source_lang",
        ("not known", "en_XX"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a translation into what",
        (*ONE, "data.task=translation"),
        "data.target_lang",
        ("translate into", "en_XX"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a task that is none",
        (*ONE, "data.task=translate"),
        "data.task=translate",
        ("summarization, translation",),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a row without its language",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.columns.source_lang=lang"),
        "data.columns.source_lang",
        ("row 4", "names no language"),
        {"a.jsonl": rows(3) + rows(1, lang="") + rows(20)},
    ),
    Mistake(
        "groups that are no column",
        (*ONE, "data.columns.group=book"),
        "data.columns.group=book",
        ("is no column", "summary"),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a text file to test on",
        (*ONE, "data.test=[{data}/t.txt]"),
        "data.test",
        ("holds no pairs",),
        {"a.jsonl": rows(30), "t.txt": "a\n"},
    ),
    Mistake(
        "nothing but text",
        (*FILES, "data.train=[{data}/a.txt]", "data.source_lang=de"),
        "data.train",
        ("no pairs", "jsonl"),
        {"a.txt": "a text\n" * 30},
    ),
    Mistake(
        "columns that are none",
        (*ONE, "data.columns.txt=text"),
        "data.columns.txt",
        ("did you mean data.columns.text",),
        {"a.jsonl": rows(30)},
    ),
    Mistake(
        "a data set without a file",
        HUB,
        "data.dataset",
        ("set", "holds no file of rows"),
        {"set/notes.md": "nothing yet\n"},
    ),
    Mistake(
        "a split that is none",
        (*HUB, "data.train_split=trian"),
        "data.train_split=trian",
        ("its splits are train",),
        {"set/train.jsonl": rows(30)},
    ),
    Mistake(
        "tested on train",
        (*HUB, "data.test_split=train"),
        "data.test_split=train",
        ("is data.train_split too",),
        {"set/train.jsonl": rows(30)},
    ),
    Mistake(
        "a config that is none",
        (*HUB, "data.config=german"),
        "data.config=german",
        ("cannot be loaded",),
        {"set/train.jsonl": rows(30)},
    ),
    Mistake("no data set", (*SMOKE, "data=hub", "data.source_lang=de"), "data.dataset", ("names no data set",)),
    Mistake(
        "a data set that is a file",
        (*SMOKE, "data=hub", "data.dataset={data}/a.jsonl", "data.source_lang=de"),
        "data.dataset",
        ("is no folder",),
        {"a.jsonl": rows(30)},
    ),
    Mistake("a mixture of one", MIXTURE, "data.sources", ("at least two",)),
    Mistake(
        "a weight for nothing",
        (*MIXTURE, "+data.sources.mine={kind: files, train: [x.jsonl], source_lang: de}", "+data.weights.yours=2"),
        "data.weights.yours",
        ("is no source", "mine"),
    ),
    Mistake(
        "a part that is missing",
        (*MIXTURE, "+data.sources.mine={kind: files, train: [x.jsonl], source_lang: de}"),
        "data.sources.mine.train",
        ("x.jsonl", "no such file"),
    ),
    Mistake(
        "a part of no kind",
        (*MIXTURE, "+data.sources.mine={train: [x.jsonl]}"),
        "data.sources.mine.kind",
        ("one of docstrings",),
    ),
    Mistake(
        "a package that is not there",
        (*SMOKE, "data.packages=[nosuchpackage]"),
        "data.packages",
        ("nosuchpackage", "not installed"),
    ),
    Mistake(
        "a language of no catalogue",
        (*SMOKE, "data=catalogues", "data.target_langs=[xx]"),
        "data.target_langs[0]=xx",
        ("no language of mBART",),
    ),
    # what only the whole text can tell
    Mistake(
        "text with no letter",
        ONE,
        "data=files",
        ("no letter",),
        {"a.jsonl": "".join(json.dumps({"text": f"{n} + {n}", "summary": f"{2 * n}"}) + "\n" for n in range(60))},
        late=True,
    ),
    Mistake(
        "nothing in a column",
        ONE,
        "data=files",
        ("no pair", "30 rows of a.jsonl"),
        {"a.jsonl": rows(30, summary=None)},
        late=True,
    ),
    Mistake("one row", ONE, "data=files", ("empty", "split", "1 pairs"), {"a.jsonl": rows(1)}, late=True),
    Mistake(
        "test rows in train",
        WHOLE,
        "data=files",
        ("empty train split", "30 pairs", "held-out split too"),
        {"a.jsonl": rows(30), "v.jsonl": rows(10, text="something else"), "t.jsonl": rows(30) + "\n"},
        late=True,
    ),
    Mistake(
        "an unknown language further down",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.columns.source_lang=lang"),
        "data.columns.source_lang",
        ("row 41", "'qq'"),
        {"a.jsonl": rows(40) + rows(1, lang="qq")},
        late=True,
    ),
    Mistake(
        "a language of the other format further down",
        (*FILES, "data.train=[{data}/a.jsonl]", "data.columns.source_lang=lang", "model.format=cc25"),
        "uk_UA",
        ("model.format=cc25", "rows"),
        {"a.jsonl": rows(400) + rows(40, lang="uk", text="something else")},
        late=True,
    ),
    Mistake(
        "half a letter",
        ONE,
        "data.train",
        ("a.jsonl", "cannot be read as json", "surrogate"),
        {"a.jsonl": rows(60) + '{"text": "a \\ud800 b", "summary": "c"}\n'},
    ),
]

test_data = told(MISTAKES)
