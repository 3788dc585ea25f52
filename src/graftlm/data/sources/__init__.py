"""Sources of text. Each kind of settings has its module, imported when it is used.

A kind's module gives `open_source(settings, path) -> Source` and `check(settings, path, rows) -> list[Problem]`.
"""

from __future__ import annotations

import importlib
from typing import Any

from graftlm.data.rows import Source
from graftlm.data.settings import DATA_KINDS, DataSettings
from graftlm.errors import Problem


def open_source(settings: DataSettings, path: str = "data") -> Source:
    """The source that the settings describe. Nothing is read yet; reading raises `DataError`."""
    source: Source = _module(settings).open_source(settings, path)
    return source


def check_source(settings: DataSettings, path: str = "data", rows: bool = True) -> list[Problem]:
    """What is wrong with a source, as far as its files, names and (with `rows`) first rows show; cheap.

    Looking at rows loads the `datasets` library, and torch with it.
    """
    problems: list[Problem] = _module(settings).check(settings, path, rows)
    return problems


def _module(settings: DataSettings) -> Any:
    for kind, of in DATA_KINDS.items():
        if type(settings) is of:
            return importlib.import_module(f"graftlm.data.sources.{kind}")
    raise TypeError(f"{type(settings).__name__} is the settings class of no source")
