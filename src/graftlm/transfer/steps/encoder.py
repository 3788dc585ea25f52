"""Carry the encoder's layers by sequential ridge on text: what a copy cannot do across post-LN and pre-LN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step


@dataclass(frozen=True)
class Encoder(Step):
    """Fit each sublayer of the host, in order, to what the donor computes there (see `graftlm.transfer.calibrate`).

    tokens: how many tokens of calibration text are used at most; whole texts, drawn with `seed`.
    max_length: longer texts are cut, specials included.
    ridge: strength of the regularisation of the output projections towards the donor's, in units of the mean diagonal.
    input_ridge: the same for the maps that read a LayerNorm (q, k, v, fc1); null copies them.
    turns: how often the tokens' scales and the projection are solved for in turn; 0 is one common scale.
    """

    tokens: int = setting(60_000, at_least=16)
    max_length: int = setting(256, at_least=4)
    ridge: float = setting(0.05, above=0)
    input_ridge: float | None = setting(None, above=0)
    turns: int = setting(5, at_least=0)
    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = "no publication found; derived and measured in this project"
    needs: ClassVar[tuple[str, ...]] = ("embeddings",)
    encodes: ClassVar[bool] = True
    needs_models: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True

    def writes(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*", "model.encoder.layer_norm.*")

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        ours, theirs = anatomy.Shape.of_host(host), anatomy.Shape.of_donor(donor)
        for name, setting_name in (
            ("d_model", "d_model"),
            ("layers", "encoder_layers"),
            ("heads", "heads"),
            ("ffn", "ffn"),
        ):
            have, want = getattr(ours, name), getattr(theirs, name)
            if have != want:
                yield Problem(
                    f"model.host.{setting_name}",
                    have,
                    f"must be the donor's {want} for this graft ({path})",
                    f"set model.host.{setting_name}=null, or take a host checkpoint of that shape",
                )
        if ours.activation != theirs.activation:
            yield Problem(
                f"{path}.step",
                "encoder",
                f"the donor's activation is {theirs.activation}, the host's {ours.activation}",
                "take a host with the donor's activation",
            )

    def apply(self, graft: Graft) -> None:
        from graftlm.transfer.calibrate import Options, calibrate, choose_texts

        rows = choose_texts(graft, self.tokens, self.max_length, self.seed)
        if sum(map(len, rows)) < 16:
            raise TransferError.at(
                f"{graft.path}.tokens", self.tokens, "there is no calibration text", "give the graft some text"
            )
        calibrate(graft, rows, Options(self.ridge, self.input_ridge, self.turns))


STEP = Encoder
