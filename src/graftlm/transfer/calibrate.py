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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from graftlm.errors import TransferError
from graftlm.transfer.anatomy import DONOR_EMBEDDING_NORM, HOST_LAST_NORM, donor_block, host_block, pair

if TYPE_CHECKING:
    from graftlm.transfer.graft import Graft

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
    turns: int = 5


@dataclass
class Batch:
    """Padded states of one batch, [B, T, d]: donor x, host y; `real` [B, T] marks tokens, `seen` masks attention."""

    x: Tensor
    y: Tensor
    real: Tensor

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
        a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
        for start in range(0, len(a), CHUNK):
            part, goal = a[start : start + CHUNK], r[start : start + CHUNK]
            left = part if weight is None else part * weight[start : start + CHUNK, None]
            self.gram += left.T @ part
            self.cross += left.T @ goal

    def solve(self, prior: Affine, ridge: float) -> Affine:
        """Weight [t, f] and bias [t], regularised towards `prior` by `ridge` times the mean diagonal.

        Raises:
            TransferError: if the states overflowed.
        """
        start = torch.cat([prior[0].T, prior[1][None]]).double()
        count = len(self.gram) - 1
        strength = ridge * float(self.gram.diagonal()[:count].mean())
        if not (math.isfinite(strength) and bool(torch.isfinite(self.cross).all())):
            raise TransferError.at(
                "transfer", None, "the donor's states are too large to calibrate on", "check the donor's training"
            )
        system = self.gram.clone()
        system.diagonal()[:count] += max(strength, 1e-12)
        system[count, count] += 1e-9 * float(self.gram[count, count]) + 1e-12
        rest = self.cross - self.gram @ start
        factor, failed = torch.linalg.cholesky_ex(system)
        if int(failed):  # a ridge of next to nothing on states that do not vary
            system.diagonal().add_(1e-6 * float(system.diagonal().mean()))
            factor = torch.linalg.cholesky(system)
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
        z = standardised(batch.y[batch.real], eps).double()
        x = batch.x[batch.real].double()
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
        x = batch.x[batch.real].double()
        product += float((batch.y[batch.real].double() * x).sum())
        square += float(x.square().sum())
    return max(product / square, 1e-3) if square > 0 else 1.0


@dataclass
class Sublayer:
    """Maps of one sublayer of the donor (as they are) and its features as a function of its input and maps."""

    inputs: list[Affine]
    output: Affine
    features: Callable[[Tensor, Tensor, list[Affine]], Tensor]
    norm: Affine
    eps: float


