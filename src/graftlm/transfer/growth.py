"""A donor carried into a wider host so that the host computes what a host of the donor's width would.

The wider residual stream holds the narrow one in its first d of D dimensions and the mean of these in all others. So
its mean is the narrow mean and its variance d/D of the narrow one: a LayerNorm over D dimensions gives √(D/d) times
what the narrow one gives, and 0 in the rest; its weight makes up for it. The rest is read by nothing (zero columns)
and kept at the mean by each output projection, whose new rows are the mean of the old ones.

- Heads and feed-forward units are duplicated, and the columns that read them divided among the copies: exact, as in
  Net2Net (Chen 2016, arXiv:1511.05641) and bert2BERT's FPI (Chen 2022, arXiv:2110.07143). The shares are random, a
  number of its own for each entry: copies with like shares get like gradients, and would stay copies for good.
- The width is exact inside the encoder (bert2BERT duplicates dimensions, which shifts what LayerNorm sees). In the
  embedding block the rest has to be the mean of what comes *after* a LayerNorm: half of the new columns of a row e get
  mean(e) + g, half mean(e) - g with g = mean(γ·(e - mean(e))). The variance grows by g², one part in a few thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Affine = tuple["Tensor", "Tensor"]


@dataclass(frozen=True)
class Growth:
    """From width `narrow` to `wide`, heads of `head` dimensions, `ffn` units to `wide_ffn`. Nothing to do if equal."""

    narrow: int
    wide: int
    head: int
    ffn: int
    wide_ffn: int

    @classmethod
    def between(cls, donor: Any, host: Any) -> Growth:
        """From an XLM-R's configuration to an mBART's."""
        head = donor.hidden_size // donor.num_attention_heads
        return cls(donor.hidden_size, host.d_model, head, donor.intermediate_size, host.encoder_ffn_dim)

    @property
    def widens(self) -> bool:
        return self.wide != self.narrow

    @property
    def any(self) -> bool:
        return self.widens or self.ffn != self.wide_ffn

    @property
    def gain(self) -> float:
        """The factor on the weight of a LayerNorm: √(d/D)."""
        return float((self.narrow / self.wide) ** 0.5)

    def eps(self, eps: float) -> float:
        """The epsilon that the narrow LayerNorm would need to do what the wide one does with its own."""
        return eps * self.wide / self.narrow

    def norm(self, value: Affine) -> Affine:
        """Weight and bias of a LayerNorm in front of a sublayer, or of the last one."""
        import torch

        if not self.widens:
            return value
        rest = self.wide - self.narrow
        weight = self.gain * value[0]
        return torch.cat([weight, weight.mean().expand(rest)]), torch.cat([value[1], value[1].new_zeros(rest)])

    def inputs(self, value: Affine, units: str) -> Affine:
        """A map that reads a LayerNorm and gives the units of `heads` or `ffn`: zero columns, duplicated rows."""
        from torch.nn.functional import pad

        weight, bias = value
        of = self._copies(units)
        return pad(weight, (0, self.wide - self.narrow))[of], bias[of]

    def output(self, value: Affine, units: str) -> Affine:
        """A map from the units of `heads` or `ffn` to the stream: divided columns, rows of the mean."""
        import torch

        weight, bias = value
        of = self._copies(units)
        if len(of) != weight.shape[1]:
            drawn = 0.5 + torch.rand(len(weight), len(of), generator=torch.Generator().manual_seed(0)).to(weight)
            weight = weight[:, of] * drawn / torch.zeros_like(weight).index_add_(1, of, drawn)[:, of]
        rest = self.wide - self.narrow
        mean, shift = weight.mean(0, keepdim=True).expand(rest, -1), bias.mean().expand(rest)
        return torch.cat([weight, mean]), torch.cat([bias, shift])

    def rows(self, table: Tensor, gamma: Tensor) -> Tensor:
        """Rows of an embedding table [n, d] → [n, D], before the embeddings' LayerNorm with the weight `gamma`."""
        import torch

        if not self.widens:
            return table
        mean = table.mean(1, keepdim=True)
        aside = ((table - mean) * gamma).mean(1, keepdim=True) * self._signs(table)
        return torch.cat([table, mean + aside], dim=1)

    def embedding_norm(self, value: Affine, factor: float = 1.0) -> Affine:
        """The LayerNorm behind the embeddings, its weight times `factor`: what it adds to the rest is the mean of the
        first d dimensions."""
        import torch

        weight, bias = factor * value[0], value[1]
        if not self.widens:
            return weight, bias
        rest = factor * self.gain * self._signs(weight)
        return torch.cat([self.gain * weight, rest]), torch.cat([bias, bias.mean().expand(self.wide - self.narrow)])

    def _signs(self, like: Tensor) -> Tensor:
        """+1 for the first half of the new dimensions, -1 for the other."""
        rest = self.wide - self.narrow
        signs = like.new_ones(rest)
        signs[rest // 2 :] = -1
        return signs

    def _copies(self, units: str) -> Tensor:
        """Which old unit each new one copies."""
        import torch

        size = self.head if units == "heads" else 1
        old, new = (self.narrow, self.wide) if units == "heads" else (self.ffn, self.wide_ffn)
        groups = torch.arange(new // size) % (old // size)
        return (groups[:, None] * size + torch.arange(size)).reshape(-1)
