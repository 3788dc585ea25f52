"""Carry the adapter that the pretrain stage trained beside a frozen donor to the same maps of the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import adapters, anatomy, changes
from graftlm.transfer.graft import Graft, Step

if TYPE_CHECKING:
    from graftlm.transfer.adapters import Adapter


@dataclass(frozen=True)
class Lora(Step):
    """W of the host += scale · ΔW with ΔW = alpha/rank · B·A of the donor's map in the same place.

    It stands alone on a pretrained host, or behind steps that carry the donor as it was before the adapter (they read
    that one by themselves, see `Step.needs_base`).

    layers: the donor's layer for each of the host where they have different numbers (`changes.paired_layers`).
    scale: factor on every change.
    recalibrate: multiply ΔW by the slope of the host's map on the base donor's, <W_h, W_b> / <W_b, W_b>: a calibrated
        host holds the donor's maps in another scale. Near zero where the two have nothing in common.
    mode: `merge` adds ΔW to the weights; `train` keeps it as an adapter beside them, which fine-tuning trains while
        the rest of the encoder stays frozen, and merges it at the end.
    """

    layers: changes.Layers = "spread"
    scale: float = setting(1.0, at_least=-10, at_most=10)
    recalibrate: bool = False
    mode: Literal["merge", "train"] = "merge"

    reference: ClassVar[str] = "Hu et al. 2021 (arXiv:2106.09685) for LoRA; carried across models here"
    after: ClassVar[tuple[str, ...]] = ("embeddings", "encoder", "exact", "naive", "distill", "shuffle")
    needs_base: ClassVar[bool] = True
    needs_adapter: ClassVar[bool] = True

    def refines(self) -> tuple[str, ...]:
        # which maps have an adapter is in its folder
        return changes.host_maps((*changes.ATTENTION, *changes.FFN))

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        yield from changes.check_maps(donor, host, (*changes.ATTENTION, *changes.FFN))

    def prepare(self, graft: Graft) -> None:
        """The adapter is read and compared with the donor before the steps in front take their time."""
        if graft.adapter is None:
            raise TransferError.at(
                "transfer.adapter.rank", 0, "the donor has no adapter to carry", "train one, for example with rank 8"
            )
        if self.mode == "train" and graft.host_model is None:
            raise TransferError.at(f"{graft.path}.mode", self.mode, "nothing is trained here", "take merge")
        adapter = adapters.read(Path(graft.adapter))
        adapters.check_fit(adapter, graft.donor_weights, Path(graft.adapter))
        depths = graft.donor_config.num_hidden_layers, graft.host_config.encoder_layers
        places = self._places(adapter, *depths)
        if not places:
            raise TransferError.at(f"{graft.path}.layers", self.layers, "no adapted map has a place in the host")
        if self.mode == "merge" and not any(bool(adapter.maps[theirs][1].any()) for theirs in places.values()):
            raise TransferError.at(
                "transfer.adapter", graft.adapter, "has learned nothing: each of its changes is 0", "train it first"
            )
        graft.memory["lora"] = adapter, places

    def apply(self, graft: Graft) -> None:
        adapter, places = graft.memory.pop("lora")
        factors = {ours: self.scale * self._slope(graft, ours, theirs) for ours, theirs in places.items()}
        if self.mode == "merge":
            for ours, theirs in places.items():
                weight, _ = anatomy.pair(ours)
                value = graft.current(weight) + factors[ours] * adapter.change(theirs)
                note = self._account(graft, theirs, factors[ours], adapter)
                graft.refine(weight, value, "mapped", note, anatomy.pair(theirs)[0])
            return
        adapters.attach(graft.host, places, adapter.rank, adapter.scaling * adapter.rank, adapter.dropout)
        graft.adopt()
        for ours, theirs in places.items():
            weight, source = anatomy.pair(ours)[0], anatomy.pair(theirs)[0]
            a, b = adapter.maps[theirs]
            (to_a, to_b), factor = adapters.factors(ours), factors[ours]
            merged = f"merged into {weight} when the model is saved"
            graft.write(to_a, a, "copied", f"the adapter of {source}", f"A, {merged}")
            note = f"B, {merged}" if factor == 1 else f"{factor:.4g} x B, {merged}"
            graft.write(to_b, factor * b, "copied" if factor == 1 else "mapped", f"the adapter of {source}", note)
            note = self._account(graft, theirs, factor, adapter)
            note += ", kept beside it and trained, merged into it when the model is saved"
            graft.ledger.refine(weight, "mapped", source, graft.step, note)

    def _places(self, adapter: Adapter, donor: int, host: int) -> dict[str, str]:
        """Module of the host → module of the donor whose adapter it gets."""
        found: dict[str, str] = {}
        for layer, source in enumerate(changes.paired_layers(donor, host, self.layers)):
            if source is not None:
                pairs = zip(anatomy.host_block(layer).linear(), anatomy.donor_block(source).linear(), strict=True)
                found |= {ours: theirs for ours, theirs in pairs if theirs in adapter.maps}
        return found

    def _slope(self, graft: Graft, ours: str, theirs: str) -> float:
        if not self.recalibrate:
            return 1.0
        host = graft.current(anatomy.pair(ours)[0]).double()
        base = graft.base.read(anatomy.pair(theirs)[0]).double()
        return float((host * base).sum() / base.square().sum().clamp_min(1e-30))

    def _account(self, graft: Graft, module: str, factor: float, adapter: Adapter) -> str:
        graft.ledger.use(anatomy.pair(module)[0])
        return f"+ {factor:.4g} x the adapter of {module}, rank {adapter.rank}"


STEP = Lora
