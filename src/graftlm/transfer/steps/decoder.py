"""Begin the host's decoder from the layers of its encoder, as they stand: calibrated, distilled or copied before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.changes import check_merged
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.layers import choose
from graftlm.transfer.output import unit_logits

if TYPE_CHECKING:
    from torch import Generator, Tensor

Layers = Literal["random", "first", "last", "spread", "interleaved", "swcm"]
# the encoder's layer of the self-attention, and that of the feed-forward part and the cross-attention; None: random
Source = tuple[int, int] | None


def sources(layers: Layers, encoder: int, decoder: int, every: int = 3) -> list[Source]:
    """Which of the encoder's layers each of the decoder's comes from."""
    if layers == "random":
        return [None] * decoder
    if layers == "interleaved":
        return [(2 * layer, 2 * layer + 1) for layer in range(decoder)]
    if layers == "swcm":
        copied = iter(choose(encoder, decoder - decoder // (every + 1)))
        places = [(layer + 1) % (every + 1) != 0 for layer in range(decoder)]
        taken = [next(copied) if place else None for place in places]
        return [None if layer is None else (layer, layer) for layer in taken]
    return [(layer, layer) for layer in choose(encoder, decoder, layers)]


@dataclass(frozen=True)
class Decoder(Step):
    """Write the decoder's layers from the encoder's; what is not copied is random.

    layers: which of the encoder's layers, self-attention and feed-forward part each with its LayerNorm:
        `first`, `last`, `spread` (evenly, `graftlm.transfer.layers`): BERT2BERT (Rothe 2020).
        `interleaved`: DeltaLM (Ma 2021): the self-attention of layer 2i, the feed-forward part and the cross-attention
            of 2i+1. DeltaLM has a second feed-forward part behind the self-attention, from layer 2i; mBART has one a
            layer, so that of 2i is left out.
        `swcm`: XLM-SWCM (2025): after `every` copied layers, taken evenly, a random one.
        `random`: none.
    every: see `swcm`.
    cross_attention: `random`; `copied` from the self-attention of the same layer (of `spread` layers where `layers` is
        random), with its LayerNorm; `zero`: random, but its output projection is zero, so that the decoder begins as
        the encoder's layers under a causal mask; `keep`: as it is, for a host from a checkpoint or another step.
    norm: whether the decoder's last LayerNorm is the encoder's, where layers are copied.
    output: `unit` lowers the gain of that LayerNorm until the logits on text have unit variance, see `embeddings`.
    head: `fold` fits the last projection and LayerNorm to the donor's MLM head (`graftlm.transfer.head`), of which
        `unit` then keeps the direction; `drop` leaves it out.
    tied: false gives the output words of its own: a copy, or with `fold` the words times the map of the head, which the
        last projection and LayerNorm are then not changed for. transformers ties all uses of the words or none, so that
        encoder and decoder get tables of their own too (`graftlm.models.tied`).
    tokens, max_length, ridge: of the text and of the fit of `fold`.
    seed: of what is drawn anew (a host from a checkpoint has no random part), and of the order of texts.

    A post-LN host (BART) has no last LayerNorm: `norm` does nothing there, `output` scales that of the last layer. With
    `zero` the LayerNorm behind its self-attention becomes plain and the encoder's stands behind the cross-attention,
    which gives the same.
    """

    layers: Layers = "spread"
    every: int = setting(3, at_least=1)
    cross_attention: Literal["random", "copied", "zero", "keep"] = "random"
    norm: bool = True
    output: Literal["unit", "keep"] = "unit"
    head: Literal["drop", "fold"] = "drop"
    tied: bool = True
    tokens: int = setting(20_000, at_least=16)
    max_length: int = setting(256, at_least=4)
    ridge: float = setting(0.05, above=0)
    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = (
        "Rothe et al. 2020 (arXiv:1907.12461), interleaved: Ma et al. 2021 (arXiv:2106.13736), "
        "swcm: XLM-SWCM 2025 (arXiv:2502.10852)"
    )
    after: ClassVar[tuple[str, ...]] = (
        *("embeddings", "encoder", "exact", "naive", "distill", "shuffle", "lora", "delta", "interpolate"),
    )

    def __post_init__(self) -> None:
        folds = self.head == "fold"
        object.__setattr__(self, "needs_models", folds or not self.tied)
        object.__setattr__(self, "needs_text", folds)
        object.__setattr__(self, "needs_head", folds)

    def check(self, path: str) -> Iterator[Problem]:
        if self.head == "fold" and self.layers == "random":
            yield Problem(
                f"{path}.head", "fold", "needs layers that are copied, not random", f"set {path}.layers, or head=drop"
            )

    def writes(self) -> tuple[str, ...]:
        at = "model.decoder.layers.*"
        layers = (f"{at}.self_attn*", f"{at}.fc1.*", f"{at}.fc2.*", f"{at}.final_layer_norm.*")
        return layers if self.cross_attention == "keep" else (*layers, f"{at}.encoder_attn*")

    def refines(self) -> tuple[str, ...]:
        own = () if self.tied else (anatomy.HOST_WORDS[-1], anatomy.HOST_BIAS)
        return (*anatomy.pair(anatomy.HOST_DECODER_NORM), *own)

    @property
    def _copies(self) -> bool:
        return self.layers != "random" or self.cross_attention == "copied"

    def reads(self) -> tuple[str, ...]:
        return ("model.encoder.layers.*",) if self._copies else ()

    def check_behind(self, earlier: Sequence[tuple[str, Step]], path: str) -> Iterator[Problem]:
        if self._copies:
            yield from check_merged(earlier, "decoder", path)

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        if not self._copies:
            return
        unlike = []
        for what, ours, theirs in (
            ("heads", "decoder_attention_heads", "encoder_attention_heads"),
            ("feed-forward units", "decoder_ffn_dim", "encoder_ffn_dim"),
        ):
            want, have = host.get(theirs), host.get(ours)
            if want is not None and have is not None and want != have:
                unlike.append(f"{want} {what} a layer in the encoder, {have} in the decoder")
        if unlike:
            name = "layers" if self.layers != "random" else "cross_attention"
            yield Problem(
                f"{path}.{name}",
                getattr(self, name),
                f"the host has {', '.join(unlike)}",
                "take a host whose two sides have layers of one shape, or leave the step out",
            )
        depth, encoder = host.get("decoder_layers"), host.get("encoder_layers")
        if depth is not None and encoder is not None:
            most = encoder // 2 if self.layers == "interleaved" else encoder
            taken = depth - depth // (self.every + 1) if self.layers == "swcm" else depth
            if taken > most:
                takes = (
                    "two layers of the encoder for each" if self.layers == "interleaved" else "as many of the encoder"
                )
                yield Problem(
                    "model.host.decoder_layers",
                    depth,
                    f"{path}.layers={self.layers} takes {takes}, which has {encoder}",
                    f"lower it to {most}" if most else f"set {path}.layers to another",
                )
        if self.head == "fold" and host["d_model"] != donor["hidden_size"]:
            yield Problem(
                "model.host.d_model",
                host["d_model"],
                f"must be the donor's {donor['hidden_size']} for {path}.head=fold",
                "set model.host.d_model=null, or head=drop",
            )

    def apply(self, graft: Graft) -> None:
        import torch

        before = {name: (entry.step, entry.note) for name, entry in graft.ledger.host.items()}
        config = graft.host_config
        found = sources(self.layers, config.encoder_layers, config.decoder_layers, self.every)
        crossed = found
        if self.layers == "random" and self.cross_attention == "copied":
            crossed = sources("spread", config.encoder_layers, config.decoder_layers)
        self._check_encoder(graft, [source for source in (*found, *crossed) if source])
        draw = torch.Generator().manual_seed(self.seed)
        post = anatomy.HOST_OUTPUT_NORM not in graft.host_weights
        for layer, source in enumerate(found):
            attention, ffn = anatomy.host_attention(layer, "decoder"), anatomy.host_ffn(layer, "decoder")
            plain = post and source is not None and self.cross_attention == "zero"
            if source is None:
                _fresh(graft, (*attention, *ffn), draw)
            else:
                _copy(graft, attention[:-1] if plain else attention, anatomy.host_attention(source[0]))
                _copy(graft, ffn, anatomy.host_ffn(source[1]))
            if plain and source is not None:
                for name, value in zip(anatomy.pair(attention[-1]), (1.0, 0.0), strict=True):
                    note = "plain: the encoder's LayerNorm stands behind the cross-attention"
                    graft.write(name, torch.full_like(graft.current(name), value), "mapped", None, note)
            self._cross(graft, layer, crossed[layer], draw, source if plain else None)
        if self.norm and self.layers != "random" and not post:
            for name, of in zip(
                anatomy.pair(anatomy.HOST_DECODER_NORM), anatomy.pair(anatomy.HOST_LAST_NORM), strict=True
            ):
                graft.refine(name, graft.current(of), "copied", "then that of the encoder" * _touched(graft, name), of)
        if not self.tied:
            graft.untie()
        if self.head == "fold":
            from graftlm.transfer.head import fold_head, fold_into_words

            fold = fold_head if self.tied else fold_into_words
            fold(graft, self.tokens, self.max_length, self.ridge, self.seed)
        if self.output == "unit":
            unit_logits(graft)
        if before == {name: (entry.step, entry.note) for name, entry in graft.ledger.host.items()}:
            graft.progress.say(f"{graft.step or 'decoder'}: changed nothing: what it would draw anew is random already")

    def _cross(self, graft: Graft, layer: int, source: Source, draw: Generator, plain: Source) -> None:
        """The cross-attention of one layer; with `plain` its LayerNorm is that behind the self-attention copied."""
        import torch

        if self.cross_attention == "keep":
            return
        ours = anatomy.host_attention(layer, "decoder", cross=True)
        if self.cross_attention == "copied" and source is not None:
            _copy(graft, ours, anatomy.host_attention(source[1]))
            return
        *maps, out, norm = ours
        if plain is not None:
            _copy(graft, (norm,), anatomy.host_attention(plain[0])[-1:])
        else:
            _fresh(graft, (norm,), draw)
        _fresh(graft, maps, draw)
        if self.cross_attention != "zero":
            _fresh(graft, (out,), draw)
            return
        for name in anatomy.pair(out):
            note = "zero: the layer begins without its cross-attention"
            graft.write(name, torch.zeros_like(graft.current(name)), "mapped", None, note)

    def _check_encoder(self, graft: Graft, taken: Sequence[tuple[int, int]]) -> None:
        """Raises `TransferError` where the layers to be copied are random."""
        names = [anatomy.pair(anatomy.host_ffn(layer)[0])[0] for both in taken for layer in both]
        if names and all(graft.is_random(name) for name in names):
            raise TransferError.at(
                f"{graft.path}.step",
                "decoder",
                "the encoder's layers, which it copies, are random",
                "put {step: encoder} in front, or take a host from a checkpoint",
            )


def _touched(graft: Graft, name: str) -> bool:
    return bool(graft.ledger.host[graft.ledger.host_name(name)].note)


def _copy(graft: Graft, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Copy modules of the encoder as they stand."""
    for to, of in zip(ours, theirs, strict=False):
        for name, source in zip(anatomy.pair(to), anatomy.pair(of), strict=True):
            graft.write(name, graft.current(source), "copied", source)


def _fresh(graft: Graft, modules: Sequence[str], draw: Generator) -> None:
    """Draw modules anew by the host's own rule, unless they are random already: those of a checkpoint."""
    import torch

    for module in modules:
        for name in anatomy.pair(module):
            if graft.is_random(name):
                continue
            value: Tensor = torch.zeros(graft.host_weights.shape(name))
            if name.endswith("weight") and value.dim() == 1:
                value += 1
            elif name.endswith("weight"):
                value.normal_(0, float(graft.host_config.init_std), generator=draw)
            graft.write(name, value, "initialised", None, "drawn anew")


STEP = Decoder
