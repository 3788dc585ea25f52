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

A host with fewer layers takes some of the donor's: the feed-forward sublayer in front of a gap is fitted to the sum at
the gap's end. One with more has extra layers that add nothing; one that is wider is fitted at the donor's width and
grown (`graftlm.transfer.growth`).

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
from graftlm.transfer.anatomy import (
    DONOR_EMBEDDING_NORM,
    HOST_EPS,
    HOST_LAST_NORM,
    Block,
    donor_block,
    host_block,
    pair,
)
from graftlm.transfer.fidelity import evaluation
from graftlm.transfer.growth import Growth
from graftlm.transfer.layers import Fewer, More, choose, places

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
    turns: int = 3


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
            equations.add(a, s[:, None] * u - batch.y[batch.real], weight)
        output = equations.solve(prior, options.ridge)
    return output


def _input_map(batches: Sequence[Batch], norm: Affine, eps: float, ridge: float) -> Affine:
    """The linear map from LN(y) to x, a ridge towards identity."""
    width = norm[0].numel()
    equations = Normal(width, width)
    for batch in batches:
        equations.add(standardised(batch.y[batch.real], eps) * norm[0] + norm[1], batch.x[batch.real])
    return equations.solve((torch.eye(width), torch.zeros(width)), ridge)


def slopes(y: Tensor, x: Tensor) -> Tensor:
    """Slope of each row of y on the same row of x, [n, d] → [n]."""
    return (x * y).sum(-1) / x.square().sum(-1).clamp_min(1e-12)


def bounded(scales: Tensor, alpha: float) -> Tensor:
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


@dataclass(frozen=True)
class Depth:
    """How layers of the host come from layers of the donor; see `graftlm.transfer.layers`."""

    fewer: Fewer = "spread"
    more: More = "each"


def calibrate(graft: Graft, rows: Sequence[Any], options: Options, depth: Depth = Depth()) -> None:
    """Fit and write all layers of the host's encoder and its last LayerNorm."""
    donor, host = graft.donor_config, graft.host_config
    growth = Growth.between(donor, host)
    eps, refitted = growth.eps(HOST_EPS), options.input_ridge is not None
    chosen = choose(donor.num_hidden_layers, host.encoder_layers, depth.fewer)
    layers = places(donor.num_hidden_layers, host.encoder_layers, depth.more)
    if host.encoder_layers <= donor.num_hidden_layers:
        layers = [(layer, False) for layer in chosen]
    with (
        torch.no_grad(),
        evaluation(graft.donor, graft.host),
        graft.progress.task("calibrating the encoder", 2 * host.encoder_layers) as advance,
    ):
        streams = _start(graft, rows, growth)
        for below in range(chosen[0]):  # the host's first layer reads what the donor's does there
            for part in _sublayers(graft, below):
                for batch in streams:
                    batch.x = part.advance(batch.x, batch.seen)
        for ours, (layer, extra) in enumerate(layers):
            gap = [] if extra else _between(layer, chosen, donor.num_hidden_layers)
            attention_part, ffn_part = _sublayers(graft, layer)
            ffn_part.onward = [part for between in gap for part in _sublayers(graft, between)]
            for part, units in ((attention_part, "heads"), (ffn_part, "ffn")):
                if extra:
                    fitted, inputs = fit_norm(streams, eps), part.inputs
                    output = torch.zeros_like(part.output[0]), torch.zeros_like(part.output[1])
                else:
                    fitted, inputs, output = calibrate_sublayer(streams, part, eps, options)
                _write_sublayer(
                    graft, growth, host_block(ours), layer, units, (fitted, inputs, output), extra, refitted
                )
                advance(1)
        last = growth.norm(fit_norm(streams, eps))
        _write(graft, HOST_LAST_NORM, last, "calibrated", donor_block(donor.num_hidden_layers - 1).ffn_norm)


def _between(layer: int, chosen: Sequence[int], depth: int) -> range:
    """The donor's layers from this one to the next that the host has."""
    following = [other for other in chosen if other > layer]
    return range(layer + 1, following[0] if following else depth)


def _sublayers(graft: Graft, layer: int) -> tuple[Sublayer, Sublayer]:
    """Both sublayers of a layer of the donor."""
    from transformers.activations import ACT2FN

    donor, names = graft.donor_config, donor_block(layer)
    act = ACT2FN[donor.hidden_act]

    def attend(h: Tensor, seen: Tensor, maps: list[Affine]) -> Tensor:
        return attention(h, seen, maps[0], maps[1], maps[2], donor.num_attention_heads)

    def feed(h: Tensor, seen: Tensor, maps: list[Affine]) -> Tensor:
        return act(linear(h, *maps[0]))  # type: ignore[no-any-return]

    queries = [_source(graft, name) for name in (names.query, names.key, names.value)]
    return (
        Sublayer(
            queries, _source(graft, names.out), attend, _source(graft, names.attention_norm), donor.layer_norm_eps
        ),
        Sublayer(
            [_source(graft, names.fc1)],
            _source(graft, names.fc2),
            feed,
            _source(graft, names.ffn_norm),
            donor.layer_norm_eps,
        ),
    )


def _write_sublayer(
    graft: Graft,
    growth: Growth,
    ours: Block,
    layer: int,
    units: str,
    fitted: tuple[Affine, list[Affine], Affine],
    extra: bool,
    refitted: bool,
) -> None:
    """Write one sublayer of the host, grown to its width."""
    theirs = donor_block(layer)
    norm, inputs, output = fitted
    names: tuple[str, ...]
    if units == "heads":
        to_norm, of_norm = ours.attention_norm, donor_block(layer - 1).ffn_norm if layer else DONOR_EMBEDDING_NORM
        names, out = ("query", "key", "value"), "out"
    else:
        to_norm, of_norm = ours.ffn_norm, theirs.attention_norm
        names, out = ("fc1",), "fc2"
    grown = "grown" if growth.any else ""
    _write(graft, to_norm, growth.norm(norm), "calibrated", of_norm, grown)
    for name, value in zip(names, inputs, strict=True):
        source = getattr(theirs, name)
        status = "calibrated" if refitted else "mapped" if growth.any else "copied"
        _write(graft, getattr(ours, name), growth.inputs(value, units), status, source, grown)
    note = "; ".join(part for part in (grown, "an extra layer: it adds nothing yet" if extra else "") if part)
    status = "mapped" if extra else "calibrated"
    _write(graft, getattr(ours, out), growth.output(output, units), status, getattr(theirs, out), note)


def _start(graft: Graft, rows: Sequence[Any], growth: Growth) -> list[Batch]:
    """Both streams after the embeddings; of a wider host the dimensions that the donor has."""
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
        streams.append(Batch(x, y[..., : growth.narrow].contiguous(), real))
    return streams


def _source(graft: Graft, module: str) -> Affine:
    weight, bias = pair(module)
    return graft.source(weight), graft.source(bias)


def _write(graft: Graft, module: str, value: Affine, status: str, source: str, note: str = "") -> None:
    for name, tensor, of in zip(pair(module), value, pair(source), strict=True):
        graft.write(name, tensor, status, of, note)
