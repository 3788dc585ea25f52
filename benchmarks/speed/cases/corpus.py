"""Lines of text to what training reads, and what that takes on disk: XLM-R's tokens, one core.

The peers are run_mlm.py's own preprocessing through `datasets.map` (batched): --line_by_line --pad_to_max_length (512),
and its default, which joins the lines and cuts them into blocks of 512. Ours reads the same file, drops repeats,
divides it into splits, and writes tokens in the width of the vocabulary that the text uses (`model.trim`). For all of
them the clock starts when the libraries and the tokenizer are loaded.
"""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _texts

LENGTH = 512


def prepare(run: Run) -> dict[str, float]:
    _texts.write_lines(run.folder / "lines.txt", 2000 if run.quick else 60_000)
    return {}


def _peer(run: Run, padded: bool) -> dict[str, float]:
    import tempfile

    import datasets

    datasets.disable_progress_bars()
    tokenizer = _texts.tokenizer()
    tokenizer.model_max_length = LENGTH

    def by_line(examples: dict[str, Any]) -> Any:
        kept = [line for line in examples["text"] if len(line) > 0 and not line.isspace()]
        return tokenizer(
            kept, padding="max_length", truncation=True, max_length=LENGTH, return_special_tokens_mask=True
        )

    def whole(examples: dict[str, Any]) -> Any:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def grouped(examples: dict[str, Any]) -> Any:
        joined = {name: list(chain(*rows)) for name, rows in examples.items()}
        total = len(next(iter(joined.values()))) // LENGTH * LENGTH
        return {name: [row[at : at + LENGTH] for at in range(0, total, LENGTH)] for name, row in joined.items()}

    with tempfile.TemporaryDirectory() as cache:
        begun = time.perf_counter()
        raw = datasets.load_dataset("text", data_files=str(run.folder / "lines.txt"), cache_dir=cache, split="train")
        if padded:
            made = raw.map(by_line, batched=True, remove_columns=["text"])
        else:
            made = raw.map(whole, batched=True, remove_columns=["text"]).map(grouped, batched=True)
        seconds = time.perf_counter() - begun
        disk = sum(Path(file["filename"]).stat().st_size for file in made.cache_files)
    return {"seconds": seconds, "bytes": disk}


def pad_512(run: Run) -> dict[str, float]:
    return _peer(run, padded=True)


def blocks(run: Run) -> dict[str, float]:
    return _peer(run, padded=False)


def ours(run: Run) -> dict[str, float]:
    import tempfile

    import datasets  # noqa: F401
    import numpy as np

    from graftlm.console import Silent
    from graftlm.data.groups import number_of
    from graftlm.data.rows import SPLITS
    from graftlm.data.settings import FilesData
    from graftlm.data.sources import open_source
    from graftlm.data.splits import divide_spool, mark_of
    from graftlm.data.spool import spooled
    from graftlm.data.writing import Writing, languages_of

    file = str(run.folder / "lines.txt")
    data = FilesData(name="lines", kind="files", train=[file], source_lang="en_XX")
    tokenizer = _texts.tokenizer()
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        texts = divide_spool(spooled(open_source(data).texts(), mark_of, number_of, Path(out)), {}, data)
        writing = Writing(Path(out) / "tokens", ["en_XX"], Silent())
        for split in SPLITS:
            some = texts[split]
            writing.write(f"texts.{split}", tokenizer, (row.text for row in some), languages_of(some))
        used = np.unique(np.concatenate([file.used for file in writing.files.values()]))
        table = np.full(len(tokenizer), -1, dtype=np.int64)
        table[used] = np.arange(len(used))
        for tokens in writing.files.values():
            tokens.renumber(table, len(used))
        seconds = time.perf_counter() - begun
        disk = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": disk, "tokens": float(sum(writing.tokens.values()))}


CASE = Case(
    sides={"pad_512": pad_512, "ours": ours, "blocks": blocks},
    rows=[
        Row("corpus of short lines, against run_mlm.py --line_by_line padded to 512", peer="pad_512", goal=3),
        Row("the same, against run_mlm.py's default (blocks of 512)", peer="blocks", goal=1.7),
        Row("its size on disk, against 512", "bytes", "pad_512", ratio="share", goal=1 / 25, unit="MB", scale=1e-6),
        Row("its size on disk, against blocks", "bytes", "blocks", ratio="share", unit="MB", scale=1e-6),
    ],
    prepare=prepare,
    preload=_texts.tokenizer,
    memory_gb=4.0,
    seconds=300,
)