def calibrate_sublayer(
    batches: list[Batch], part: Sublayer, host_eps: float, options: Options
) -> tuple[Affine, list[Affine], Affine]:
    """Fit one sublayer and advance both streams. Returns the host's LayerNorm, input maps and output projection."""
    alpha = slope(batches)
    norm = fit_norm(batches, host_eps)
    width = norm[0].numel()
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
        u = batch.x + linear(part.features(batch.x, batch.seen, part.inputs), *part.output)
        own = _bounded(_slopes(batch.y[batch.real], batch.x[batch.real]), alpha)
        scales.append(alpha * (own / alpha).sqrt() if options.turns else torch.full_like(own, alpha))
        sums.append(u[batch.real])
        batch.x = layer_norm(u, u.shape[-1:], *part.norm, eps=part.eps)

    prior = (alpha * part.output[0], alpha * part.output[1])
    output = prior
    turns = max(options.turns, 1)
    tokens = sum(map(len, features))
    # the scales settle on fewer tokens: turns before the last use every stride-th batch, as long as there are plenty
    stride = max(min(tokens // (PLENTY * part.output[0].shape[1]), len(batches)), 1)
    for turn in range(turns):
        if turn:
            for index, (batch, a, u) in enumerate(zip(batches, features, sums, strict=True)):
                reached = batch.y[batch.real] + linear(a, *output)
                scales[index] = _bounded(_slopes(reached, u), alpha)
        equations = Normal(part.output[0].shape[1], width)
        share = slice(None) if turn + 1 == turns else slice(turn % stride, None, stride)
        for batch, a, u, s in zip(batches[share], features[share], sums[share], scales[share], strict=True):
            weight = (s * u.std(-1, correction=0)).clamp_min(1e-6).pow(-2) if options.turns else None
            equations.add(a, s[:, None] * u - batch.y[batch.real], weight)
        output = equations.solve(prior, options.ridge)
    for batch, a in zip(batches, features, strict=True):
        batch.y[batch.real] += linear(a, *output)
    return norm, inputs, output


def _input_map(batches: Sequence[Batch], norm: Affine, eps: float, ridge: float) -> Affine:
    """The linear map from LN(y) to x, a ridge towards identity."""
    width = norm[0].numel()
    equations = Normal(width, width)
    for batch in batches:
        equations.add(standardised(batch.y[batch.real], eps) * norm[0] + norm[1], batch.x[batch.real])
    return equations.solve((torch.eye(width), torch.zeros(width)), ridge)


def _slopes(y: Tensor, x: Tensor) -> Tensor:
    """Slope of each row of y on the same row of x, [n, d] → [n]."""
    return (x * y).sum(-1) / x.square().sum(-1).clamp_min(1e-12)


def _bounded(scales: Tensor, alpha: float) -> Tensor:
    """Scales kept positive and within what a token's size can sensibly be."""
    return scales.clamp(abs(alpha) * LOW, abs(alpha) * HIGH)


def choose_texts(graft: Graft, tokens: int, longest: int, seed: int) -> list[Any]:
    """Texts of at most `tokens` tokens in all, framed by specials, in an order that `seed` alone decides."""
    import numpy as np

    from graftlm.transfer.fidelity import framed

    longest = min(longest, graft.donor.config.max_position_embeddings - 2, graft.host.config.max_position_embeddings)
    chosen: list[Any] = []
    total = 0
    for index in np.random.default_rng(seed).permutation(len(graft.calibration)):
        for row in framed([graft.calibration[int(index)]], graft.vocabulary, longest):
            if total + len(row) > tokens and chosen:
                return chosen
            chosen.append(row)
            total += len(row)
    return chosen


def calibrate(graft: Graft, rows: Sequence[Any], options: Options) -> None:
    """Fit and write all layers of the host's encoder and its last LayerNorm."""
    from transformers.activations import ACT2FN

    from graftlm.transfer.fidelity import evaluation

    donor, host = graft.donor, graft.host
    heads, layers = donor.config.num_attention_heads, donor.config.num_hidden_layers
    act = ACT2FN[host.config.activation_function]
    with (
        torch.no_grad(),
        evaluation(donor, host),
        graft.progress.task("calibrating the encoder", 2 * layers) as advance,
    ):
        streams = _start(graft, rows)

        def attend(h: Tensor, seen: Tensor, maps: list[Affine]) -> Tensor:
            return attention(h, seen, maps[0], maps[1], maps[2], heads)

        def feed(h: Tensor, seen: Tensor, maps: list[Affine]) -> Tensor:
            return act(linear(h, *maps[0]))  # type: ignore[no-any-return]

        for layer in range(layers):
            ours, theirs = host_block(layer), donor_block(layer)
            for names, out, norm, to_norm, features in (
                (("query", "key", "value"), "out", theirs.attention_norm, ours.attention_norm, attend),
                (("fc1",), "fc2", theirs.ffn_norm, ours.ffn_norm, feed),
            ):
                part = Sublayer(
                    inputs=[_source(graft, getattr(theirs, name)) for name in names],
                    output=_source(graft, getattr(theirs, out)),
                    features=features,
                    norm=_source(graft, norm),
                    eps=donor.config.layer_norm_eps,
                )
                fitted, inputs, output = calibrate_sublayer(streams, part, _eps(graft, to_norm), options)
                _write(graft, to_norm, fitted, "calibrated", _norm_before(layer, names))
                for name, value in zip(names, inputs, strict=True):
                    status = "copied" if options.input_ridge is None else "calibrated"
                    _write(graft, getattr(ours, name), value, status, getattr(theirs, name))
                _write(graft, getattr(ours, out), output, "calibrated", getattr(theirs, out))
                advance(1)
        last = fit_norm(streams, _eps(graft, HOST_LAST_NORM))
        _write(graft, HOST_LAST_NORM, last, "calibrated", donor_block(layers - 1).ffn_norm)


def _start(graft: Graft, rows: Sequence[Any]) -> list[Batch]:
    """Both streams after the embeddings."""
    from graftlm.transfer.fidelity import batches

    donor, host, vocabulary = graft.donor, graft.host, graft.vocabulary
    encoder = host.model.encoder
    streams = []
    for ids, mask in batches(rows, vocabulary.roles["pad"][0]):
        real = torch.from_numpy(mask)
        mapped = torch.from_numpy(vocabulary.to_host(ids))
        mapped[~real] = vocabulary.roles["pad"][1]
        x = donor.roberta.embeddings(input_ids=torch.from_numpy(ids)).float()
        words = encoder.embed_tokens(mapped)
        y = encoder.layernorm_embedding(words + encoder.embed_positions(mapped)).float()
        streams.append(Batch(x, y, real))
    return streams


def _source(graft: Graft, module: str) -> Affine:
    weight, bias = pair(module)
    return graft.source(weight), graft.source(bias)


def _write(graft: Graft, module: str, value: Affine, status: str, source: str) -> None:
    for name, tensor, of in zip(pair(module), value, pair(source), strict=True):
        graft.write(name, tensor, status, of)


def _norm_before(layer: int, names: Sequence[str]) -> str:
    """The donor's LayerNorm whose output this sublayer reads."""
    if names != ("fc1",):
        return donor_block(layer - 1).ffn_norm if layer else DONOR_EMBEDDING_NORM
    return donor_block(layer).attention_norm


def _eps(graft: Graft, module: str) -> float:
    return float(graft.host.get_submodule(module).eps)
