"""The walk of the calibration: sublayer by sublayer through the host's encoder, both streams advancing together.

What is done at each is in `graftlm.transfer.ridge`. A host with fewer layers takes some of the donor's: the
feed-forward sublayer in front of a gap is fitted to the sum at the gap's end. One with more has extra layers that add
nothing; one that is wider is fitted at the donor's width and grown (`graftlm.transfer.growth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear

from graftlm.transfer.anatomy import (
    DONOR_EMBEDDING_NORM,
    HOST_EPS,
    HOST_LAST_NORM,
    Block,
    donor_block,
    host_block,
    pair,
)
from graftlm.transfer.growth import Growth
from graftlm.transfer.layers import Fewer, More, choose, places
from graftlm.transfer.passes import evaluation
from graftlm.transfer.ridge import Affine, Batch, Options, Sublayer, attention, calibrate_sublayer, fit_norm

if TYPE_CHECKING:
    from graftlm.transfer.graft import Graft
    from graftlm.transfer.reading import Row


def choose_texts(graft: Graft, tokens: int, longest: int, seed: int) -> list[Row]:
    """Texts of at most `tokens` tokens in all, framed by specials, in an order that `seed` alone decides."""
    import numpy as np

    from graftlm.transfer.reading import fitted_languages, rows_of

    longest = min(longest, graft.host.config.max_position_embeddings)
    if graft.donor_config is not None:
        longest = min(longest, graft.donor_config.max_position_embeddings - 2)
    chosen: list[Row] = []
    total = 0
    for index in np.random.default_rng(seed).permutation(len(graft.calibration)):
        languages = fitted_languages(graft, [int(index)])
        for row in rows_of([graft.calibration[int(index)]], graft.vocabulary, longest, languages):
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


def calibrate(graft: Graft, rows: Sequence[Row], options: Options, depth: Depth = Depth()) -> None:
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
        text = f"on {sum(map(len, rows))} tokens"
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
                    graft, growth, host_block(ours), layer, units, (fitted, inputs, output), extra, refitted, text
                )
                advance(1)
        last = growth.norm(fit_norm(streams, eps))
        _write(graft, HOST_LAST_NORM, last, "calibrated", donor_block(donor.num_hidden_layers - 1).ffn_norm, text)


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
    text: str,
) -> None:
    """Write one sublayer of the host, grown to its width; `text`: what it was fitted on."""
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
    _write(graft, to_norm, growth.norm(norm), "calibrated", of_norm, _joined(text, grown))
    for name, value in zip(names, inputs, strict=True):
        source = getattr(theirs, name)
        status = "calibrated" if refitted else "mapped" if growth.any else "copied"
        _write(graft, getattr(ours, name), growth.inputs(value, units), status, source, _joined(text * refitted, grown))
    note = _joined(grown, "an extra layer: it adds nothing yet") if extra else _joined(text, grown)
    status = "mapped" if extra else "calibrated"
    _write(graft, getattr(ours, out), growth.output(output, units), status, getattr(theirs, out), note)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _start(graft: Graft, rows: Sequence[Row], growth: Growth) -> list[Batch]:
    """Both streams after the embeddings; of a wider host the dimensions that the donor has."""
    from graftlm.transfer.reading import pairs

    streams = []
    for batch in pairs(rows, graft.vocabulary):
        x = graft.donor.roberta.embeddings(input_ids=batch.ids).float()
        y = batch.embedded(graft.host.model.encoder).float()
        both = None if torch.equal(batch.both, batch.real) else batch.both
        streams.append(Batch(x, y[..., : growth.narrow].contiguous(), batch.real, both))
    return streams


def _source(graft: Graft, module: str) -> Affine:
    weight, bias = pair(module)
    return graft.source(weight), graft.source(bias)


def _write(graft: Graft, module: str, value: Affine, status: str, source: str, note: str = "") -> None:
    for name, tensor, of in zip(pair(module), value, pair(source), strict=True):
        graft.write(name, tensor, status, of, note)
