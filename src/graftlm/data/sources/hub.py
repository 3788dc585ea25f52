"""A data set of the Hugging Face hub by name and config, or a local folder in hub layout. No remote code is run."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftlm.data.rows import Pair, Split, Text
from graftlm.data.settings import HubData
from graftlm.data.sources.columns import RowReader
from graftlm.data.sources.tables import COMPRESSED, FORMATS, check_lines, file_hash, format_of, quiet_datasets, reason
from graftlm.errors import DataError, Problem
from graftlm.hub import reachable

FIRST_ROWS = 20
REACH_SECONDS = 5
_ROWS = (*FORMATS, *COMPRESSED, ".arrow", ".zip", ".tar", ".xml")  # that the library finds by itself in a folder


def open_source(settings: HubData, path: str) -> HubSource:
    return HubSource(settings, path)


def check(settings: HubData, path: str, rows: bool = True) -> list[Problem]:
    """A folder: its splits, and columns and languages of the first rows. A name: that it is cached or reachable."""
    source = HubSource(settings, path)
    if source.folder is None:
        return _name_problems(settings, path)
    if not rows:
        return []
    if not any(file.suffix.lower() in _ROWS for file in source.folder.rglob("*")):
        remedy = "put its files there, for example train.jsonl and test.jsonl"
        return [Problem(f"{path}.dataset", settings.dataset, "holds no file of rows", remedy)]
    try:
        reader = source.reader()
        problems: list[Problem] = []
        for name, _, split in source.splits():
            with contextlib.closing(source.rows(name)) as read:
                first = list(itertools.islice(read, FIRST_ROWS))
            problems += reader.problems(first, f"{settings.dataset} ({split or 'train'})")
        return list({str(problem): problem for problem in problems}.values())
    except DataError as error:
        return list(error.problems)


def _name_problems(settings: HubData, path: str) -> list[Problem]:
    name = settings.dataset or ""
    where = f"{path}.dataset"
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_file():
        return [Problem(where, name, "is no folder", "name a folder in hub layout, or a data set of the hub")]
    commit = _commit(settings)
    if isinstance(commit, str):
        return []
    if commit is None or isinstance(commit, ConnectionError):
        if _is_cached(name):
            return []
        remedy = "connect, fill the cache of `datasets` beforehand, or name a local folder"
        return [Problem(where, name, "is neither a folder here nor cached, and the hub cannot be reached", remedy)]
    return [Problem(where, name, f"the hub does not give it: {reason(commit)}", "check name and revision, or log in")]


def _commit(settings: HubData) -> str | Exception | None:
    """The commit that a name and revision stand for: asked from the hub (5 s), None where offline was asked for."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    offline = os.environ.get("HF_DATASETS_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if constants.HF_HUB_OFFLINE or offline or not reachable():
        return None
    try:
        info = HfApi().dataset_info(settings.dataset or "", revision=settings.revision, timeout=REACH_SECONDS)
        return info.sha or "unknown"
    except OfflineModeIsEnabled:
        return None
    except HFValidationError as error:
        return error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        return ConnectionError(str(error)) if status >= 500 or status == 0 else error
    except Exception as error:  # which HTTP client raises depends on the version of huggingface_hub
        return ConnectionError(str(error))


def _is_cached(name: str) -> bool:
    """Whether the hub's or the datasets library's cache holds something of that name."""
    with quiet_datasets() as datasets:
        from huggingface_hub import constants

        hub = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
        prepared = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___").lower()
        return hub.is_dir() or prepared.is_dir() or prepared.with_name(name.replace("/", "___")).is_dir()


