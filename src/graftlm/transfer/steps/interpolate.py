"""Mix what the steps before have written with what the host was: half a graft instead of a whole one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.changes import check_merged
from graftlm.transfer.graft import Graft, Step

_EMBEDDINGS = (
    *anatomy.HOST_WORDS,
    anatomy.HOST_BIAS,
    *(anatomy.host_positions(side) for side in ("encoder", "decoder")),
    *(name for side in ("encoder", "decoder") for name in anatomy.pair(anatomy.host_embedding_norm(side))),
)


@dataclass(frozen=True)
class Interpolate(Step):
    """host = (1 - α) · what it was + α · what was grafted, for each tensor of the encoder that the graft changed.

    Weights of two trainings that share no beginning have no common basis: between XLM-R's encoder and mBART's the
    middle is worse than either end until it is trained. Nearer relatives (a host that was grafted and trained before)
    can be mixed as they are (Wortsman 2022).

    alpha: of the first layer, and of all where `last` is null. 0 undoes the graft, 1 leaves it.
    last: of the last layer (and the encoder's last LayerNorm); between the two α runs linearly.
    embeddings: of words, positions, their LayerNorms and the output's bias; null is `alpha`.
    """

    alpha: float = setting(0.5, at_least=0, at_most=1)
    last: float | None = setting(None, at_least=0, at_most=1)
    embeddings: float | None = setting(None, at_least=0, at_most=1)

    reference: ClassVar[str] = "Wortsman et al. 2022 (arXiv:2109.01903), weights between two ends"
    after: ClassVar[tuple[str, ...]] = (
        *("embeddings", "encoder", "exact", "naive", "distill", "shuffle", "lora", "delta"),
    )
    reads_donor: ClassVar[bool] = False
    needs_pretrained: ClassVar[bool] = True
    mixes: ClassVar[bool] = True

    def builds_on(self) -> tuple[str, ...]:
        return self.refines()

    def refines(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*", "model.encoder.layer_norm.*", *_EMBEDDINGS)

    def check_behind(self, earlier: Sequence[tuple[str, Step]], path: str) -> Iterator[Problem]:
        yield from check_merged(earlier, "interpolate", path)

    def originals(self) -> tuple[str, ...]:
        return self.refines()

    def apply(self, graft: Graft) -> None:
        import torch

        depth = graft.host_config.encoder_layers
        last = self.alpha if self.last is None else self.last
        mixed: dict[str, float] = {}
        for layer in range(depth):
            share = layer / (depth - 1) if depth > 1 else 0.0
            at = f"model.encoder.layers.{layer}."
            alpha = (1 - share) * self.alpha + share * last
            mixed |= {name: alpha for name in graft.host_weights.aliases if name.startswith(at)}
        mixed |= dict.fromkeys(anatomy.pair(anatomy.HOST_LAST_NORM), last)
        mixed |= dict.fromkeys(_EMBEDDINGS, self.alpha if self.embeddings is None else self.embeddings)
        done: set[str] = set()
        for name, alpha in mixed.items():
            if name not in graft.host_weights or graft.ledger.host_name(name) in done:
                continue
            before, value = graft.original(name), graft.current(name)
            if before.equal(value):
                continue
            done.add(graft.ledger.host_name(name))
            torch.lerp(before, value, alpha, out=value)
            graft.refine(name, value, "mapped", f"{alpha:.3g} x the graft, the rest as it was")
        if not done:
            raise TransferError.at(
                graft.path, graft.step, "no step before it changed the encoder", "leave it out, or put it behind one"
            )


STEP = Interpolate
