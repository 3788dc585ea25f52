"""What a step of a strategy is, and what it works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from graftlm.console import Progress, Silent
from graftlm.errors import Problem, TransferError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import MBartForConditionalGeneration, XLMRobertaForMaskedLM

    from graftlm.transfer.report import Ledger
    from graftlm.transfer.vocabulary import Vocabulary

    # texts as ids without special tokens
    Texts = Sequence[NDArray[Any] | Sequence[int]]


@dataclass(frozen=True)
class Step(ABC):
    """A step: its fields are its parameters, read from the strategy's YAML.

    A module of `graftlm.transfer.steps` defines a frozen dataclass that derives from this one and names it `STEP`.
    `reference`: where the method comes from. `writes`: patterns (`fnmatch`) of the host tensors that it may write.
    `after`: steps that must stand before it. `encodes`: it claims that the host's encoder then works like the donor's,
    which is measured.
    """

    reference: ClassVar[str] = ""
    writes: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    encodes: ClassVar[bool] = False

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        """What in the two configurations (plain values) keeps this step from working."""
        yield from ()

    @abstractmethod
    def apply(self, graft: Graft) -> None:
        """Write into the host.

        Raises:
            TransferError: if donor and host do not fit.
        """


@dataclass
class Graft:
    """A donor, a host and what a step needs to carry one into the other.

    `calibration`: texts as donor ids without special tokens. `path`, `step`: config path and name of the current step.
    """

    donor: XLMRobertaForMaskedLM
    host: MBartForConditionalGeneration
    vocabulary: Vocabulary
    calibration: Texts
    ledger: Ledger
    progress: Progress = field(default_factory=Silent)
    path: str = "transfer"
    step: str = ""
    donor_tensors: dict[str, Tensor] = field(default_factory=dict)
    host_tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.donor_tensors = dict(self.donor.state_dict(keep_vars=True))
        self.host_tensors = dict(self.host.state_dict(keep_vars=True))

    def source(self, name: str) -> Tensor:
        """A tensor of the donor in float32, marked as used.

        Raises:
            TransferError: if it holds values that are not finite.
        """
        import torch

        tensor: Tensor = self.donor_tensors[name].detach().float()
        if not bool(torch.isfinite(tensor).all()):
            raise TransferError.at(
                self.path,
                name,
                "holds values of the donor that are not finite",
                "train the donor again, or take another",
            )
        self.ledger.use(name)
        return tensor

    def current(self, name: str) -> Tensor:
        """A tensor of the host as it stands, in float32, as a copy."""
        tensor: Tensor = self.host_tensors[name].detach().float().clone()
        return tensor

    def is_random(self, name: str) -> bool:
        """Whether a tensor of the host still is what its initialisation gave."""
        return self.ledger.host[self.ledger.host_name(name)].status == "initialised"

    def write(self, name: str, value: Tensor, status: str, source: str | None, note: str = "") -> None:
        """Put `value` into the host tensor `name` and account for it.

        Raises:
            TransferError: if the shapes differ, the value is not finite, or another step wrote the tensor.
        """
        import torch

        target = self.host_tensors[name]
        if tuple(value.shape) != tuple(target.shape):
            raise TransferError.at(
                self.path,
                name,
                f"has shape {tuple(target.shape)} in the host, {tuple(value.shape)} in the graft",
                "give the host the donor's shape (sizes of model.host left null), or another strategy",
            )
        if not bool(torch.isfinite(value).all()):
            raise TransferError.at(
                self.path,
                name,
                "would hold values that are not finite",
                "check the donor's weights, or raise the ridge",
            )
        self.ledger.write(name, status, source, self.step, note)
        with torch.no_grad():
            target.copy_(value.to(target.dtype))
