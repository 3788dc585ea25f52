"""The settings of the sources of text: one dataclass a kind, and what all share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from graftlm.data.languages import CODES, nearest, to_code
from graftlm.errors import Problem
from graftlm.fields import build, did_you_mean, setting


@dataclass(frozen=True)
class DataSettings:
    """What all sources of text share. A row limit of null takes all rows."""

    name: str = setting("custom", outcome=False)
    kind: str = ""
    task: Literal["summarization", "translation"] = "summarization"
    max_pairs: int | None = setting(None, at_least=1)
    max_texts: int | None = setting(None, at_least=1)
    validation_share: float = setting(0.05, above=0, at_most=0.4)
    test_share: float = setting(0.05, above=0, at_most=0.4)

    @classmethod
    def from_plain(cls, mapping: Mapping[str, Any], path: str, problems: list[Problem]) -> DataSettings | None:
        """The settings of one source, of the class that its `kind` names."""
        kind = mapping.get("kind")
        if not isinstance(kind, str) or kind not in DATA_KINDS:
            problems.append(Problem(f"{path}.kind", kind, "is no kind of source", "one of " + ", ".join(DATA_KINDS)))
            return None
        built: DataSettings | None = build(DATA_KINDS[kind], mapping, path, problems)
        return built


@dataclass(frozen=True)
class DocstringsData(DataSettings):
    """Docstrings of the packages installed beside us, read with `ast`, never imported."""

    packages: list[str] | None = None
    exclude: list[str] = setting([])
    min_body: int = setting(80, at_least=1)


@dataclass(frozen=True)
class CataloguesData(DataSettings):
    """Parallel sentences from gettext catalogues of installed packages."""

    packages: list[str] | None = None
    source_lang: str = "en_XX"
    target_langs: list[str] | None = None
    both_directions: bool = False

    def check(self, path: str) -> Iterator[Problem]:
        yield from _check_code(f"{path}.source_lang", self.source_lang)
        for index, code in enumerate(self.target_langs or []):
            yield from _check_code(f"{path}.target_langs[{index}]", code)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a file or a hub data set; a language column may be absent (null)."""

    source: str = "text"
    target: str = "summary"
    source_lang: str | None = None
    target_lang: str | None = None
    text: str = "text"
    group: str | None = None


@dataclass(frozen=True)
class FilesData(DataSettings):
    """One's own files (txt, jsonl, csv, tsv, parquet), by glob. Where validation or test is null, it is split off."""

    train: list[str] = setting([])
    validation: list[str] | None = None
    test: list[str] | None = None
    text: list[str] | None = None
    columns: Columns = field(default_factory=Columns)
    source_lang: str | None = None
    target_lang: str | None = None

    def check(self, path: str) -> Iterator[Problem]:
        if not self.train:
            yield Problem(
                f"{path}.train", "null", "names no file", f"give a path or a glob, for example {path}.train=my.jsonl"
            )
        yield from _check_languages(path, self)


@dataclass(frozen=True)
class HubData(DataSettings):
    """A data set by name and config on the Hugging Face hub, or a local folder in hub layout."""

    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    train_split: str = "train"
    validation_split: str | None = "validation"
    test_split: str | None = "test"
    columns: Columns = field(default_factory=Columns)
    source_lang: str | None = None
    target_lang: str | None = None

    def check(self, path: str) -> Iterator[Problem]:
        if not self.dataset:
            yield Problem(
                f"{path}.dataset",
                "null",
                "names no data set",
                f"give a name, for example {path}.dataset=csebuetnlp/xlsum",
            )
        for name in ("validation_split", "test_split"):
            split = getattr(self, name)
            others = {"train_split": self.train_split, "validation_split": self.validation_split}
            same = [other for other, value in others.items() if other != name and value == split and split is not None]
            if same:
                yield Problem(f"{path}.{name}", split, f"is {path}.{same[0]} too", "give each split rows of its own")
        yield from _check_languages(path, self)


@dataclass(frozen=True)
class MixtureData(DataSettings):
    """Several sources, each drawn with a weight relative to its size (2.0: rows repeated twice; 0.5: half of them)."""

    sources: dict[str, dict[str, Any]] = setting({})
    weights: dict[str, float] = setting({})

    def check(self, path: str) -> Iterator[Problem]:
        if len(self.sources) < 2:
            yield Problem(f"{path}.sources", list(self.sources), "a mixture needs at least two sources")
        for name, weight in self.weights.items():
            if name not in self.sources:
                yield Problem(
                    f"{path}.weights.{name}", weight, "is no source of this mixture", did_you_mean(name, self.sources)
                )
            elif not weight > 0:
                yield Problem(f"{path}.weights.{name}", weight, "must be above 0")
        for name, source in self.sources.items():
            problems: list[Problem] = []
            DataSettings.from_plain({"name": name, "task": self.task, **source}, f"{path}.sources.{name}", problems)
            yield from problems

    def parts(self) -> dict[str, DataSettings]:
        """The settings of each source, by name."""
        built: dict[str, DataSettings] = {}
        for name, source in self.sources.items():
            part = DataSettings.from_plain({"name": name, "task": self.task, **source}, f"data.sources.{name}", [])
            assert part is not None, "checked when the settings were built"
            built[name] = part
        return built


DATA_KINDS: dict[str, type[DataSettings]] = {
    "docstrings": DocstringsData,
    "catalogues": CataloguesData,
    "files": FilesData,
    "hub": HubData,
    "mixture": MixtureData,
}


def _check_code(path: str, code: str, format: str = "mbart50") -> Iterator[Problem]:
    if to_code(code) is None:
        yield Problem(path, code, "is no language of mBART", nearest(code, CODES[format]))


def _check_languages(path: str, data: FilesData | HubData) -> Iterator[Problem]:
    source, target, columns = data.source_lang, data.target_lang, data.columns
    if data.task == "translation" and target is None and columns.target_lang is None:
        yield Problem(
            f"{path}.target_lang",
            "null",
            "the language to translate into is not known",
            f"set it (for example en_XX), or name its column in {path}.columns.target_lang",
        )
    if source is not None:
        yield from _check_code(f"{path}.source_lang", source)
    elif columns.source_lang is None:
        yield Problem(
            f"{path}.source_lang",
            "null",
            "the language of the rows is not known",
            f"set it (for example en_XX), or name its column in {path}.columns.source_lang",
        )
    if target is not None:
        yield from _check_code(f"{path}.target_lang", target)


def constant_codes(data: DataSettings) -> Iterator[tuple[str, str]]:
    """The language codes that stand in the settings themselves, with their paths."""
    if isinstance(data, CataloguesData):
        yield "data.source_lang", data.source_lang
        for index, code in enumerate(data.target_langs or []):
            yield f"data.target_langs[{index}]", code
    elif isinstance(data, FilesData | HubData):
        for name in ("source_lang", "target_lang"):
            if getattr(data, name) is not None:
                yield f"data.{name}", getattr(data, name)
