"""Stitch a new encoder to a decoder that was trained with another: a linear map into its cross-attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 4096  # tokens that are multiplied in float64 at once
_HELD_OUT = 10  # every so many texts are not fitted on
_LEAST = 16  # tokens


@dataclass(frozen=True)
class Bridge(Step):
    """Fit old ≈ M·new + b by ridge, over the tokens of texts that the old and the new encoder read alike.

    k = K·h + c of a cross-attention becomes K·M·h + (K·b + c), v likewise: no module is added. Both encoders read the
    very ids that fine-tuning gives (the host's format; `<s>` stands for a language that is not known).

    text: `identical`, the one choice. Sentence means of translations would leave open what tells the tokens of one
        sentence apart, which is what a cross-attention looks for.
    tokens: how many are used at most, whole texts drawn with `seed`; memory holds two states of each. A tenth of the
        texts is held out for the R² of the report.
    max_length: longer texts are cut, specials included.
    ridge: in units of the mean variance of a new state's dimension.
    """

    text: Literal["identical"] = "identical"
    tokens: int = setting(20_000, at_least=_LEAST)
    max_length: int = setting(256, at_least=4)
    ridge: float = setting(1e-3, above=0)
    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = "Bansal et al. 2021 (arXiv:2106.07682), model stitching"
    after: ClassVar[tuple[str, ...]] = (
        *("embeddings", "encoder", "exact", "naive", "distill", "shuffle", "standardise"),
        *("lora", "delta", "interpolate"),
    )
    reads_donor: ClassVar[bool] = False
    needs_models: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    needs_pretrained: ClassVar[bool] = True

    def builds_on(self) -> tuple[str, ...]:
        return ("model.encoder.*",)

    def refines(self) -> tuple[str, ...]:
        return tuple(f"model.decoder.layers.*.encoder_attn.{name}_proj.*" for name in "kv")

    def check_behind(self, earlier: Sequence[tuple[str, Step]], path: str) -> Iterator[Problem]:
        if any(getattr(step, "cross_attention", "keep") != "keep" for _, step in earlier):
            reason = "maps what the host's own cross-attention reads, which decoder has written anew"
            yield Problem(f"{path}.step", "bridge", reason, "set cross_attention=keep of decoder, or leave one out")

    def prepare(self, graft: Graft) -> None:
        rows = self._rows(graft)
        held, fitted = rows[::_HELD_OUT], [row for index, row in enumerate(rows) if index % _HELD_OUT]
        if sum(map(len, fitted)) < _LEAST:
            raise TransferError.at(f"{graft.path}.tokens", self.tokens, "there is too little text", "give more text")
        graft.memory["bridge"] = [(some, _states(graft, some)) for some in (fitted, held)]

    def apply(self, graft: Graft) -> None:
        (rows, old), (held, wanted) = graft.memory.pop("bridge")
        matrix, shift = fit(_states(graft, rows), old, self.ridge)
        found = _states(graft, held).double() @ matrix.T + shift
        spread = (wanted.double() - wanted.double().mean(0)).square().sum()
        share = float(1 - (wanted - found).square().sum() / spread)
        note = f"reads the new encoder by a linear map, R² {share:.3f} on {len(wanted)} held-out tokens"
        for layer in range(graft.host_config.decoder_layers):
            for name in "kv":
                weight, bias = anatomy.pair(f"model.decoder.layers.{layer}.encoder_attn.{name}_proj")
                reading = graft.current(weight).double()
                graft.refine(bias, (graft.current(bias) + reading @ shift).float(), "calibrated", note, bias)
                graft.refine(weight, (reading @ matrix).float(), "calibrated", note, weight)

    def _rows(self, graft: Graft) -> list[Any]:
        """Texts as the host reads them, of at most `tokens` tokens in all."""
        import numpy as np

        longest = min(self.max_length, graft.host_config.max_position_embeddings)
        chosen: list[Any] = []
        total = 0
        for index in np.random.default_rng(self.seed).permutation(len(graft.calibration)):
            ids = graft.vocabulary.to_host(np.asarray(graft.calibration[int(index)]))[: longest - 2]
            lang = graft.languages[int(index)] if len(graft.languages) else ""
            row = graft.format.reading(ids, lang)
            if total + len(row) > self.tokens and chosen:
                break
            chosen.append(np.asarray(row, dtype=np.int64))
            total += len(row)
        return chosen


def _states(graft: Graft, rows: Sequence[Any]) -> Tensor:
    """States of the host's encoder as it stands, one a token [n, d], in an order that the rows alone decide."""
    import torch

    from graftlm.transfer.frames import batches
    from graftlm.transfer.passes import evaluation

    host = graft.host
    found = [torch.zeros(0, graft.host_config.d_model)]
    with torch.no_grad(), evaluation(host):
        for ids, mask in batches(rows, graft.vocabulary.roles["pad"][1]):
            real = torch.from_numpy(mask)
            states = host.model.encoder(
                input_ids=torch.from_numpy(ids).to(host.device), attention_mask=real.long().to(host.device)
            ).last_hidden_state
            found.append(states.float().cpu()[real])
    return torch.cat(found)


def fit(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """M [t, f] and b [t] of y ≈ M·x + b in float64, from [n, f] and [n, t]; the bias is not regularised."""
    import torch

    mean_x, mean_y = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK].double() - mean_x
        gram += part.T @ part
        cross += part.T @ (y[start : start + _CHUNK].double() - mean_y)
    gram.diagonal().add_(max(ridge * float(gram.diagonal().mean()), 1e-12))
    matrix = torch.linalg.solve(gram, cross).T
    return matrix, mean_y - matrix @ mean_x


STEP = Bridge
