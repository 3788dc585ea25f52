"""Add to a pretrained host what the pretrain stage changed in the donor; everything the host knows is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy, changes
from graftlm.transfer.graft import Graft, Step

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 8192  # of word embeddings that are read at once


@dataclass(frozen=True)
class Delta(Step):
    """host += scale · (donor - donor before pretraining), tensor by tensor.

    Task arithmetic adds changes between models of one ancestor; donor and host have none in common, so their bases
    differ as far as their trainings did: word rows are matched by token string, maps by their place only.

    parts: `embeddings` the words, row by row; `attention` q, k, v and out, `ffn` fc1 and fc2 of the encoder, weights
        and biases. LayerNorms and positions are left: post-LN and pre-LN use them differently.
    layers: the donor's layer for each of the host where they have different numbers (`changes.paired_layers`).
    scale: factor on every change.
    relative: multiply a change by the size of what it is added to over the size of what it was in the donor
        (Frobenius norms of the table's shared rows, or of a map's weight).
    """

    parts: list[Literal["embeddings", "attention", "ffn"]] = setting(["embeddings", "attention", "ffn"])
    layers: changes.Layers = "spread"
    scale: float = setting(1.0, at_least=-10, at_most=10)
    relative: bool = False

    reference: ClassVar[str] = "Ilharco et al. 2023 (arXiv:2212.04089), task arithmetic"
    after: ClassVar[tuple[str, ...]] = ("embeddings", "encoder", "exact", "naive", "distill", "shuffle")
    needs_base: ClassVar[bool] = True

    def check(self, path: str) -> Iterator[Problem]:
        if not self.parts:
            yield Problem(f"{path}.parts", "[]", "names nothing to carry", "for example [embeddings]")

    @property
    def _maps(self) -> tuple[str, ...]:
        attention = changes.ATTENTION if "attention" in self.parts else ()
        return (*attention, *(changes.FFN if "ffn" in self.parts else ()))

    def refines(self) -> tuple[str, ...]:
        words = anatomy.HOST_WORDS if "embeddings" in self.parts else ()
        return (*words, *changes.host_maps(self._maps))

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        yield from changes.check_maps(donor, host, self._maps)

    def prepare(self, graft: Graft) -> None:
        """The shapes of both donors are compared before the steps in front take their time."""
        for _, source, part in self._places(graft):
            for name in anatomy.pair(getattr(anatomy.donor_block(source), part)):
                _check_base(graft, name)
        if "embeddings" in self.parts:
            _check_base(graft, anatomy.DONOR_WORDS)

    def apply(self, graft: Graft) -> None:
        moved = False
        if "embeddings" in self.parts:
            done: set[str] = set()
            for name in anatomy.HOST_WORDS:
                if name in graft.host_weights and graft.ledger.host_name(name) not in done:
                    done.add(graft.ledger.host_name(name))
                    moved |= self._words(graft, name)
        for layer, source, part in self._places(graft):
            ours, theirs = getattr(anatomy.host_block(layer), part), getattr(anatomy.donor_block(source), part)
            moved |= self._map(graft, anatomy.pair(ours), anatomy.pair(theirs))
        if not moved:
            raise TransferError.at(
                graft.path,
                graft.step,
                f"finds no change to carry: the donor's {', '.join(self.parts)} are what they were before pretraining",
                "train the donor, or name as its base what it was before that",
            )

    def _places(self, graft: Graft) -> Iterator[tuple[int, int, str]]:
        """The host's layer, the donor's layer, and the map of each pair of maps."""
        depths = graft.donor_config.num_hidden_layers, graft.host_config.encoder_layers
        for layer, source in enumerate(changes.paired_layers(*depths, self.layers)):
            if source is not None:
                yield from ((layer, source, part) for part in self._maps)

    def _map(self, graft: Graft, ours: tuple[str, str], theirs: tuple[str, str]) -> bool:
        """Weight and bias of one linear map, with one factor; whether the donor's have changed."""
        factor = 1.0
        moved = False
        for to, of in zip(ours, theirs, strict=True):
            before, value = _base(graft, of), graft.current(to)
            if self.relative and to == ours[0]:
                factor = _ratio(float(value.norm()), float(before.norm()))
            change = graft.source(of) - before
            moved |= bool(change.any())
            change *= self.scale * factor
            share = _ratio(float(change.norm()), float(value.norm()), 0.0)
            note = f"+ {self.scale * factor:.4g} x its change in pretraining ({share:.2%} of the norm)"
            graft.refine(to, value.add_(change), "mapped", note, of)
        return moved

    def _words(self, graft: Graft, name: str) -> bool:
        """One table of word embeddings, and whether a row has changed; memory holds the table and a block of rows."""
        import torch

        words = graft.current(name)
        host_of = torch.from_numpy(graft.vocabulary.host_of)
        rows = graft.donor_weights.shape(anatomy.DONOR_WORDS)[0]

        def blocks() -> Iterator[tuple[Tensor, Tensor, slice]]:
            """Host rows, which of the block have one, and the block."""
            for start in range(0, min(rows, len(host_of)), _ROWS):
                block = slice(start, min(start + _ROWS, rows, len(host_of)))
                places = host_of[block]
                fits = (places >= 0) & (places < len(words))
                yield places[fits], fits, block

        factor = 1.0
        if self.relative:
            ours = theirs = 0.0
            for places, fits, block in blocks():
                ours += float(words[places].double().square().sum())
                theirs += float(_base(graft, anatomy.DONOR_WORDS, block)[fits].double().square().sum())
            factor = _ratio(ours**0.5, theirs**0.5)
        changed = total = 0
        for places, fits, block in blocks():
            change = graft.source(anatomy.DONOR_WORDS, block.start, block.stop)[fits]
            change = change - _base(graft, anatomy.DONOR_WORDS, block)[fits]
            words[places] += self.scale * factor * change
            changed += int(change.any(1).sum())
            total += len(places)
        note = f"+ {self.scale * factor:.4g} x their change in pretraining: {changed} of {total} shared rows changed"
        graft.refine(name, words, "mapped", note, anatomy.DONOR_WORDS)
        return changed > 0


def _base(graft: Graft, name: str, rows: slice | None = None) -> Tensor:
    """A tensor of the donor before pretraining, or rows of it."""
    return graft.base.read(name) if rows is None else graft.base.read(name, rows.start, rows.stop)


def _check_base(graft: Graft, name: str) -> None:
    """Raises `TransferError` where a tensor of the donor had another shape before pretraining."""
    if name not in graft.base:
        raise TransferError.at(graft.path, name, "was not in the donor before pretraining", "take the donor's own base")
    have, want = graft.base.shape(name), graft.donor_weights.shape(name)
    if have != want:
        raise TransferError.at(
            graft.path, name, f"had shape {have} before pretraining and has {want} now", "take the donor's own base"
        )


def _ratio(one: float, other: float, otherwise: float = 1.0) -> float:
    return one / other if other > 0 else otherwise


STEP = Delta
