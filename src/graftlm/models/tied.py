"""Word embeddings of a host that are no longer one tensor for all uses."""

from __future__ import annotations

from typing import Any

import torch


def untie(host: Any) -> None:
    """Give encoder, decoder and output of an mBART or BART word embeddings of their own, of the values they share.

    A configuration of transformers (5.23) ties all of them or none, and a saved model holds a shared tensor once: with
    the output alone apart, the other two would come back random. `model.shared` is read by nothing then, and it is not
    trained. Untied already, nothing happens.
    """
    if not host.config.tie_word_embeddings:
        return
    host.config.tie_word_embeddings = False
    host.all_tied_weights_keys = {}
    first = host.model.shared.weight
    for module in (host.model.encoder.embed_tokens, host.model.decoder.embed_tokens, host.lm_head):
        if module.weight is first:
            module.weight = torch.nn.Parameter(first.detach().clone(), requires_grad=first.requires_grad)
    first.requires_grad_(False)
