"""The text that `graftlm transfer` is given: read, each text once, some of it held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftlm.data.languages import to_code
from graftlm.errors import DataError

HELD_OUT = 10  # every so many texts are measured on instead of fitted on


def spread(texts: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the texts, evenly from the whole: a file may hold one language after the other."""
    count = min(len(texts), most)
    return [texts[index * len(texts) // count] for index in range(count)]


def read_texts(path: Path) -> tuple[list[str], list[str]]:
    """The texts of a file, a line each, of a .jsonl file the field `text`; and the mBART code of each.

    A text that is there several times counts once: fidelity is measured on text that was not fitted on. The codes come
    from the field `lang`, in any spelling (`de`, `pt-BR`): "" where it is missing, its own words where mBART has no
    such language. No codes at all where no line has one.

    Raises:
        DataError: it cannot be read, or holds fewer than two texts.
    """
    codes: list[str] = []
    if path.is_char_device() or path.is_block_device():  # /dev/zero has no end
        raise DataError.at("--text", path, "is a device", "name a file of text")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in lines if line.strip()]
            named = [str(row.get("lang") or "").strip() for row in rows]
            lines, codes = [_text(row["text"]) for row in rows], [to_code(name) or name for name in named]
            codes = ["" if code == "und" else code for code in codes]  # ISO 639 for a language that is not determined
    except OSError as error:
        raise DataError.at("--text", path, f"cannot be read: {error.strerror}", "name a file of text") from error
    except UnicodeDecodeError as error:
        raise DataError.at("--text", path, "is not UTF-8", "convert it") from error
    except (RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError.at(
            "--text", path, "has a line without a JSON field `text`", "give plain text as .txt"
        ) from error
    first: dict[str, int] = {}
    for index, line in enumerate(lines):
        if line.strip():
            first.setdefault(line.strip(), index)
    if len(first) < 2:
        reason = f"holds {len(first)} {'different ' * bool(first)}texts"
        raise DataError.at("--text", path, reason, "give at least two, better thousands")
    return list(first), [codes[index] for index in first.values()] if any(codes) else []


def _text(value: Any) -> str:
    """Raises `TypeError` where a field that should be text is not: null would become the word None."""
    if not isinstance(value, str):
        raise TypeError
    return value
