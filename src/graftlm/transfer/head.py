"""The donor's MLM head folded into the host's decoder, which has no place for it, by ridge on text.

The donor predicts from T = LN(gelu(W x + b)), x its last state; the host from the last state of its decoder. The last
output projection of the decoder is solved for y + [A 1]·W ≈ s·T, with A the features that it reads, y the stream that
it adds to and s their ratio in size; the LayerNorm behind it is fitted to T. The nonlinearity of the head is not there,
so T is met as far as a linear map of A meets it.

T at a token tells that token, not the next one: the decoder gets the space of the head, its task it has to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from graftlm.errors import TransferError
from graftlm.transfer.anatomy import (
    DONOR_HEAD,
    HOST_BIAS,
    HOST_DECODER_NORM,
    HOST_OUTPUT_NORM,
    HOST_WORDS,
    host_block,
    host_output_norm,
    pair,
)
from graftlm.transfer.calibrate import choose_texts
from graftlm.transfer.passes import evaluation
from graftlm.transfer.reading import pairs
from graftlm.transfer.ridge import (
    Affine,
    Batch,
    Normal,
    Options,
    fit_norm,
    solve_output,
    standardised,
)
from graftlm.transfer.weights import ROWS

if TYPE_CHECKING:
    from graftlm.transfer.graft import Graft

HELD_OUT = 10  # every tenth text is measured on instead


def fold_head(graft: Graft, tokens: int, longest: int, ridge: float, seed: int) -> None:
    """Fit and write the decoder's last projection and LayerNorm; the note says how close it came on held-out text.

    Raises:
        TransferError: there is no text.
    """
    rows = choose_texts(graft, tokens, longest, seed)
    if sum(map(len, rows)) < 16:
        raise TransferError.at(f"{graft.path}.tokens", tokens, "there is no calibration text", "give the graft some")
    for name in DONOR_HEAD:
        graft.source(name)  # marks it as used, and looks for values that are not finite
    decoder = graft.host.model.decoder
    last = host_block(len(decoder.layers) - 1, "decoder")
    # what reads the stream, and the LayerNorm behind the sum: in a post-LN host that of the layer
    pre = HOST_OUTPUT_NORM in graft.host_weights
    stream, behind = (last.ffn_norm, HOST_DECODER_NORM) if pre else (last.fc1, last.ffn_norm)
    norm = graft.host.get_submodule(behind)
    with torch.no_grad(), evaluation(graft.donor, graft.host), graft.progress.task("folding the MLM head", None):
        held = rows[HELD_OUT - 1 :: HELD_OUT]
        if held:
            rows = [row for index, row in enumerate(rows) if index % HELD_OUT != HELD_OUT - 1]
        streams, features = _collect(graft, rows, stream, last.fc2)
        seen = _collect(graft, held, stream, last.fc2) if held else None
        measured = seen or (streams, features)
        prior = _current(graft, last.fc2)
        before = _error(*measured, prior, _current(graft, behind), norm.eps)
        # the stream's own size: its slope on T, which it does not resemble yet, would be next to nothing
        size = sum(float(batch.y.double().square().sum()) for batch in streams)
        scale = (size / sum(float(batch.x.double().square().sum()) for batch in streams)) ** 0.5
        targets = [batch.x[batch.real] for batch in streams]
        scales = [t.new_full((len(t),), scale) for t in targets]
        output = solve_output(streams, features, targets, scales, prior, scale, Options(ridge, turns=0))
        moved = [
            Batch(batch.x, batch.y + linear(a, *output)[None], batch.real)
            for batch, a in zip(streams, features, strict=True)
        ]
        fitted = fit_norm(moved, norm.eps)
        after = _error(*measured, output, fitted, norm.eps)
    where = f"on {sum(map(len, held))} tokens held out" if held else "on the text it was fitted on"
    note = f"the MLM head folded in: relative error {before:.3f} -> {after:.3f} {where}"
    for module, value in ((last.fc2, output), (behind, fitted)):
        for name, tensor in zip(pair(module), value, strict=True):
            graft.refine(name, tensor, "calibrated", note)


def fold_into_words(graft: Graft, tokens: int, longest: int, ridge: float, seed: int) -> None:
    """Multiply the output words, which are not tied, by the ridge map M of the decoder's last states n to T.

    M·n + c ≈ T gives the words E·M, and the bias of the logits E·c more; layers and LayerNorms stay as they are.

    Raises:
        TransferError: there is no text.
    """
    rows = choose_texts(graft, tokens, longest, seed)
    if sum(map(len, rows)) < 16:
        raise TransferError.at(f"{graft.path}.tokens", tokens, "there is no calibration text", "give the graft some")
    for name in DONOR_HEAD:
        graft.source(name)
    behind = host_output_norm(graft.host_weights, "decoder", int(graft.host_config.decoder_layers))
    width = int(graft.host_config.d_model)
    norm = graft.host.get_submodule(behind)
    with torch.no_grad(), evaluation(graft.donor, graft.host), graft.progress.task("folding the MLM head", None):
        held = rows[HELD_OUT - 1 :: HELD_OUT]
        if held:
            rows = [row for index, row in enumerate(rows) if index % HELD_OUT != HELD_OUT - 1]
        # what the LayerNorm reads, twice: as the stream, and as the features of the map once it is normalised
        equations = Normal(width, width)
        for batch in _collect(graft, rows, behind, behind)[0]:
            equations.add(norm(batch.y[0].to(graft.host.device)).float().cpu(), batch.x[0])
        mapping, shift = equations.solve((torch.eye(width), torch.zeros(width)), ridge)
        missed = total = 0.0
        for batch in _collect(graft, held or rows, behind, behind)[0]:
            got = linear(norm(batch.y[0].to(graft.host.device)).float().cpu(), mapping, shift)
            missed += float((got - batch.x[0]).double().square().sum())
            total += float(batch.x.double().square().sum())
    words, bias = graft.current(HOST_WORDS[-1]), graft.current(HOST_BIAS)
    for start in range(0, len(words), ROWS):
        block = words[start : start + ROWS]
        bias[0, start : start + ROWS] += block @ shift.to(block)
        words[start : start + ROWS] = block @ mapping.to(block)
    where = f"on {sum(map(len, held))} tokens held out" if held else "on the text it was fitted on"
    error = (missed / max(total, 1e-30)) ** 0.5
    note = f"times the map of the MLM head, which it meets with a relative error of {error:.3f} {where}"
    graft.refine(HOST_WORDS[-1], words, "calibrated", note)
    graft.refine(HOST_BIAS, bias, "calibrated", "plus the words times the shift of that map")


def _collect(graft: Graft, rows: Sequence[Any], stream: str, reader: str) -> tuple[list[Batch], list[Tensor]]:
    """The real tokens of each batch as one row: x = T and y of a `Batch` [1, n, d], and the features A [n, f].

    stream, reader: modules of the host whose inputs are y and A.
    """
    donor, host, vocabulary = graft.donor, graft.host, graft.vocabulary
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Any:
        def keep(module: Any, inputs: tuple[Tensor, ...]) -> None:
            caught[name] = inputs[0]

        return host.get_submodule(name).register_forward_pre_hook(keep)

    handles = [catch(stream), catch(reader)]
    streams: list[Batch] = []
    features: list[Tensor] = []
    try:
        for pair in pairs(rows, vocabulary):
            real = pair.real
            # the decoder has a token in front of the text in either format
            written = torch.from_numpy(vocabulary.to_host(pair.ids.numpy()))
            written[~real] = vocabulary.roles["pad"][1]
            place = donor.device
            states = donor.roberta(pair.ids.to(place), attention_mask=real.long().to(place)).last_hidden_state
            head = donor.lm_head
            target = head.layer_norm(gelu(head.dense(states)))
            seen = real.long().to(host.device)
            host.model(
                input_ids=pair.host.to(host.device),
                attention_mask=seen,
                decoder_input_ids=written.to(host.device),
                decoder_attention_mask=seen,
                use_cache=False,
            )
            x, y, a = (state.float().cpu()[real] for state in (target, caught[stream], caught[reader]))
            streams.append(Batch(x[None], y[None], torch.ones(1, len(x), dtype=torch.bool)))
            features.append(a)
    finally:
        for handle in handles:
            handle.remove()
    return streams, features


def _error(streams: Sequence[Batch], features: Sequence[Tensor], output: Affine, norm: Affine, eps: float) -> float:
    """‖LN(y + [A 1]·W) - T‖ / ‖T‖."""
    missed = total = 0.0
    for batch, a in zip(streams, features, strict=True):
        got = standardised(batch.y[0] + linear(a, *output), eps) * norm[0] + norm[1]
        missed += float((got - batch.x[0]).double().square().sum())
        total += float(batch.x.double().square().sum())
    return float((missed / max(total, 1e-30)) ** 0.5)


def _current(graft: Graft, module: str) -> Affine:
    weight, bias = pair(module)
    return graft.current(weight), graft.current(bias)
