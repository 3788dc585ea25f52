"""A donor and a host that are in order, and a cache of their own for what is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pair(
    tmp_path_factory: pytest.TempPathFactory, _donor: Any, _host: Any, donor_tokenizer: Any, host_tokenizer: Any
) -> Path:
    """`donor` and `host`: whole folders in Hugging Face layout, of 64 positions."""
    folder = tmp_path_factory.mktemp("pair")
    for name, model, tokenizer in (("donor", _donor, donor_tokenizer), ("host", _host, host_tokenizer)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder
