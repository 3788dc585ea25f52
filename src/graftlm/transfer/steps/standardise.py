"""Give the encoder's output mean 0 and variance 1 in each dimension, as a fresh decoder expects it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftlm.errors import TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step


@dataclass(frozen=True)
class Standardise(Step):
    """Fold the mean and the spread of the output on calibration text into the encoder's last LayerNorm.

    A pretrained encoder's states share a large common vector and some dimensions that are far larger than the rest; to
    the cross-attention of a random decoder all tokens look alike. Cosine with the donor falls by design.

    strength: 1 standardises, 0 changes nothing; between, both outputs are mixed.
    tokens: of calibration text.
    """

    strength: float = setting(1.0, above=0, at_most=1)
    tokens: int = setting(20_000, at_least=100)

    reference: ClassVar[str] = "Huang et al. 2021 (arXiv:2104.01767) whiten sentence states; here each dimension alone"
    after: ClassVar[tuple[str, ...]] = (
        *("embeddings", "encoder", "exact", "naive", "distill", "shuffle", "decoder", "lora", "delta", "interpolate"),
    )
    reads_donor: ClassVar[bool] = False
    needs_models: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    def refines(self) -> tuple[str, ...]:
        # of a post-LN host, the last layer's
        return ("model.encoder.layer_norm.*", "model.encoder.layers.*.final_layer_norm.*")

    def apply(self, graft: Graft) -> None:
        import torch

        from graftlm.transfer.calibrate import choose_texts
        from graftlm.transfer.passes import evaluation
        from graftlm.transfer.reading import pairs

        rows = choose_texts(graft, self.tokens, 256, 0)
        count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
        with torch.no_grad(), evaluation(graft.host):
            for pair in pairs(rows, graft.vocabulary):
                encoder = graft.host.model.encoder
                states = encoder(input_ids=pair.host, attention_mask=pair.real.long()).last_hidden_state
                states = states[pair.real].double()
                count += len(states)
                total = total + states.sum(0)
                squares = squares + states.square().sum(0)
        if count < 2:
            raise TransferError.at(
                f"{graft.path}.tokens", self.tokens, "there is no calibration text", "give the graft some text"
            )
        mean = total / count
        spread = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
        # a dimension that does not vary (of a grown host) is only centred: its spread is rounding
        usual = spread.square().mean().sqrt()  # no median: of a host twice as wide, half of the dimensions do not vary
        spread = torch.where(spread < 1e-3 * usual, torch.ones_like(spread), spread)
        factor = ((1 - self.strength) + self.strength / spread).float()
        shift = (self.strength * mean / spread).float()
        module = anatomy.host_output_norm(graft.host_weights, "encoder", int(graft.host_config.encoder_layers))
        weight, bias = anatomy.pair(module)
        note = f"output of mean 0 and variance 1 on {count} tokens (strength {self.strength:g})"
        graft.refine(weight, factor * graft.current(weight), "calibrated", note)
        graft.refine(bias, factor * graft.current(bias) - shift, "calibrated", note)


STEP = Standardise
