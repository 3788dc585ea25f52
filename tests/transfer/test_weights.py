from __future__ import annotations

from typing import Any

import torch

from graftlm.transfer.weights import ModelWeights


def test_what_a_move_replaces_is_read_and_written_where_it_is_now(host: Any) -> None:
    """A module that moves keeps its parameters and gets new buffers."""
    weights = ModelWeights(host)
    before = host.final_logits_bias
    host.to(torch.float64).to(torch.float32)
    assert host.final_logits_bias is not before, "the move replaced the buffer"
    weights.write("final_logits_bias", torch.ones(weights.shape("final_logits_bias")))
    assert bool((host.final_logits_bias == 1).all())
    host.final_logits_bias = torch.full_like(host.final_logits_bias, 2)
    host.model.decoder.layer_norm.weight = torch.nn.Parameter(torch.full((32,), 3.0))
    assert bool((weights.read("final_logits_bias") == 2).all())
    assert bool((weights.copy("model.decoder.layer_norm.weight") == 3).all())
    weights.write("model.shared.weight", torch.zeros(weights.shape("model.shared.weight")))
    assert not host.lm_head.weight.any()  # tied
    assert host.model.shared.weight.requires_grad
