"""Attention in training on the processor that keeps queries, keys, values and the dropped places, and no more.

With dropout torch has no fused attention there: in bfloat16 it converts all of it to float32, and keeps three matrices
of B × H × Q × K for the backward pass, with the rest 28 of the 72 MB that a layer of xlm-roberta-base keeps at 8 × 128.
Without dropout it has one, whose backward pass in bfloat16 takes 26 ms a layer at 8 × 12 heads × 64 × 64. Here the
weights are computed once more in the backward pass (as flash attention does, Dao 2022): scores and softmax in float32,
the other products in the type of queries, keys and values, which adds up in float32. All of it is done for as many rows
and heads at a time as stay in the cache: a step goes over the weights a dozen times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from graftlm.models.dropout import is_usual, kept_places

NAME = "graftlm_lean"
_SHORT = 2**15  # places of a query and a key
_CACHED = 2**18  # weights of a block, for each thread: 1 MB in float32, half of a core's second cache


@contextmanager
def lean_attention(model: Any) -> Iterator[None]:
    """Within, a transformers model that uses SDPA attends this way in training on the processor."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    config = model.config
    if config._attn_implementation != "sdpa" or next(model.parameters()).device.type != "cpu":
        yield
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """As `sdpa_attention_forward` of transformers, which has all other cases: [B, H, Q, d] → [B, Q, H, d]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask = attention_mask
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    plain = mask is None or (mask.dtype == torch.bool and bool(mask.any(dim=-1).all()))  # no row without a place
    on_cpu = query.device.type == "cpu" and query.shape[1] == key.shape[1]
    if not (learns and on_cpu and plain and (is_usual(dropout) or (dropout == 0 and _is_short(query, key)))):
        lean: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **rest
        )
        return lean
    if mask is None and query.shape[2] > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    states: Tensor = _Attention.apply(query, key, value, mask, dropout, scale)  # type: ignore[no-untyped-call]
    return states.transpose(1, 2).contiguous(), None


def _is_short(query: Tensor, key: Tensor) -> bool:
    """Whether this is faster than torch's fused attention, which pays for each block, however small."""
    return query.dtype == torch.bfloat16 and query.shape[2] * key.shape[2] <= _SHORT


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float
    ) -> Tensor:
        ctx.scale, ctx.factor, kept = scale, 1.0, None
        with torch.autocast("cpu", enabled=False):
            if dropout:
                kept, ctx.factor = kept_places((*query.shape[:3], key.shape[2]), dropout)
                rows, heads, count = query.shape[:3]
                states = value.new_empty(rows, count, heads, value.shape[-1]).transpose(1, 2)
                for block in _blocks(query, key):
                    weights = _weights(query[block], key[block], _part(mask, block), scale)
                    weights.mul_(kept[block]).mul_(ctx.factor)
                    states[block] = weights.to(value.dtype) @ value[block]
            else:
                states = F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
            ctx.save_for_backward(query, key, value, mask, kept)
            return states

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, kept = ctx.saved_tensors
        for_query, for_key, for_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            for block in _blocks(query, key):
                own = upstream[block]
                weights = _weights(query[block], key[block], _part(mask, block), ctx.scale)
                errors = own.to(weights.dtype) @ value[block].to(weights.dtype).transpose(-1, -2)  # of the weights
                used = weights
                if kept is not None:
                    used = (weights * kept[block]).mul_(ctx.factor)
                    errors.mul_(kept[block]).mul_(ctx.factor)
                for_value[block] = used.to(own.dtype).transpose(-1, -2) @ own
                errors.sub_((errors * weights).sum(dim=-1, keepdim=True)).mul_(weights).mul_(ctx.scale)  # of the scores
                narrow = errors.to(query.dtype)
                for_query[block] = narrow @ key[block]
                for_key[block] = narrow.transpose(-1, -2) @ query[block]
        return for_query, for_key, for_value, None, None, None


Block = tuple[slice, slice]  # rows and heads


def _blocks(query: Tensor, key: Tensor) -> Iterator[Block]:
    """Rows and heads whose weights are at most `_CACHED`: several rows, one, or some heads of one."""
    rows, heads, count = query.shape[:3]
    most = max(1, _CACHED * torch.get_num_threads() // max(1, count * key.shape[2]))  # heads
    if most >= heads:
        step = most // heads
        yield from ((slice(row, row + step), slice(None)) for row in range(0, rows, step))
        return
    for row in range(rows):
        yield from ((slice(row, row + 1), slice(head, head + most)) for head in range(0, heads, most))


def _part(mask: Tensor | None, block: Block) -> Tensor | None:
    """Of a mask that may be the same for all rows or heads."""
    if mask is None:
        return None
    mask = mask[(None,) * (4 - mask.dim())]
    return mask[tuple(part if size > 1 else slice(None) for part, size in zip(block, mask.shape[:2], strict=True))]


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The softmax of the scores, in float32 or wider."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2)
    scores.mul_(scale)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    return scores.softmax(dim=-1)
