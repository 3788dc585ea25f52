"""The transfer report: each tensor of the host and of the donor accounted for, and how well the graft works."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graftlm.errors import TransferError
from graftlm.transfer.anatomy import DONOR_HEAD

if TYPE_CHECKING:
    from torch import nn

    from graftlm.transfer.weights import Weights

VERSION = 1
ADAPTER = ".lora_"  # in the names of peft's tensors
STATUSES = ("copied", "mapped", "calibrated", "trained", "kept", "initialised")
Status = Literal["copied", "mapped", "calibrated", "trained", "kept", "initialised"]


@dataclass
class HostTensor:
    """One tensor of the host and what became of it.

    `copied`: value for value; `mapped`: rearranged, rescaled or mixed in closed form; `calibrated`: fitted on text;
    `trained`: changed by gradient during the graft; `kept`: of the host's checkpoint; `initialised`: at random, by the
    host's own rule.
    """

    name: str
    shape: list[int]
    status: str
    source: str | None = None
    step: str | None = None
    note: str = ""


@dataclass
class DonorTensor:
    """One tensor of the donor: `used` or `unused`, and why."""

    name: str
    shape: list[int]
    status: str = "unused"
    note: str = ""


class Ledger:
    """Who wrote what. Tied tensors count once, under their first name."""

    def __init__(self, donor: Weights | None, host: Weights, host_pretrained: bool):
        untouched = "kept" if host_pretrained else "initialised"
        self._host_names = host.aliases
        self._donor_names = donor.aliases if donor is not None else {}
        self.host = {name: HostTensor(name, list(shape), untouched) for name, shape in host.shapes.items()}
        self.donor = {name: DonorTensor(name, list(shape)) for name, shape in (donor.shapes if donor else {}).items()}
        self.writer: dict[str, str] = {}

    def host_name(self, name: str) -> str:
        """The name under which a (possibly tied) host tensor is listed."""
        return self._host_names[name]

    def use(self, name: str) -> None:
        """Note that a donor tensor went into the host."""
        self.donor[self._donor_names[name]].status = "used"

    def write(self, name: str, status: str, source: str | None, step: str, note: str = "") -> None:
        """Note that a step wrote a host tensor; once for each tensor.

        Raises:
            TransferError: if another step did so before.
        """
        name = self._host_names[name]
        if name in self.writer:
            raise TransferError.at(
                "transfer.steps", name, f"is written by {self.writer[name]} and by {step}", "leave one of the two out"
            )
        if status not in STATUSES:
            raise ValueError(f"no such status: {status}")
        self.writer[name] = step
        entry = self.host[name]
        entry.status, entry.source, entry.step, entry.note = status, source, step, note

    def refine(self, name: str, status: str, source: str | None, step: str, note: str = "") -> None:
        """Note that a step changed a host tensor further; its source stays unless a new one is given."""
        if status not in STATUSES:
            raise ValueError(f"no such status: {status}")
        entry = self.host[self._host_names[name]]
        entry.status, entry.source = status, source or entry.source
        entry.step = f"{entry.step} + {step}" if entry.step and not entry.step.endswith(step) else entry.step or step
        entry.note = "; ".join(part for part in (entry.note, note) if part)

    def split(self, host: Weights) -> None:
        """Account for tensors of the host that are no longer tied, each as for all of them together before."""
        for name in host.shapes:
            before = self._host_names[name]
            if name != before:
                self.host[name] = replace(self.host[before], name=name)
                if before in self.writer:
                    self.writer[name] = self.writer[before]
        self._host_names = host.aliases

    def lacking(self, names: Collection[str]) -> None:
        """Note which tensors of the donor its checkpoint lacks."""
        for name in names:
            self.donor[
                self._donor_names[name]
            ].note = "not in the donor's checkpoint: random, so nothing is taken from it"

    def add(self, host: Weights) -> None:
        """Account for tensors that the host did not have before; they are fresh."""
        for name, shape in host.shapes.items():
            if name not in self._host_names:
                self.host[name] = HostTensor(name, list(shape), "initialised")
        self._host_names = host.aliases

    def explain(self, steps: bool) -> None:
        """Say of each unused donor tensor why."""
        for entry in self.donor.values():
            if entry.status == "unused" and not entry.note:
                if not steps:
                    entry.note = "the strategy has no step"
                elif entry.name in DONOR_HEAD:
                    entry.note = "part of the MLM head, which mBART has no place for: it predicts from its last state"
                else:
                    entry.note = "no step of this strategy reads it"

    def counts(self) -> dict[str, dict[str, int]]:
        """Tensors and parameters by status."""
        host: dict[str, int] = dict.fromkeys(STATUSES, 0)
        parameters: dict[str, int] = dict.fromkeys(STATUSES, 0)
        for entry in self.host.values():
            host[entry.status] += 1
            parameters[entry.status] += _size(entry.shape)
        donor = {"used": 0, "unused": 0}
        donor_parameters = {"used": 0, "unused": 0}
        for item in self.donor.values():
            donor[item.status] += 1
            donor_parameters[item.status] += _size(item.shape)
        return {
            "host": host,
            "host_parameters": parameters,
            "donor": donor,
            "donor_parameters": donor_parameters,
        }


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@dataclass
class StepRecord:
    """A step that was applied."""

    step: str
    seconds: float
    parameters: dict[str, Any]
    reference: str = ""
    flops: int = 0  # of its matrix products, as torch counts them


@dataclass
class TransferReport:
    """What a strategy did. `fidelity` is null where there is no donor or no text to measure on."""

    strategy: str
    control: bool
    seconds: float
    donor: dict[str, Any] | None
    host: dict[str, Any]
    vocabulary: dict[str, Any] | None
    host_tensors: list[HostTensor]
    donor_tensors: list[DonorTensor]
    counts: dict[str, dict[str, int]]
    fidelity: dict[str, Any] | None
    calibration: dict[str, int] = field(default_factory=dict)  # texts given to fit on, and how many at most
    steps: list[StepRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    flops: int = 0  # operations of the matrix products of the steps, as torch counts them

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"version": VERSION, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write `transfer.json`, by rename, so that it is never half there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.as_dict(), ensure_ascii=False, indent=1), encoding="utf-8")
        partial.replace(path)

    def summary(self) -> str:
        """One line for a person."""
        # an adapter is no part of the host's size: it ends in the maps beside it
        adapter = [item for item in self.host_tensors if ADAPTER in item.name]
        tensors = [item for item in self.host_tensors if ADAPTER not in item.name]
        total = max(sum(_size(item.shape) for item in tensors), 1)
        donors = {item.name for item in self.donor_tensors}
        carried = sum(
            _size(item.shape)
            for item in tensors
            if item.source is not None and any(name in item.source for name in donors)
        )
        line = f"graft {self.strategy}: {100 * carried / total:.0f}% of the host's parameters from the donor"
        if adapter:
            size = sum(_size(item.shape) for item in adapter)
            line += (
                f", an adapter of {len(adapter)} tensors ({size} parameters) beside it that is merged when it is saved"
            )
        if self.fidelity:
            before, after = self.fidelity["before"], self.fidelity["after"]
            line += "".join(
                f", {label} {_shown(before.get(name))} → {_shown(after.get(name))}"
                for label, name in (("CKA", "cka"), ("cosine", "cosine"))
            )
            if without := self.fidelity.get("before_layers"):
                line += f" (before its layers {_shown(without.get('cka'))}, {_shown(without.get('cosine'))})"
        return line


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:z.3f}"


def describe(model: nn.Module) -> dict[str, Any]:
    """Class and number of parameters of a model."""
    return {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def parameters_of(step: Any) -> Mapping[str, Any]:
    """The parameters of a step as plain values."""
    return asdict(step)
