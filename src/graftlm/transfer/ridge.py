"""Sequential ridge: a post-LN encoder carried into a pre-LN one, layer by layer, in closed form.

The donor computes x' = LN(x + f(x)) with x the output of the LayerNorm before; the host y' = y + g(LN(y)). For each
sublayer in turn, on the host's own stream y:

1. its LayerNorm is fitted, per dimension, so that LN(y) ≈ x (least squares on scale and bias);
2. if wanted, the maps that read it (q, k, v or fc1) are corrected by the linear map from LN(y) to x, a ridge towards
   identity;
3. it runs up to its output projection, which gives the features A;
4. with u = x + f(x), the output projection solves a ridge problem for y + [A 1]·W ≈ s·u, regularised towards α times
   the copied projection, α the slope of y on x; y takes its new value.

At the end the host's last LayerNorm is fitted to the donor's output.

The scale s: post-LN renormalises each token at each sublayer, pre-LN carries a token's size along, and the tokens of a
real encoder differ much in size. What follows reads y through a LayerNorm, which does not see a token's size. So s is
free, a number a token: it starts at α·√(sᵢ/α), sᵢ the slope of the token's own y on x; then scales and W are solved for
in turns, each token's error counted relative to its size. With `turns=0` s is α for all tokens, unweighted.

Both streams advance together, so memory holds two states a token and the features of one sublayer, whatever the depth.
Products of a chunk of tokens are computed in float32 and summed in float64; the systems are solved in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from graftlm.errors import TransferError

Affine = tuple[Tensor, Tensor]
# tokens whose products are summed in float32 before they are added in float64
CHUNK = 4096
# tokens a feature that a turn before the last needs
PLENTY = 8
# bounds of a token's scale, in units of the common one
LOW, HIGH = 0.02, 100.0


@dataclass(frozen=True)
class Options:
    """See `graftlm.transfer.steps.encoder`."""

    ridge: float = 0.05
    input_ridge: float | None = None
    turns: int = 3


@dataclass
class Batch:
    """Padded states of one batch, [B, T, d]: donor x, host y; `real` [B, T] marks tokens, `seen` masks attention.

    `both` marks the tokens that both sides have, on which the fit is made; None: all that are real.
    """

    x: Tensor
    y: Tensor
    real: Tensor
    both: Tensor | None = None

    @property
    def fitted(self) -> Tensor:
        """The tokens to fit on, [B, T]."""
        return self.real if self.both is None else self.both

    def among_real(self, values: Tensor) -> Tensor:
        """Of values of the real tokens, [n, ...], those of the tokens to fit on."""
        return values if self.both is None else values[self.both[self.real]]

    @property
    def seen(self) -> Tensor:
        """Attention mask [B, 1, 1, T]."""
        return self.real[:, None, None, :]


class Normal:
    """Normal equations of weighted least squares [A 1]·W ≈ R, accumulated over tokens."""

    def __init__(self, features: int, targets: int):
        self.gram = torch.zeros(features + 1, features + 1, dtype=torch.float64)
        self.cross = torch.zeros(features + 1, targets, dtype=torch.float64)

    def add(self, a: Tensor, r: Tensor, weight: Tensor | None = None) -> None:
        """Count tokens: features [n, f], targets [n, t], weights [n]."""
        count = a.shape[1]
        for start in range(0, len(a), CHUNK):
            part, goal = a[start : start + CHUNK], r[start : start + CHUNK]
            left = part if weight is None else part * weight[start : start + CHUNK, None]
            ones = part.new_ones(len(part)) if weight is None else weight[start : start + CHUNK]
            # the column of ones apart: products of a width that is a multiple of 64 are several times faster
            self.gram[:count, :count] += left.T @ part
            sums = left.sum(0)
            self.gram[count, :count] += sums
            self.gram[:count, count] += sums
            self.gram[count, count] += ones.sum()
            self.cross[:count] += left.T @ goal
            self.cross[count] += ones @ goal

    def solve(self, prior: Affine, ridge: float) -> Affine:
        """Weight [t, f] and bias [t], regularised towards `prior` by `ridge` times the mean diagonal.

        Raises:
            TransferError: if the states overflowed.
        """
        start = torch.cat([prior[0].T, prior[1][None]]).double()
        count = len(self.gram) - 1
        strength = ridge * float(self.gram.diagonal()[:count].mean())
        if not (math.isfinite(strength) and all(bool(torch.isfinite(part).all()) for part in (self.gram, self.cross))):
            raise TransferError.at(
                "transfer", None, "the donor's states are too large to calibrate on", "check the donor's training"
            )
        system = self.gram.clone()
        system.diagonal()[:count] += max(strength, 1e-12)
        system[count, count] += 1e-9 * float(self.gram[count, count]) + 1e-12
        rest = self.cross - self.gram @ start
        factor, failed = torch.linalg.cholesky_ex(system)
        more = 1e-6 * float(system.diagonal().mean())
        while int(failed):  # a ridge of next to nothing on states that do not vary, or that float32 has summed up
            system.diagonal().add_(more)
            factor, failed = torch.linalg.cholesky_ex(system)
            more *= 10
        solution = (start + torch.cholesky_solve(rest, factor)).float()
        return solution[:count].T.contiguous(), solution[count].contiguous()


def standardised(y: Tensor, eps: float) -> Tensor:
    """LayerNorm without scale and bias."""
    return layer_norm(y, y.shape[-1:], eps=eps)


def fit_norm(batches: Sequence[Batch], eps: float) -> Affine:
    """Scale and bias, per dimension, with which the LayerNorm of y comes closest to x."""
    n = 0
    width = batches[0].x.shape[-1]
    sz, sx, szz, szx = (torch.zeros(width, dtype=torch.float64) for _ in range(4))
    for batch in batches:
        z = standardised(batch.y[batch.fitted], eps).double()
        x = batch.x[batch.fitted].double()
        n += len(z)
        sz += z.sum(0)
        sx += x.sum(0)
        szz += z.square().sum(0)
        szx += (z * x).sum(0)
    mz, mx = sz / n, sx / n
    variance = szz / n - mz.square()
    covariance = szx / n - mz * mx
    # a dimension that does not vary on the text carries nothing but its mean
    scale = torch.where(variance > 1e-10, covariance / variance.clamp_min(1e-10), torch.zeros_like(variance))
    return scale.float(), (mx - scale * mz).float()


def attention(h: Tensor, seen: Tensor, q: Affine, k: Affine, v: Affine, heads: int) -> Tensor:
    """Self-attention up to its output projection, [B, T, d] → [B, T, d]."""
    shape = (*h.shape[:2], heads, -1)
    query, key, value = (linear(h, *part).view(shape).transpose(1, 2) for part in (q, k, v))
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)
    return mixed.transpose(1, 2).reshape(h.shape)


def slope(batches: Sequence[Batch]) -> float:
    """Least-squares slope of y on x over all tokens, kept positive: unlike streams need a scale too."""
    product = square = 0.0
    for batch in batches:
        x = batch.x[batch.fitted].double()
        product += float((batch.y[batch.fitted].double() * x).sum())
        square += float(x.square().sum())
    return max(product / square, 1e-3) if square > 0 else 1.0


@dataclass
class Sublayer:
    """Maps of one sublayer of the donor (as they are) and its features as a function of its input and maps.

    `onward`: the donor's sublayers behind it that the host has no place for.
    """

    inputs: list[Affine]
    output: Affine
    features: Callable[[Tensor, Tensor, list[Affine]], Tensor]
    norm: Affine
    eps: float
    onward: Sequence[Sublayer] = ()

    def sum(self, x: Tensor, seen: Tensor) -> Tensor:
        """The donor's residual sum u, at the end of the sublayers that go with this one."""
        u: Tensor = x + linear(self.features(x, seen, self.inputs), *self.output)
        last = self
        for part in self.onward:
            u, last = part.sum(last.normed(u), seen), part
        return u

    def normed(self, u: Tensor) -> Tensor:
        return layer_norm(u, u.shape[-1:], *self.norm, eps=self.eps)

    def advance(self, x: Tensor, seen: Tensor) -> Tensor:
        """The donor's state behind the sublayers that go with this one."""
        last = self.onward[-1] if self.onward else self
        return last.normed(self.sum(x, seen))


