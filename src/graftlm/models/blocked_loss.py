"""Cross entropy of a linear layer over a large vocabulary, without its logits ever standing in memory as a whole.

The plain way writes N × V logits, their log-softmax and the gradient of both, in float32, and reads the V × d weights
three times. Here the vocabulary goes by in blocks of rows that stay in the processor's cache:

- one pass over the weights gives the loss and the gradient of the states: the normaliser is kept up to date block by
  block (online softmax, Milakov & Gimelshein 2018), and so is the sum of rows weighted by their probability, as flash
  attention does it (Dao 2022) with values;
- the backward pass makes the gradient of the weights, each row written once. It reads the weights again only where the
  logits were too many to be kept.

Exact: nothing is dropped or approximated, sums are taken in another order. Blocks of tokens instead of rows, as on GPUs
(Hsu 2024, Liger), would add up the gradient of all the weights once more for each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graftlm.models.lookups import Lookups

IGNORED = -100
ROWS = 8192  # of the vocabulary in a block
KEPT_BYTES = 2**28  # of logits that are kept for the backward pass
_SPARE = "_spare_gradient"  # attribute of a weight


def linear_cross_entropy(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float = 0.0,
    lookups: Lookups | None = None,
) -> Tensor:
    """`F.cross_entropy(F.linear(states, weight, bias), labels, label_smoothing=…)`, in float32 or wider.

    Args:
        states: [N, d]. Under autocast the products are in its type, as the layer's would be; sums are in float32.
        weight: [V, d].
        bias: [V], added in float32.
        labels: [N], `IGNORED` where a place does not count; the mean is over the others.
        lookups: those in `weight` that led to `states` (`graftlm.models.lookups`).
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    learns = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (states, weight, bias)
    )
    loss: Tensor = _Blocked.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, labels, label_smoothing, dtype, learns, lookups
    )
    return loss


