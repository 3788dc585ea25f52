"""Floating-point operations of a training step, counted by what each token really passes.

A matrix of n weights costs 2n operations a token forward, 2n backward for its input and 2n for its weights. Source
tokens pass the encoder and the cross-attention's keys and values, target tokens the rest of the decoder, labelled
places the output projection. Attention scores and element-wise work are left out (a few per cent at these lengths).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from graftlm.models.blocked_loss import IGNORED
from graftlm.models.loss import unwrapped

_FORWARD, _INPUT, _WEIGHTS = 2, 2, 2
_FULL = _FORWARD + _INPUT + _WEIGHTS


def matrices(module: nn.Module) -> int:
    """Weights of all linear layers in a module."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def _passed(module: nn.Module, reached: bool = True) -> int:
    """Operations a token of all linear layers in a module; those that are frozen (beside an adapter) cost less."""
    parts = (part.weight for part in module.modules() if isinstance(part, nn.Linear))
    return sum(_cost(reached, weight.requires_grad) * weight.numel() for weight in parts)


def mlm_flops(model: Any, batch: Mapping[str, Any]) -> int:
    """Operations of one step of an `XLMRobertaForMaskedLM`: the head works on the masked places only."""
    model = unwrapped(model)
    cells = batch["input_ids"].numel()
    return _passed(model.roberta.encoder) * cells + _passed(model.lm_head) * len(batch["labels"])


def seq2seq_flops(model: Any, batch: Mapping[str, Any]) -> int:
    """Operations of one step of an mBART or BART with an LM head, with what is frozen now charged less."""
    model = unwrapped(model)
    encoder, decoder = model.model.encoder, model.model.decoder
    sources, targets = batch["input_ids"].numel(), batch["labels"].numel()
    read = sum(
        projection.weight.numel()
        for layer in decoder.layers
        for projection in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
    )
    words = bool(encoder.embed_tokens.weight.requires_grad)
    output = bool(model.lm_head.weight.requires_grad)  # the same tensor, unless they are untied
    trained = any(parameter.requires_grad for parameter in encoder.layers.parameters())
    reached = trained or words  # through a frozen encoder the gradient still runs to the words
    labelled = int((batch["labels"] != IGNORED).sum())
    return (
        _passed(encoder, reached) * sources
        + _cost(reached, True) * read * sources
        + _FULL * (matrices(decoder) - read) * targets
        + _cost(True, output) * matrices(model.lm_head) * labelled
    )


def _cost(input_gradient: bool, weight_gradient: bool) -> int:
    return _FORWARD + _INPUT * input_gradient + _WEIGHTS * weight_gradient
