"""Beams that share their source: the keys and values of a source are kept once, not once a beam.

transformers repeats the encoder's output for each beam, computes the cross-attention's keys and values of all of them,
and copies them anew at each step, though the beams of a source never differ in them. Here each layer holds them once a
source; the beams of a source are queries of one attention. Beam search itself is that of transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

NAME = "graftlm_shared_source"


def shared_source(model: Any, states: Tensor) -> Any:
    """A cache for `model.generate(past_key_values=…)` of an mBART or BART that holds the encoder's `states` [B, S, d].

    It is to be used inside `sharing(model)`.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    class Cache(EncoderDecoderCache):
        def reorder_cache(self, beam_idx: Tensor) -> None:
            self.self_attention_cache.reorder_cache(beam_idx)  # the source's rows are the same for all its beams

    source = DynamicCache(config=model.config)
    for number, layer in enumerate(model.model.decoder.layers):
        attention = layer.encoder_attn
        shape = (*states.shape[:2], attention.num_heads, attention.head_dim)
        keys, values = (
            projection(states).view(shape).transpose(1, 2).contiguous()
            for projection in (attention.k_proj, attention.v_proj)
        )
        source.update(keys, values, number)
    return Cache(DynamicCache(config=model.config), source)


@contextlib.contextmanager
def sharing(model: Any) -> Iterator[None]:
    """Within, the model's attention takes keys of B sources for queries of B times some beams."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention; where there are more queries than keys, as many follow each other for each key."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    beams = len(query) // len(key)
    if beams == 1:
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output
    rows, heads, length, width = query.shape
    folded = query.view(len(key), beams, heads, length, width).transpose(1, 2).reshape(len(key), heads, -1, width)
    mask = None if attention_mask is None else attention_mask[::beams, :, :1]  # the same for all places of a query
    attended = torch.nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, scale=options["scaling"]
    )
    attended = attended.view(len(key), heads, beams, length, width).permute(0, 2, 3, 1, 4)
    return attended.reshape(rows, length, heads, width), None
