"""Carry the encoder into a post-LN host, which computes the same: the lossless reference for all other grafts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graftlm.errors import Problem
from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.shapes import check_activation, check_same


@dataclass(frozen=True)
class Exact(Step):
    """Copy every layer into a BART host, whose LayerNorms stand behind the residual sums as XLM-R's do.

    Nothing is lost but the epsilon: BART's LayerNorms have 1e-5, as the released XLM-R do; where the donor has another
    one the states differ by about 1e-4 of their size.
    """

    reference: ClassVar[str] = "the layers of BART (Lewis et al. 2020, arXiv:1910.13461) are RoBERTa's"
    needs: ClassVar[tuple[str, ...]] = ("embeddings",)
    encodes: ClassVar[bool] = True

    def writes(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*",)

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        if host.get("model_type", "mbart") != "bart":
            yield Problem(
                "model.host.architecture",
                host.get("model_type", "mbart"),
                f"must be bart for this graft ({path}): mBART has its LayerNorms elsewhere",
                "set model.host.architecture=bart, or take transfer=calibrated",
            )
        yield from check_same(donor, host, ("d_model", "layers", "heads", "ffn"), f"for this graft ({path})")
        yield from check_activation(donor, host, "exact", path)

    def apply(self, graft: Graft) -> None:
        for layer in range(graft.host_config.encoder_layers):
            ours, theirs = anatomy.host_block(layer), anatomy.donor_block(layer)
            modules = [
                *zip(ours.linear(), theirs.linear(), strict=True),
                (ours.attention_norm, theirs.attention_norm),
                (ours.ffn_norm, theirs.ffn_norm),
            ]
            for module, source in modules:
                for to, of in zip(anatomy.pair(module), anatomy.pair(source), strict=True):
                    graft.write(to, graft.source(of), "copied", of)


STEP = Exact
