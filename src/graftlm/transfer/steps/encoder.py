"""Carry the encoder's layers by sequential ridge on text: what a copy cannot do across post-LN and pre-LN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.shapes import check_activation, check_pre_ln


@dataclass(frozen=True)
class Encoder(Step):
    """Fit each sublayer of the host, in order, to what the donor computes there (see `graftlm.transfer.ridge`).

    tokens: how many tokens of calibration text are used at most; whole texts, drawn with `seed`.
    max_length: longer texts are cut, specials included.
    ridge: strength of the regularisation of the output projections towards the donor's, in units of the mean diagonal.
    input_ridge: the same for the maps that read a LayerNorm (q, k, v, fc1); null copies them.
    turns: how often the tokens' scales and the projection are solved for in turn; 0 is one common scale.
    fewer, more: where the layers of a host with fewer or more of them come from (`graftlm.transfer.layers`).

    A wider host, or one with more feed-forward units, computes what one of the donor's width would
    (`graftlm.transfer.growth`). Its heads must have the donor's size.
    """

    tokens: int = setting(60_000, at_least=16)
    max_length: int = setting(256, at_least=4)
    ridge: float = setting(0.05, above=0)
    input_ridge: float | None = setting(None, above=0)
    turns: int = setting(3, at_least=0)
    fewer: Literal["spread", "first", "last", "ends"] = "spread"
    more: Literal["each", "stack"] = "each"
    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = "no publication found; derived and measured in this project"
    needs: ClassVar[tuple[str, ...]] = ("embeddings",)
    encodes: ClassVar[bool] = True
    needs_models: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True

    def writes(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*", "model.encoder.layer_norm.*")

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        yield from check_pre_ln(host, path)
        ours, theirs = anatomy.Shape.of_host(host), anatomy.Shape.of_donor(donor)
        if ours.ffn < theirs.ffn:
            yield Problem(
                "model.host.ffn",
                ours.ffn,
                f"must be at least the donor's {theirs.ffn} for this graft ({path})",
                "set model.host.ffn=null, or take a host checkpoint of that shape",
            )
        head = theirs.d_model // theirs.heads
        if ours.d_model // ours.heads != head:
            yield Problem(
                "model.host.heads",
                ours.heads,
                f"must give heads of the donor's {head} dimensions for this graft ({path})",
                f"set it to {max(ours.d_model // head, 1)}, or model.host.d_model and heads to null",
            )
        yield from check_activation(donor, host, "encoder", path)

    def apply(self, graft: Graft) -> None:
        from graftlm.transfer.calibrate import Depth, calibrate, choose_texts
        from graftlm.transfer.ridge import Options

        rows = choose_texts(graft, self.tokens, self.max_length, self.seed)
        found = sum(map(len, rows))
        if found < 16:
            reason = f"{found} tokens of calibration text are too few" if found else "there is no calibration text"
            raise TransferError.at(f"{graft.path}.tokens", self.tokens, reason, "give the graft more text")
        if 2 * found < self.tokens:
            graft.progress.say(
                f"{graft.step}: calibrated on {found} tokens, all there are, of the {self.tokens} asked for"
            )
        calibrate(graft, rows, Options(self.ridge, self.input_ridge, self.turns), Depth(self.fewer, self.more))


STEP = Encoder
