"""Losses that compute logits only where a token is to be predicted.

With a large vocabulary the output layer is most of a step (73% of it for XLM-R base on a CPU), so places without a
label never reach it: the 85% that are not masked, and the padding of targets. Those that do go by the vocabulary in
blocks (`graftlm.models.blocked_loss`), and lookups in the same matrix add their gradient to that of the output layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftlm.models.blocked_loss import IGNORED, linear_cross_entropy
from graftlm.models.lookups import folded_lookups
from graftlm.models.packed import text_inputs

_PLACES = 32  # the places with a label are filled up to multiples of it: few sizes (see `data.pairs.MULTIPLE`)
_PLACES_A_TIME = 2048  # of logits held at once in evaluation: 2 GB in float32 for 250,000 tokens


def filled(places: int) -> int:
    """So many places with a label as they are filled up to."""
    return -(-places // _PLACES) * _PLACES


def unwrapped(model: Any) -> Any:
    """The transformers model inside an adapter wrapper (peft injects its layers in place)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def mlm_states(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """States [M, d] of an `XLMRobertaForMaskedLM` at `batch["positions"]` (places in the flattened batch)."""
    states = model.roberta(**text_inputs(model, batch)).last_hidden_state
    chosen: Tensor = states.reshape(-1, states.shape[-1])[batch["positions"]]
    return chosen


def mlm_logits(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Logits [M, V] at `batch["positions"]`."""
    model = unwrapped(model)
    logits: Tensor = model.lm_head(mlm_states(model, batch))
    return logits


def mlm_loss(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Mean cross entropy of the chosen tokens."""
    model = unwrapped(model)
    head = model.lm_head
    if type(head.decoder) is not nn.Linear:  # replaced by something of which only the outside is known
        return F.cross_entropy(mlm_logits(model, batch).float(), batch["labels"])
    with folded_lookups(head.decoder.weight) as lookups:
        states = mlm_states(model, batch)
    states = head.layer_norm(F.gelu(head.dense(states)))
    return linear_cross_entropy(states, head.decoder.weight, head.decoder.bias, batch["labels"], lookups=lookups)


def decoder_states(
    model: Any, batch: Mapping[str, Any], sources: Tensor | None = None, attention: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Decoder states [N, d] of the N places that have a label, and which these are [B, T].

    `sources` and `attention` replace those of the batch (the shuffled sources).
    """
    output = unwrapped(model).model(
        input_ids=batch["input_ids"] if sources is None else sources,
        attention_mask=batch["attention_mask"] if attention is None else attention,
        decoder_input_ids=batch["decoder_input_ids"],
        use_cache=False,
    )
    labelled = batch["labels"] != IGNORED
    return output.last_hidden_state[labelled], labelled


def _logits(model: Any, states: Tensor) -> Tensor:
    model = unwrapped(model)
    logits: Tensor = model.lm_head(states) + model.final_logits_bias
    return logits.float()


def seq2seq_loss(model: Any, batch: Mapping[str, Any], label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy per target token of an mBART or BART, label-smoothed (Szegedy 2016)."""
    model = unwrapped(model)
    head = model.lm_head
    if type(head) is not nn.Linear or head.bias is not None:
        states, labelled = decoder_states(model, batch)
        return F.cross_entropy(_logits(model, states), batch["labels"][labelled], label_smoothing=label_smoothing)
    with folded_lookups(head.weight) as lookups:
        states, labelled = decoder_states(model, batch)
    labels, bias = batch["labels"][labelled], model.final_logits_bias[0]
    more = filled(len(labels)) - len(labels)
    states, labels = F.pad(states, (0, 0, 0, more)), F.pad(labels, (0, more), value=IGNORED)
    return linear_cross_entropy(states, head.weight, bias, labels, label_smoothing, lookups)


@torch.no_grad()
def per_example_nll(
    model: Any, batch: Mapping[str, Any], sources: Tensor | None = None, attention: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of each row's target, summed over its tokens, and their number: [B] and [B].

    No label smoothing. `sources` and `attention` replace those of the batch.
    """
    states, labelled = decoder_states(model, batch, sources, attention)
    labels = batch["labels"][labelled]
    nll = torch.cat(
        [
            F.cross_entropy(_logits(model, some), wanted, reduction="none")
            for some, wanted in zip(
                torch.split(states, _PLACES_A_TIME), torch.split(labels, _PLACES_A_TIME), strict=True
            )
        ]
    )
    rows = labelled.nonzero()[:, 0]
    sums = torch.zeros(len(labelled), dtype=torch.float64, device="cpu").index_add_(0, rows.cpu(), nll.double().cpu())
    return sums, labelled.sum(dim=1).cpu()
