"""How alike the encoder states of host and donor are, on text that no step has seen.

Both read the same text, each in its own format (`graftlm.transfer.reading`): the donor `<s> X </s>`, the host the same
ids mapped by token string, with the code of the text's language, or `<s>` in its place where that is not known. The
tokens that both have are compared: X, `</s>`, and `<s>` where the host reads it in front. Layer i compares what layer i
reads: the donor's hidden state i against the output of the host's LayerNorm in front of layer i (a pre-LN residual
stream has no counterpart in a post-LN model); the last is the encoder's output.

- linear CKA (Kornblith 2019): invariant to rotation and scale, 1 = alike;
- cosine: mean over tokens, needs the same basis;
- relative error: ‖H - D‖ / ‖D‖ (Frobenius).

Beside them, of the donor: how much the spread σ of the tokens at each LayerNorm's input varies, and its scale γ over
the dimensions (coefficients of variation). A pre-LN host has no LayerNorm behind the sum that would undo either, so
where they vary much, a copy with shifted LayerNorms is far off.

A wider host is compared with the donor's states followed by zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from graftlm.transfer.passes import evaluation, outputs_of
from graftlm.transfer.reading import pairs, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftlm.transfer.graft import Texts
    from graftlm.transfer.vocabulary import Vocabulary

Figures = dict[str, float | None]


class Comparison:
    """Sums over tokens from which the figures follow; two sets of states of shape [tokens, d]."""

    def __init__(self) -> None:
        self.count = 0
        self._started = False

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Count one batch: host states and donor states, a row a token."""
        import torch

        a, b = ours.double(), theirs.double()
        if not self._started:
            # an offset near the mean, so that products of large common values do not eat the digits
            self._oa, self._ob = a.mean(0), b.mean(0)
            self._saa = torch.zeros(a.shape[1], a.shape[1], dtype=torch.float64)
            self._sbb = torch.zeros(b.shape[1], b.shape[1], dtype=torch.float64)
            self._sab = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64)
            self._sa, self._sb = torch.zeros_like(self._oa), torch.zeros_like(self._ob)
            self._cosine = self._difference = self._norm = 0.0
            self._started = True
        if a.shape == b.shape:
            self._cosine += float(torch.nn.functional.cosine_similarity(a, b, dim=1).sum())
            self._difference += float((a - b).square().sum())
            self._norm += float(b.square().sum())
        self.count += a.shape[0]
        a, b = (a - self._oa).float(), (b - self._ob).float()
        self._saa += a.T @ a
        self._sbb += b.T @ b
        self._sab += a.T @ b
        self._sa += a.double().sum(0)
        self._sb += b.double().sum(0)

    def figures(self) -> Figures:
        """CKA, cosine and relative error; null where one is not defined (other width, constant states)."""
        import torch

        if self.count < 2:
            return {"cka": None, "cosine": None, "relative_error": None}
        n = self.count
        caa = self._saa - torch.outer(self._sa, self._sa) / n
        cbb = self._sbb - torch.outer(self._sb, self._sb) / n
        cab = self._sab - torch.outer(self._sa, self._sb) / n
        scale = float(caa.norm() * cbb.norm())
        same = caa.shape == cbb.shape
        return {
            "cka": _number(float(cab.norm()) ** 2 / scale) if scale > 0 else None,
            "cosine": _number(self._cosine / n) if same else None,
            "relative_error": _number((self._difference / self._norm) ** 0.5) if same and self._norm > 0 else None,
        }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


