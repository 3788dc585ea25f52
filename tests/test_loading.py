"""What loads the heavy packages."""

from __future__ import annotations

import gc

import pytest

from graftlm.loading import load


def test_garbage_is_looked_for_again_after_a_module_is_loaded() -> None:
    assert load("graftlm.errors").SettingsError
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        load("graftlm.stages.nowhere")
    assert gc.isenabled()
    gc.disable()
    try:
        load("graftlm.errors")
        assert not gc.isenabled()
    finally:
        gc.enable()
