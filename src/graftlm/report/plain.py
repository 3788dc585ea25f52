"""Texts of the data made fit for pages, tables and trackers, whatever they hold."""

from __future__ import annotations

import re
from typing import Any

LONGEST = 2000  # characters
# controls but tab and newline, and half a surrogate pair: they are in no JSON, database or terminal of use
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# what turns the direction of all that follows on a line
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def text(value: Any, longest: int = LONGEST) -> str:
    """The value as a text of at most about `longest` characters, which says how long it was."""
    found = value if isinstance(value, str) else str(value)
    if len(found) > longest:
        found = f"{found[:longest]} … ({len(found):,} characters)"
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", found)


def line(value: Any, longest: int = LONGEST) -> str:
    """The value as a text of one line that reads in its own direction only; nothing for None."""
    return " ".join(_TURNS.sub("", text("" if value is None else value, longest)).split())


def lines(value: str, longest: int = 20_000) -> str:
    """As `line`, but lines stay."""
    return _TURNS.sub("", text(value, longest))
