"""From a row with named columns to a `Pair` or `Text`: shared by files and hub data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftlm.data.groups import digest, fold
from graftlm.data.languages import nearest, to_code
from graftlm.data.rows import Pair, Split, Text
from graftlm.data.settings import Columns
from graftlm.errors import DataError, Problem

ABSENT = object()


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a dot path into nested ones (`translation.de`); `ABSENT` where there is none."""
    if column in row:
        return row[column]
    found: Any = row
    for part in column.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return ABSENT
        found = found[part]
    return found


def column_names(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All columns of a row, nested ones by their dot path."""
    names: list[str] = []
    for name, value in row.items():
        names += column_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]
    return names


@dataclass(frozen=True)
class RowReader:
    """How the rows of one source are read. `path` is its config path, for what an error says."""

    columns: Columns
    source_lang: str | None
    target_lang: str | None
    path: str

    def pair(self, row: Mapping[str, Any], where: str, number: int, split: Split | None) -> Pair | None:
        """The row's pair, or None where source or target is empty. `number` counts rows from 1."""
        source = self._words(row, "source", where, number)
        target = self._words(row, "target", where, number)
        if not source or not target:
            return None
        source_lang = self._language(row, "source_lang", where, number, self.source_lang)
        target_lang = self._language(row, "target_lang", where, number, self.target_lang or source_lang)
        return Pair(source, target, source_lang, target_lang, self._group(row, source, where, number), split)

    def text(self, row: Mapping[str, Any], where: str, number: int, split: Split | None) -> Text | None:
        """The row as a text for masked-language modelling, or None where it is empty."""
        text = self._words(row, "text", where, number)
        if not text:
            return None
        column = self.columns.source_lang
        if column is not None and value_at(row, column) is ABSENT and self.source_lang is not None:
            lang = self.code(self.source_lang, None, where, number)
        else:
            lang = self._language(row, "source_lang", where, number, self.source_lang)
        return Text(text, lang, self._group(row, text, where, number, required=False), split)

    def line(self, text: str, where: str, number: int, split: Split | None) -> Text:
        """A line of a plain text file, which has no columns."""
        if self.source_lang is None:
            raise DataError.at(
                f"{self.path}.source_lang",
                None,
                f"the language of {where} is not known: a text file has no columns",
                f"set it, for example {self.path}.source_lang=en_XX",
            )
        return Text(text, self.code(self.source_lang, None, where, number), digest(fold(text)).hex(), split)

    def code(self, value: str, column: str | None, where: str, number: int) -> str:
        """The mBART code of a language value."""
        found = to_code(value)
        if found is None:
            name = "target_lang" if column is not None and column == self.columns.target_lang else "source_lang"
            raise DataError.at(
                f"{self.path}.columns.{name}" if column else f"{self.path}.{name}",
                column or value,
                f"row {number} of {where} has the language {value!r}, which mBART does not know",
                f"{nearest(value)}; correct the rows or leave them out",
            )
        return found

    def problems(self, rows: Sequence[Mapping[str, Any]], where: str, kind: str = "pairs") -> list[Problem]:
        """What is wrong with the first rows: missing columns, unknown languages. `kind` is pairs or texts."""
        found: list[Problem] = []
        if not rows:
            return [Problem(self.path, where, "holds no row")]
        names = ("source", "target", "source_lang", "target_lang", "group") if kind == "pairs" else ("text",)
        for name in names:
            column = getattr(self.columns, name)
            if column is not None and value_at(rows[0], column) is ABSENT:
                found.append(self._missing(name, column, rows[0], where))
        if found:
            return found
        for number, row in enumerate(rows, 1):
            try:
                self.pair(row, where, number, None) if kind == "pairs" else self.text(row, where, number, None)
            except DataError as error:
                return list(error.problems)
        return []

    def _missing(self, name: str, column: str, row: Mapping[str, Any], where: str) -> Problem:
        present = column_names(row)
        remedy = f"its columns are {', '.join(present[:12])}" + (" ..." if len(present) > 12 else "")
        return Problem(f"{self.path}.columns.{name}", column, f"is no column of {where}", remedy)

    def _words(self, row: Mapping[str, Any], name: str, where: str, number: int) -> str:
        column: str = getattr(self.columns, name)
        value = value_at(row, column)
        if value is ABSENT:
            if number == 1:
                raise DataError(self._missing(name, column, row, where))
            return ""  # JSON Lines may leave a key out
        if value is None:
            return ""
        if isinstance(value, Mapping | list | bytes):
            raise DataError.at(
                f"{self.path}.columns.{name}",
                column,
                f"row {number} of {where} holds {_kind(value)} there, not a text",
                f"name a column of text; its columns are {', '.join(column_names(row)[:12])}",
            )
        return str(value).strip()

    def _language(self, row: Mapping[str, Any], name: str, where: str, number: int, constant: str | None) -> str:
        column: str | None = getattr(self.columns, name)
        value = None if column is None else value_at(row, column)
        if value is not None and value is not ABSENT and str(value).strip():
            return self.code(str(value).strip(), column, where, number)
        if constant is not None:
            return self.code(constant, None, where, number)
        raise DataError.at(
            f"{self.path}.columns.{name}",
            column,
            f"row {number} of {where} names no language",
            f"fill the column, or set {self.path}.{name}",
        )

    def _group(self, row: Mapping[str, Any], text: str, where: str, number: int, required: bool = True) -> str:
        if self.columns.group is None:
            return digest(fold(text)).hex()
        value = value_at(row, self.columns.group)
        if value is ABSENT and required and number == 1:
            raise DataError(self._missing("group", self.columns.group, row, where))
        return digest(fold(text)).hex() if value is ABSENT or value is None else str(value)


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "nested columns"
    return "a list" if isinstance(value, list) else type(value).__name__
