"""Parallel sentences from the gettext catalogues (.mo, .po) that installed packages carry: msgid -> msgstr.

A group is the message, so no message is in train for one language and in test for another.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftlm.data.groups import fold
from graftlm.data.languages import MBART50, to_code
from graftlm.data.rows import Pair, Text
from graftlm.data.settings import CataloguesData
from graftlm.data.sources.docstrings import find_distribution, normal_name
from graftlm.errors import DataError, Problem

EXTRACTION = 1  # raise when the same files would give other rows
REMEDY = "pip install 'graftlm[catalogues]'"
# placeholders of printf, str.format and templates, tags, and entities
FORMAT = re.compile(r"%\(\w+\)[#0-9.+-]*[a-zA-Z]|%[#0-9.+-]*[a-zA-Z%]|\{[^{}]*\}|<[^<>]+>|&\w+;|\$\{?\w+\}?")
LETTERS = re.compile(r"[^\W\d_]")
ENOUGH_LETTERS = 3
# a folder of another script than the language's mBART code stands for
OTHER_SCRIPT = re.compile(r"(?i)^(zh[-_](hant|tw|hk|mo)|\w+[-_@]latn?|\w+@latin)")


def open_source(settings: CataloguesData, path: str) -> CatalogueSource:
    return CatalogueSource(settings, path)


def check(settings: CataloguesData, path: str, rows: bool = True) -> list[Problem]:
    """A missing babel, packages that are not installed, no catalogue at all."""
    if importlib.util.find_spec("babel") is None:
        return [Problem(path, settings.name, "reading catalogues needs babel, which is not installed", REMEDY)]
    missing = [
        Problem(f"{path}.packages", name, "is not installed here", f"{REMEDY}, or pip install {name}")
        for name in settings.packages or []
        if find_distribution(name) is None
    ]
    if missing:
        return missing
    found = catalogues(settings)
    if not found:
        return [Problem(f"{path}.packages", settings.packages, "no catalogue is found in installed packages", REMEDY)]
    there = {lang for some in found.values() for _, lang in some}
    return [
        Problem(
            f"{path}.target_langs[{index}]",
            lang,
            "no catalogue has this language",
            "found are " + ", ".join(sorted(there)),
        )
        for index, lang in enumerate(settings.target_langs or [])
        if to_code(lang) not in there
    ]


def catalogues(settings: CataloguesData) -> dict[str, list[tuple[Path, str]]]:
    """Files and their mBART language by `distribution version`, in a fixed order; a .mo stands for its .po."""
    if settings.packages is None:
        chosen = list(importlib.metadata.distributions())
    else:
        chosen = [each for name in settings.packages if (each := find_distribution(name)) is not None]
    source = to_code(settings.source_lang)
    wanted = None if settings.target_langs is None else {to_code(lang) for lang in settings.target_langs}
    found: dict[str, list[tuple[Path, str]]] = {}
    for distribution in chosen:
        files: dict[str, tuple[Path, str]] = {}
        for file in sorted(distribution.files or [], key=lambda file: file.as_posix()):
            lang = catalogue_language(file.as_posix())
            if lang is None or lang == source or (wanted is not None and lang not in wanted):
                continue
            stem = file.as_posix().rsplit(".", 1)[0]
            if stem not in files or file.suffix == ".mo":
                files[stem] = (Path(str(distribution.locate_file(file))), lang)
        if files:
            found[f"{normal_name(distribution.metadata['Name'])} {distribution.version}"] = list(files.values())
    return dict(sorted(found.items()))


def catalogue_language(file: str) -> str | None:
    """The mBART code of `.../de/LC_MESSAGES/django.mo`; None where it is no catalogue, or of no mBART language."""
    parts = file.split("/")
    if len(parts) < 3 or parts[-2] != "LC_MESSAGES" or not parts[-1].endswith((".mo", ".po")):
        return None
    return None if OTHER_SCRIPT.match(parts[-3]) else to_code(parts[-3])


def is_message(text: str) -> bool:
    """Whether something to translate is left without placeholders and tags."""
    words = FORMAT.sub(" ", text)
    identifier = " " not in words.strip() and ("_" in words or "/" in words or "." in words.strip(". "))
    return len(LETTERS.findall(words)) >= ENOUGH_LETTERS and not identifier


@dataclass
class CatalogueSource:
    """The messages of the chosen catalogues. Reading is done once and kept."""

    settings: CataloguesData
    path: str = "data"
    _read: list[tuple[str, str, str]] | None = field(default=None, repr=False)

    def fingerprint(self) -> dict[str, object]:
        self._refuse()
        return {"kind": "catalogues", "extraction": EXTRACTION, "packages": list(catalogues(self.settings))}

    def pairs(self) -> Iterator[Pair]:
        source = to_code(self.settings.source_lang) or self.settings.source_lang
        for message, translation, lang in self._messages():
            group = fold(message)
            yield Pair(message, translation, source, lang, group)
            if self.settings.both_directions:
                yield Pair(translation, message, lang, source, group)

    def texts(self) -> Iterator[Text]:
        source = to_code(self.settings.source_lang) or self.settings.source_lang
        seen: set[str] = set()
        for message, translation, lang in self._messages():
            group = fold(message)
            if message not in seen:
                seen.add(message)
                yield Text(message, source, group)
            yield Text(translation, lang, group)

    def _refuse(self) -> None:
        problems = check(self.settings, self.path)
        if problems:
            raise DataError(problems)

    def _messages(self) -> list[tuple[str, str, str]]:
        """Message, translation and language, each triple once."""
        if self._read is None:
            self._refuse()
            found: dict[tuple[str, str, str], None] = {}
            for files in catalogues(self.settings).values():
                for file, lang in files:
                    for message, translation in _entries(file):
                        found[message, translation, lang] = None
            self._read = sorted(found, key=lambda row: (MBART50.index(row[2]), row[0], row[1]))
        return self._read


def _entries(file: Path) -> Iterator[tuple[str, str]]:
    from babel.messages.mofile import read_mo
    from babel.messages.pofile import read_po

    try:
        with file.open("rb") as stream:
            catalogue: Any = read_mo(stream) if file.suffix == ".mo" else read_po(stream)
    except (OSError, ValueError, KeyError, UnicodeDecodeError):
        return  # listed but removed since, or damaged: not the user's file
    for entry in catalogue:
        if not isinstance(entry.id, str) or not isinstance(entry.string, str) or entry.fuzzy:
            continue  # plural forms, and translations nobody confirmed
        message, translation = " ".join(entry.id.split()), " ".join(entry.string.split())
        if is_message(message) and is_message(translation) and fold(message) != fold(translation):
            yield message, translation
