"""Beams that share their source: the keys and values of a source are kept once, not once a beam.

transformers repeats the encoder's output for each beam, computes the cross-attention's keys and values of all of them,
and copies them anew at each step, though the beams of a source never differ in them. Here each layer holds them once a
source; the beams of a source are queries of one attention. They are few for many keys, which torch's fused attention
is not made for: with the keys transposed two products and a softmax take half its time. Beam search itself is that of
transformers; what the beams write is kept by `graftlm.models.branches`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graftlm.models.branches import Paths, written

NAME = "graftlm_shared_source"


@contextlib.contextmanager
def sharing(model: Any, states: Tensor, beams: int) -> Iterator[dict[str, Any]]:
    """Within, what to give `model.generate` besides for an mBART or BART whose encoder made the `states` [B, S, d]."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    from transformers.modeling_outputs import BaseModelOutput

    paths = Paths(len(states), beams, states.device)
    AttentionInterface.register(NAME, partial(_attend, paths))
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield {
            "past_key_values": _cache(model, states, paths),
            # transformers repeats the states for each beam, and asks for nothing but their number: they have no columns
            "encoder_outputs": BaseModelOutput(last_hidden_state=states[..., :0]),
        }
    finally:
        model.set_attn_implementation(before)


def _cache(model: Any, states: Tensor, paths: Paths) -> Any:
    from transformers import DynamicCache, EncoderDecoderCache

    class Cache(EncoderDecoderCache):
        def reorder_cache(self, beam_idx: Tensor) -> None:
            paths.go_on(beam_idx)  # the source's rows are the same for all its beams

    own, source = (DynamicCache(config=model.config) for _ in range(2))
    for number, layer in enumerate(model.model.decoder.layers):
        attention = layer.encoder_attn
        shape = (*states.shape[:2], attention.num_heads, attention.head_dim)
        keys = attention.k_proj(states).view(shape).permute(0, 2, 3, 1).contiguous()
        values = attention.v_proj(states).view(shape).transpose(1, 2).contiguous()
        source.update(keys, values, number)
        source.layers[number].keys = keys.transpose(2, 3)
        own.layers[number] = written(paths)
    return Cache(own, source)


def _attend(
    paths: Paths,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention of one token a beam, [sources × beams, H, 1, d], to keys [sources, H, places, d]."""
    rows, heads, _, width = query.shape
    folded = query.view(paths.sources, paths.beams, heads, width).transpose(1, 2) * scaling
    scores = folded @ key.transpose(-1, -2)
    if module.is_causal:  # to what the beams have written
        scores.masked_fill_(~paths.mask, -torch.inf)
    elif attention_mask is not None:
        scores.masked_fill_(~attention_mask[:: paths.beams], -torch.inf)
    attended = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return attended.transpose(1, 2).reshape(rows, 1, heads, width), None
