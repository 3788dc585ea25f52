"""The loss of a trimmed model over the whole vocabulary, so that the trimmed objective is never mistaken for it.

A model cut to some tokens (`model.trim`) need not tell its labels from the tokens that were cut off: its loss is lower
by what those would take of the probability. Their rows stand in the checkpoint still, and are read from the file block
by block, so that next to no memory holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftlm.models.loss import decoder_states, unwrapped
from graftlm.models.packed import text_inputs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCHES = 8  # of a validation, spread over it
PLACES = 64  # of such a batch, spread over it
_ROWS = 16384
# where a checkpoint keeps the output layer's weight and bias; the first that is there counts
_NAMES = {
    "donor": (
        ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("lm_head.bias", "lm_head.decoder.bias"),
    ),
    "host": (
        ("lm_head.weight", "model.shared.weight", "model.decoder.embed_tokens.weight"),
        ("final_logits_bias",),
    ),
}


class CutRows:
    """The rows of an output layer that a trimmed model lacks, as its checkpoint has them.

    Args:
        weight: [V, d], a tensor or a slice of a file: `weight[start:stop]` gives rows.
        bias: [V], or None.
        rows: the ids that the trimmed model has kept (`Corpus.donor_rows`, `Corpus.host_rows`).
    """

    def __init__(self, weight: Any, bias: Tensor | None, size: int, rows: npt.NDArray[np.int64]):
        self._weight, self._bias = weight, bias
        self._cut = torch.ones(size, dtype=torch.bool)
        self._cut[torch.as_tensor(rows)] = False

    @classmethod
    def of(cls, settings: Any, role: str, kind: str, rows: npt.NDArray[np.int64] | None) -> CutRows | None:
        """Those of `model.donor` or `model.host`; None where nothing was trimmed, or there is no checkpoint.

        Args:
            settings: `DonorSettings` or `HostSettings`.
            kind: its `model_type`.
        """
        from safetensors import safe_open
        from transformers.utils import cached_file

        from graftlm.checkpoint import WEIGHTS, resolve
        from graftlm.models.build import load_model, model_class

        if rows is None or settings.checkpoint is None:
            return None
        path = f"model.{role}.checkpoint"
        place = resolve(settings.checkpoint, path, WEIGHTS)
        file = cached_file(place, WEIGHTS[0], revision=settings.revision, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            opened: Any = safe_open(file, "pt")
            there = set(opened.keys())
            weight, bias = (next((name for name in names if name in there), None) for names in _NAMES[role])
            if weight is not None:
                rest = opened.get_tensor(bias).flatten() if bias is not None else None
                part = opened.get_slice(weight)
                return cls(part, rest, part.get_shape()[0], rows)
        whole = load_model(model_class(kind), settings.checkpoint, settings.revision, kind, path)
        table = whole.get_output_embeddings().weight.detach()
        rest = whole.lm_head.bias.detach() if role == "donor" else whole.final_logits_bias.flatten()
        return cls(table, rest, len(table), rows)

    def log_norm(self, states: Tensor) -> Tensor:
        """log Σ exp(logit) over the rows that were cut off, for states [N, d]: [N]."""
        states = states.float()
        total = states.new_full((len(states),), -torch.inf)
        for start in range(0, len(self._cut), _ROWS):
            cut = self._cut[start : start + _ROWS]
            if not cut.any():
                continue
            block = self._weight[start : start + _ROWS][cut].to(states)
            bias = None if self._bias is None else self._bias[start : start + _ROWS][cut].to(states)
            total = torch.logaddexp(total, F.linear(states, block, bias).logsumexp(dim=1))
        return total

    @torch.no_grad()
    def added(self, states: Tensor, own: Tensor) -> Tensor:
        """How much the loss of each place grows over the whole vocabulary, given its logits over the kept: [N]."""
        with torch.autocast(states.device.type, enabled=False):
            norm = own.float().logsumexp(dim=1)
            return torch.logaddexp(norm, self.log_norm(states)) - norm

    def added_mlm(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """`added` of some of a batch's masked places, of an XLM-R."""
        model = unwrapped(model)
        states = model.roberta(**text_inputs(model, batch)).last_hidden_state
        chosen = _some(states.reshape(-1, states.shape[-1])[batch["positions"]])
        head = model.lm_head
        chosen = head.layer_norm(F.gelu(head.dense(chosen)))
        return self.added(chosen, head.decoder(chosen))

    def added_seq2seq(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """`added` of some of a batch's target places, of an mBART or BART."""
        states = _some(decoder_states(model, batch)[0])
        model = unwrapped(model)
        return self.added(states, model.lm_head(states) + model.final_logits_bias)


def is_chosen(number: int, batches: int) -> bool:
    """Whether batch `number` of a validation is one of those that are looked at: up to `BATCHES`, spread over it."""
    return batches <= BATCHES or number * BATCHES // batches != (number - 1) * BATCHES // batches


def _some(places: Tensor) -> Tensor:
    """Up to `PLACES` of [N, d], spread evenly."""
    if len(places) <= PLACES:
        return places
    return places[torch.arange(PLACES, device=places.device) * len(places) // PLACES]
