"""Copy by name and by id, blind: the negative control that the other steps are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.weights import ROWS


@dataclass(frozen=True)
class Naive(Step):
    """What a name match gives: no scale, LayerNorms where their names say, rows by id (`<mask>` lands on a language).

    Tables of different length share their first rows; a layer or a tensor of another shape is left out.
    """

    reference: ClassVar[str] = "the usual state-dict copy; a control"
    encodes: ClassVar[bool] = True

    def writes(self) -> tuple[str, ...]:
        return (
            "model.shared.weight",
            "model.encoder.embed_positions.weight",
            "model.encoder.layernorm_embedding.*",
            "model.encoder.layers.*",
        )

    def apply(self, graft: Graft) -> None:
        pairs = [
            (anatomy.HOST_WORDS[0], anatomy.DONOR_WORDS),
            (anatomy.host_positions(), anatomy.DONOR_POSITIONS),
        ]
        for to, of in pairs:
            if graft.host_weights.shape(to)[1] != graft.donor_weights.shape(of)[1]:
                continue
            ours = graft.current(to)
            rows = min(len(ours), graft.donor_weights.shape(of)[0])
            for start in range(0, rows, ROWS):
                stop = min(start + ROWS, rows)
                ours[start:stop] = graft.source(of, start, stop)
            note = f"rows 0..{rows - 1} by id" + (f", {len(ours) - rows} left" if len(ours) > rows else "")
            graft.write(to, ours, "copied", of, note)
        modules = [(anatomy.host_embedding_norm(), anatomy.DONOR_EMBEDDING_NORM)]
        layers = min(graft.host_config.encoder_layers, graft.donor_config.num_hidden_layers)
        for layer in range(layers):
            ours_, theirs_ = anatomy.host_block(layer), anatomy.donor_block(layer)
            modules += zip(ours_.linear(), theirs_.linear(), strict=True)
            modules += [(ours_.attention_norm, theirs_.attention_norm), (ours_.ffn_norm, theirs_.ffn_norm)]
        for module, source in modules:
            for to, of in zip(anatomy.pair(module), anatomy.pair(source), strict=True):
                if graft.host_weights.shape(to) == graft.donor_weights.shape(of):
                    graft.write(to, graft.source(of), "copied", of)


STEP = Naive