def calibrate_sublayer(
    batches: list[Batch], part: Sublayer, host_eps: float, options: Options
) -> tuple[Affine, list[Affine], Affine]:
    """Fit one sublayer and advance both streams. Returns the host's LayerNorm, input maps and output projection."""
    alpha = slope(batches)
    norm = fit_norm(batches, host_eps)
    inputs = part.inputs
    if options.input_ridge is not None:
        mapping, shift = _input_map(batches, norm, host_eps, options.input_ridge)
        inputs = [(weight @ mapping, bias + weight @ shift) for weight, bias in part.inputs]

    features: list[Tensor] = []
    sums: list[Tensor] = []
    scales: list[Tensor] = []
    for batch in batches:
        h = standardised(batch.y, host_eps) * norm[0] + norm[1]
        features.append(part.features(h, batch.seen, inputs)[batch.real])
        u = part.sum(batch.x, batch.seen)
        own = bounded(slopes(batch.y[batch.real], batch.x[batch.real]), alpha)
        scales.append(alpha * (own / alpha).sqrt() if options.turns else torch.full_like(own, alpha))
        sums.append(u[batch.real])
        batch.x = (part.onward[-1] if part.onward else part).normed(u)

    prior = (alpha * part.output[0], alpha * part.output[1])
    output = solve_output(batches, features, sums, scales, prior, alpha, options)
    for batch, a in zip(batches, features, strict=True):
        batch.y[batch.real] += linear(a, *output)
    return norm, inputs, output