@dataclass
class HubSource:
    """Rows of a hub data set. `dropped` counts rows without source or target, once `pairs` was read."""

    settings: HubData
    path: str = "data"
    dropped: dict[str, int] = field(default_factory=dict)
    _names: list[str] | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path | None:
        """The local folder, where the name is one."""
        folder = Path(self.settings.dataset or "").expanduser()
        return folder if self.settings.dataset and folder.is_dir() else None

    def reader(self) -> RowReader:
        return RowReader(self.settings.columns, self.settings.source_lang, self.settings.target_lang, self.path)

    def fingerprint(self) -> dict[str, object]:
        parts: dict[str, object] = {"kind": "hub", "config": self.settings.config}
        if self.folder is not None:
            files = sorted(file for file in self.folder.rglob("*") if file.is_file() and ".git" not in file.parts)
            parts["files"] = [
                [file.relative_to(self.folder).as_posix(), file.stat().st_size, file_hash(file)] for file in files
            ]
            return parts
        commit = _commit(self.settings)
        if not isinstance(commit, str):
            from huggingface_hub import constants

            name = (self.settings.dataset or "").replace("/", "--")
            revision = self.settings.revision or "main"
            reference = Path(constants.HF_HUB_CACHE) / f"datasets--{name}" / "refs" / revision
            commit = reference.read_text().strip() if reference.is_file() else revision
        return {**parts, "dataset": self.settings.dataset, "commit": commit}

    def pairs(self) -> Iterator[Pair]:
        empty: Counter[str] = Counter()
        reader = self.reader()
        for name, where, split in self.splits():
            for number, row in enumerate(self.rows(name), 1):
                pair = reader.pair(row, where, number, split)
                if pair is None:
                    empty[f"rows of {where} without source or target"] += 1
                else:
                    yield pair
        self.dropped = dict(empty)

    def texts(self) -> Iterator[Text]:
        for pair in self.pairs():
            yield Text(pair.source, pair.source_lang, pair.group, pair.split)
            yield Text(pair.target, pair.target_lang, pair.group, pair.split)

    def splits(self) -> Iterator[tuple[str, str, Split | None]]:
        """Name in the data set, words for an error, and our split (None: train, while one is split off it)."""
        settings = self.settings
        present = self._split_names()
        wanted: tuple[tuple[Split, str | None], ...] = (
            ("train", settings.train_split),
            ("validation", settings.validation_split),
            ("test", settings.test_split),
        )
        if settings.train_split not in present:
            raise DataError.at(
                f"{self.path}.train_split",
                settings.train_split,
                f"is no split of {settings.dataset}",
                f"its splits are {', '.join(present)}",
            )
        whole = all(name in present for _, name in wanted)
        for split, name in wanted:
            if name is not None and name in present:
                yield name, f"{settings.dataset} ({name})", None if split == "train" and not whole else split

    def rows(self, split: str) -> Generator[dict[str, Any], None, None]:
        """The rows of one split: streamed from a folder, from the library's cache otherwise."""
        with self._library() as (datasets, options):
            streaming = self.folder is not None
            yield from datasets.load_dataset(split=split, streaming=streaming, **options)

    def _split_names(self) -> list[str]:
        if self._names is None:
            with self._library() as (datasets, options):
                options = {("config_name" if name == "name" else name): value for name, value in options.items()}
                options.pop("cache_dir", None)
                self._names = [str(name) for name in datasets.get_dataset_split_names(**options)]
        return self._names

    @contextlib.contextmanager
    def _library(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The library and what it loads; its errors become a DataError of one line."""
        settings, folder = self.settings, self.folder
        options: dict[str, Any] = {
            "path": str(folder.resolve()) if folder else settings.dataset,
            "name": settings.config,
        }
        if folder is None:
            problems = _name_problems(settings, self.path)
            if problems:
                raise DataError(problems)
            options["revision"] = settings.revision
        with contextlib.ExitStack() as stack:
            datasets = stack.enter_context(quiet_datasets())
            if folder is not None:
                for file in sorted(folder.rglob("*")):
                    if file.is_file() and format_of(file) == "json":
                        check_lines(file, f"{self.path}.dataset")
                options["cache_dir"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="graftlm-"))
            try:
                yield datasets, options
            except (GeneratorExit, DataError):
                raise
            except Exception as error:  # whatever the library meets in a data set
                at = f"{self.path}.config" if "onfig" in str(error) else f"{self.path}.dataset"
                value = settings.config if at.endswith("config") else settings.dataset
                raise DataError.at(
                    at, value, f"cannot be loaded: {reason(error)}", "check name, config and files"
                ) from error