class Variation:
    """The coefficient of variation of the tokens' σ at the input of each of `norms`, over batches, by hooks."""

    def __init__(self, norms: Sequence[Any]):
        self.norms = norms
        self.sums = np.zeros((len(norms), 3))  # count, Σσ, Σσ²

    @contextmanager
    def over(self, real: Tensor) -> Iterator[None]:
        """Count the tokens of one forward pass of which `real` [B, T] holds."""

        def counter(index: int) -> Callable[..., None]:
            def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                sigma = inputs[0].detach()[real.to(inputs[0].device)].double().std(dim=-1, correction=0)
                self.sums[index] += (len(sigma), float(sigma.sum()), float(sigma.square().sum()))

            return count

        handles = [norm.register_forward_pre_hook(counter(index)) for index, norm in enumerate(self.norms)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def figures(self) -> list[tuple[float | None, float | None]]:
        """σ's and γ's coefficient of variation for each LayerNorm; null where the mean is zero."""
        found = []
        for norm, (count, total, squares) in zip(self.norms, self.sums.tolist(), strict=True):
            sigma = (max(squares / count - (total / count) ** 2, 0.0)) ** 0.5 / (total / count) if total else None
            gamma = norm.weight.detach().double()
            mean = abs(float(gamma.mean()))
            found.append((sigma, _number(float(gamma.std(correction=0)) / mean) if mean else None))
        return found


def _norms(donor: Any, variation: Variation) -> list[dict[str, Any]]:
    """The figures of both LayerNorms of each of the donor's layers."""
    found = variation.figures()
    names = ("attention_sigma_cv", "attention_gamma_cv", "ffn_sigma_cv", "ffn_gamma_cv")
    return [
        {"layer": layer, **dict(zip(names, (*found[2 * layer], *found[2 * layer + 1]), strict=True))}
        for layer in range(donor.config.num_hidden_layers)
    ]


def compare(
    donor: Any, host: Any, vocabulary: Vocabulary, texts: Texts, longest: int = 256, languages: Sequence[str] = ()
) -> dict[str, Any]:
    """Figures of the last state and of each layer: {"texts", "tokens", "last": {...}, "layers": [{...}, ...], "norms"}.

    `languages`: the mBART code of each text, "" where it is not known. `tokens` are those compared.

    `layers` has one entry for each layer's input and one for the output, or the output only where the two encoders
    have different numbers of layers. `norms` has one for each layer of the donor: the coefficients of variation
    `attention_sigma_cv`, `attention_gamma_cv`, `ffn_sigma_cv` and `ffn_gamma_cv` of its two LayerNorms.
    """
    import torch

    longest = min(longest, donor.config.max_position_embeddings - 2, host.config.max_position_embeddings)
    rows = rows_of(texts, vocabulary, longest, languages)
    encoder = host.model.encoder
    same_depth = len(encoder.layers) == donor.config.num_hidden_layers
    sums: dict[int, Comparison] = {}
    count = 0
    places = [(block.attention.output.LayerNorm, block.output.LayerNorm) for block in donor.roberta.encoder.layer]
    variation = Variation([norm for both in places for norm in both])
    with torch.no_grad(), evaluation(donor, host):
        for pair in pairs(rows, vocabulary):
            attention = pair.real.long()
            device = next(donor.parameters()).device
            with variation.over(pair.real):
                theirs = donor.roberta(
                    input_ids=pair.ids.to(device),
                    attention_mask=attention.to(device),
                    output_hidden_states=True,
                ).hidden_states
            device = next(host.parameters()).device
            with outputs_of(_readings(encoder) if same_depth else []) as inputs:
                last = encoder(input_ids=pair.host.to(device), attention_mask=attention.to(device)).last_hidden_state
            ours = [*inputs, last] if same_depth else [last]
            depth = len(theirs) - 1
            for index, state in enumerate(ours):
                layer = index if same_depth else depth
                state = pair.aligned(state.cpu())[pair.both]
                sums.setdefault(layer, Comparison()).add(*_alike(state, theirs[layer].cpu()[pair.both]))
            count += int(pair.both.sum())
    layers = [{"layer": layer, **sums[layer].figures()} for layer in sorted(sums)]
    figures = (
        {name: value for name, value in layers[-1].items() if name != "layer"} if layers else Comparison().figures()
    )
    return {
        "texts": len(rows),
        "tokens": count,
        "last": figures,
        "layers": layers,
        "norms": _norms(donor, variation),
    }


def _readings(encoder: Any) -> list[Any]:
    """The modules whose outputs the layers of a host's encoder read."""
    if hasattr(encoder, "layer_norm"):  # mBART, pre-LN
        return [layer.self_attn_layer_norm for layer in encoder.layers]
    return [encoder.layernorm_embedding, *(layer.final_layer_norm for layer in encoder.layers[:-1])]


def _alike(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """States of a wider host beside the donor's with zeros in the dimensions that the donor lacks."""
    import torch

    more = ours.shape[1] - theirs.shape[1]
    return ours, torch.nn.functional.pad(theirs, (0, more)) if more > 0 else theirs
