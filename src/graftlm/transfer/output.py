"""The host's output: how far apart its logits are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftlm.transfer import anatomy

if TYPE_CHECKING:
    from torch import Tensor

    from graftlm.transfer.graft import Graft

TEXTS, LENGTH = 32, 64  # texts and tokens of each on which the spread of the logits is measured


def output_norm(graft: Graft) -> tuple[str, str]:
    """Names of weight and bias of the LayerNorm whose output the decoder's words are predicted from."""
    return anatomy.pair(anatomy.host_output_norm(graft.host_weights, "decoder", int(graft.host_config.decoder_layers)))


def unit_logits(graft: Graft, source: str | None = None) -> None:
    """Lower the gain of the decoder's last LayerNorm so that the logits on calibration text have unit variance.

    Does nothing where there is no text or no model in memory. `source`: see `Graft.refine`.
    """
    if not len(graft.calibration) or graft.host_model is None:
        return
    import torch

    from graftlm.transfer.passes import evaluation
    from graftlm.transfer.reading import fitted_languages, pairs, rows_of

    languages = fitted_languages(graft, range(len(graft.calibration[:TEXTS])))
    host = graft.host
    longest = min(LENGTH, int(graft.host_config.max_position_embeddings))
    spreads: list[Tensor] = []
    with evaluation(host), torch.no_grad():
        for row in rows_of(graft.calibration[:TEXTS], graft.vocabulary, longest, languages):
            (pair,) = pairs([row], graft.vocabulary)
            text = torch.from_numpy(graft.vocabulary.to_host(row.ids))[None].to(host.device)
            read = pair.host.to(host.device)
            states = host.model(input_ids=read, decoder_input_ids=text, use_cache=False).last_hidden_state[0]
            spreads.append(host.lm_head(states).float().std(dim=-1))
    if not spreads:
        return
    gain = min(1.0, 1 / max(float(torch.cat(spreads).mean()), 1e-6))
    for name in output_norm(graft):
        value = graft.current(name)
        if bool(value.any()):  # a bias of zeros stays what it is
            note = f"x {gain:.4f}: logits of unit variance"
            graft.refine(name, gain * value, "calibrated", note, source)
