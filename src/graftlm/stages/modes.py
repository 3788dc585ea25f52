"""Ways to run a model in training that leave its outcome as it is: compiled layers, recomputed activations."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from graftlm.errors import SettingsError
from graftlm.models.attention import lean_attention
from graftlm.models.dropout import in_checkpoints, quick_dropout
from graftlm.models.linear import lean_linears
from graftlm.models.loss import unwrapped
from graftlm.running import TrainerSettings

_BACKEND = "inductor"


@contextlib.contextmanager
def modes(model: Any, settings: TrainerSettings) -> Iterator[None]:
    """Within, the model computes as `trainer.compile` and `trainer.checkpointing` say, on the processor with attention
    and linear maps that keep less, and quicker dropout (`graftlm.models`: `attention`, `linear`, `dropout`).

    Each layer is compiled by itself: all share the code of one, and what is around them (the lookups, the blocked loss)
    stays as it is. Weights and names do not change.

    Raises:
        SettingsError: nothing is there to compile with.
    """
    inner = unwrapped(model)
    if settings.compile:
        _check_compiler(settings)
    compiled = layers(inner) if settings.compile else []
    for layer in compiled:
        layer.compile(dynamic=True, backend=_BACKEND)
    is_lean = not settings.compile and not _on_gpu(settings)
    if settings.checkpointing:
        watched = {"context_fn": in_checkpoints} if is_lean else {}
        _newest(inner, "checkpointing_enable")({"use_reentrant": False, **watched})
    try:
        with contextlib.ExitStack() as lean:
            if is_lean:
                lean.enter_context(lean_attention(inner))
                lean.enter_context(lean_linears(layers(inner)))
                lean.enter_context(quick_dropout(layers(inner)))
            yield
    finally:
        for layer in compiled:
            layer._compiled_call_impl = None
        if settings.checkpointing:
            _newest(inner, "checkpointing_disable")()


def _newest(model: Any, name: str) -> Any:
    """transformers 5.23 calls it activation checkpointing, and warns of the name before."""
    return getattr(model, f"activation_{name}", None) or getattr(model, f"gradient_{name}")


def layers(model: Any) -> list[nn.Module]:
    """The transformer layers of an XLM-R, or of encoder and decoder of an mBART or BART."""
    if hasattr(model, "roberta"):
        return list(model.roberta.encoder.layer)
    return [*model.model.encoder.layers, *model.model.decoder.layers]


def _on_gpu(settings: TrainerSettings) -> bool:
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def _check_compiler(settings: TrainerSettings) -> None:
    if _on_gpu(settings):
        return  # Triton brings its own
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(name and shutil.which(name) for name in names):
        reason = "torch.compile needs a C++ compiler on the processor, and there is none"
        raise SettingsError.at("trainer.compile", True, reason, "set trainer.compile=false, or install g++")
