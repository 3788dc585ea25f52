"""Train the host's encoder layers to give what the donor's give: what a closed form leaves over, by gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from graftlm.errors import Problem
from graftlm.fields import setting
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.shapes import check_pre_ln, check_same


@dataclass(frozen=True)
class Distill(Step):
    """Distil the donor's states, sublayer by sublayer, into the host's encoder (see `graftlm.transfer.distillation`).

    It starts from whatever the host holds: best from `encoder`, which is worth far more than as much time spent here.

    steps, batch_tokens, max_length: optimiser steps, padded tokens of each, longest text (specials included).
    lr, warmup: the highest rate, and the share of the steps over which it rises; then it falls to 0.
    layers: weight of the error of each sublayer's input against 1 for the encoder's output.
    noise: share of the tokens that are replaced by random ones of the vocabulary, which the donor reads too: the states
        of words that the text lacks.
    optimizer: of the matrices: `muon` or `adam`; vectors are always Adam's.
    momentum: of Muon.
    precision: of the products; `auto` is bfloat16 where the trainer's precision is mixed, or where the device has
        instructions for it.
    """

    steps: int = setting(110, at_least=2)
    batch_tokens: int = setting(2048, at_least=16)
    max_length: int = setting(256, at_least=4)
    lr: float = setting(5e-4, above=0, at_most=1)
    warmup: float = setting(0.1, at_least=0, below=1)
    layers: float = setting(0.3, at_least=0)
    noise: float = setting(0.0, at_least=0, below=1)
    optimizer: Literal["muon", "adam"] = "muon"
    momentum: float = setting(0.95, at_least=0, below=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = (
        "Hinton et al. 2015 (arXiv:1503.02531), of hidden states: Jiao et al. 2020 (arXiv:1909.10351); "
        "Muon: Liu et al. 2025 (arXiv:2502.16982)"
    )
    after: ClassVar[tuple[str, ...]] = ("embeddings", "naive", "encoder")
    encodes: ClassVar[bool] = True
    needs_models: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    def refines(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*", "model.encoder.layer_norm.*")

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        yield from check_pre_ln(host, path)
        why = f"for this graft ({path}): distill compares states layer by layer"
        yield from check_same(donor, host, ("d_model", "layers"), why)

    def apply(self, graft: Graft) -> None:
        from graftlm.transfer.distillation import distill

        result = distill(graft, self)
        note = (
            f"{self.steps} steps of distillation, {result.tokens} tokens, error {result.first:.3f} -> {result.last:.3f}"
        )
        for name, value in result.tensors.items():
            graft.refine(name, value, "trained", note)


STEP = Distill