def solve_output(
    batches: Sequence[Batch],
    features: Sequence[Tensor],
    sums: Sequence[Tensor],
    scales: list[Tensor],
    prior: Affine,
    alpha: float,
    options: Options,
) -> Affine:
    """The projection W with y + [A 1]·W ≈ s·u, and s, which starts at `scales`, in turns. Leaves the streams.

    features, sums, scales: A [n, f], u [n, d] and s [n] of the real tokens of each batch; scales are replaced.
    """
    width = prior[0].shape[0]
    output = prior
    turns = max(options.turns, 1)
    tokens = sum(map(len, features))
    # the scales settle on fewer tokens: turns before the last use every stride-th batch, as long as there are plenty
    stride = max(min(tokens // (PLENTY * prior[0].shape[1]), len(batches)), 1)
    for turn in range(turns):
        if turn:
            for index, (batch, a, u) in enumerate(zip(batches, features, sums, strict=True)):
                reached = batch.y[batch.real] + linear(a, *output)
                scales[index] = bounded(slopes(reached, u), alpha)
        equations = Normal(prior[0].shape[1], width)
        share = slice(None) if turn + 1 == turns else slice(turn % stride, None, stride)
        for batch, a, u, s in zip(batches[share], features[share], sums[share], scales[share], strict=True):
            weight = (s * u.std(-1, correction=0)).clamp_min(1e-6).pow(-2) if options.turns else None
            goal = s[:, None] * u - batch.y[batch.real]
            weight = None if weight is None else batch.among_real(weight)
            equations.add(batch.among_real(a), batch.among_real(goal), weight)
        output = equations.solve(prior, options.ridge)
    return output


def _input_map(batches: Sequence[Batch], norm: Affine, eps: float, ridge: float) -> Affine:
    """The linear map from LN(y) to x, a ridge towards identity."""
    width = norm[0].numel()
    equations = Normal(width, width)
    for batch in batches:
        equations.add(standardised(batch.y[batch.fitted], eps) * norm[0] + norm[1], batch.x[batch.fitted])
    return equations.solve((torch.eye(width), torch.zeros(width)), ridge)


def slopes(y: Tensor, x: Tensor) -> Tensor:
    """Slope of each row of y on the same row of x, [n, d] → [n]."""
    return (x * y).sum(-1) / x.square().sum(-1).clamp_min(1e-12)


def bounded(scales: Tensor, alpha: float) -> Tensor:
    """Scales kept positive and within what a token's size can sensibly be."""
    return scales.clamp(abs(alpha) * LOW, abs(alpha) * HIGH)
