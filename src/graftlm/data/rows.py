"""The one interface between a source of text and everything else.

A source yields `Text` rows (for masked-language modelling) and `Pair` rows (for sequence-to-sequence training).
`group` is the unit that must not be divided between splits: a package, a document, a parallel message.
A source that has splits of its own names them in `split`; otherwise `graftlm.data.splits` assigns them by group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Text:
    """One text in one language (an mBART code such as `de_DE`)."""

    text: str
    lang: str
    group: str
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and the target that a model shall write for it, each with its mBART language code."""

    source: str
    target: str
    source_lang: str
    target_lang: str
    group: str
    split: Split | None = None


class Source(Protocol):
    """Where rows come from. Both methods raise `DataError` where the source cannot be read.

    Rows come in an order that does not depend on the machine, so that the same settings give the same corpus.
    """

    def fingerprint(self) -> dict[str, object]:
        """What identifies the content (versions, hashes, sizes), without importing torch or reading every row twice.

        It goes into the key of the corpus: equal fingerprints must mean equal rows.
        """
        ...

    def texts(self) -> Iterator[Text]:
        """Rows of text for masked-language modelling."""
        ...

    def pairs(self) -> Iterator[Pair]:
        """Rows of source and target."""
        ...