class _Blocked(torch.autograd.Function):
    """N places, V rows, d columns. `wide` is the type of sums: float32, or float64 for states in it."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        learns: bool,
        lookups: Lookups | None,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            wide = torch.promote_types(dtype, torch.float32)
            places, size = len(states), len(weight)
            rows_learn = learns and (weight.requires_grad or (bias is not None and bias.requires_grad))
            keep = rows_learn and places * size * dtype.itemsize <= KEPT_BYTES
            narrow = states.to(dtype)
            top = states.new_full((places, 1), -torch.inf, dtype=wide)
            norm, own, total = (torch.zeros_like(top) for _ in range(3))
            others = states.new_zeros(states.shape, dtype=wide)  # rows but the label's, weighted by exp(logit - top)
            every = weight.new_zeros(weight.shape[1], dtype=wide)  # the sum of all rows
            kept: list[Tensor] = []
            for block, here, local, inside in _blocks(weight, labels):
                matrix = block.to(dtype)
                product = narrow @ matrix.T
                if keep:
                    kept.append(product)
                logits = _biased(product, bias, here, wide)
                own = torch.where(inside, logits.gather(1, local), own)
                higher = torch.maximum(top, logits.amax(dim=1, keepdim=True))
                if smoothing:
                    total += logits.sum(dim=1, keepdim=True)
                shares = logits.sub_(higher) if logits is not product else logits - higher
                shares = shares.exp_()
                shrink = (top - higher).exp_()
                norm = norm * shrink + shares.sum(dim=1, keepdim=True)
                top = higher
                if learns:
                    # (p - 1) · row of the label is added at the end: in bfloat16 it would drown where p is near 1
                    shares.scatter_(1, local, torch.where(inside, 0.0, shares.gather(1, local)))
                    others = others.mul_(shrink).add_(shares.to(dtype) @ matrix)
                    if smoothing:
                        every += block.sum(dim=0, dtype=wide)
            counts = labels != IGNORED
            share = (counts.to(wide) / counts.sum())[:, None]  # of each place in the mean
            log_norm = top + norm.log()
            losses = log_norm - (1 - smoothing) * own - (smoothing / size) * total
            if learns:
                row = weight[labels.clamp(min=0)].to(wide)
                rest = -torch.expm1(own - log_norm) - smoothing  # what the probabilities of the others add up to
                gradient = others.div_(norm).sub_(rest * row)
                if smoothing:
                    gradient -= (smoothing / size) * every
                gradient *= share
                ctx.save_for_backward(narrow, weight, bias, labels, share, log_norm, gradient, *kept)
                ctx.smoothing, ctx.state_dtype, ctx.lookups = smoothing, states.dtype, lookups
            return (losses.masked_fill(~counts[:, None], 0.0) * share).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        narrow, weight, bias, labels, share, log_norm, gradient, *kept = ctx.saved_tensors
        for_states, for_weight, for_bias = ctx.needs_input_grad[:3]
        states_grad = (gradient * upstream).to(ctx.state_dtype) if for_states else None
        weight_grad = _memory(weight) if for_weight else None
        bias_grad = torch.empty_like(bias) if for_bias else None
        if for_weight or for_bias:
            with torch.autocast(narrow.device.type, enabled=False):
                scale = share * upstream
                even = ctx.smoothing / len(weight)
                for number, (block, here, local, inside) in enumerate(_blocks(weight, labels)):
                    product = kept[number] if kept else narrow @ block.to(narrow.dtype).T
                    logits = _biased(product, bias, here, log_norm.dtype)
                    errors = (logits - log_norm if logits is product else logits.sub_(log_norm)).exp_()
                    if even:
                        errors -= even
                    wanted = inside.to(errors.dtype) * (1 - ctx.smoothing)
                    errors.scatter_add_(1, local, -wanted)
                    errors *= scale
                    if weight_grad is not None:
                        weight_grad[here] = errors.to(narrow.dtype).T @ narrow
                    if bias_grad is not None:
                        bias_grad[here] = errors.sum(dim=0)
        if ctx.lookups is not None and weight_grad is not None:
            ctx.lookups.offer(weight_grad)
        return states_grad, weight_grad, bias_grad, None, None, None, None, None


def _blocks(weight: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, slice, Tensor, Tensor]]:
    """The rows in blocks: some of them, which these are, and for each place [N, 1] its label in them, and if it is."""
    for start in range(0, len(weight), ROWS):
        block = weight[start : start + ROWS]
        local = labels[:, None] - start
        inside = (local >= 0) & (local < len(block))
        yield block, slice(start, start + len(block)), local.clamp(0, len(block) - 1), inside


def _biased(product: Tensor, bias: Tensor | None, here: slice, wide: torch.dtype) -> Tensor:
    """Logits in the wide type; `product` itself where there is nothing to convert or to add."""
    logits = product.to(wide)
    return logits if bias is None else logits + bias[here]


def recycle(weight: Tensor) -> None:
    """Takes the gradient from a parameter after an optimiser step; the next backward pass writes into its memory.

    Fresh memory comes page by page from the system, which costs as much as writing it twice. Whoever still holds the
    gradient would see it change. Other parameters than those of a blocked loss just lose theirs.
    """
    if hasattr(weight, _SPARE):
        setattr(weight, _SPARE, weight.grad)
    weight.grad = None


def forget(weight: Tensor) -> None:
    """Frees what `recycle` kept."""
    if hasattr(weight, _SPARE):
        delattr(weight, _SPARE)


def _memory(weight: Tensor) -> Tensor:
    """For a gradient: what the last one stood in, or new."""
    spare: Tensor | None = getattr(weight, _SPARE, None)
    setattr(weight, _SPARE, None)  # from now on one is to be kept
    if spare is None or spare.shape != weight.shape or spare.dtype != weight.dtype or spare.device != weight.device:
        return torch.empty_like(weight)
    return spare
