"""What a step of a strategy is, and what it works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

from graftlm.console import Progress, Silent
from graftlm.errors import Problem, TransferError
from graftlm.transfer.spent import Spent
from graftlm.transfer.weights import ModelWeights, NoWeights, Weights, finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import MBartForConditionalGeneration, XLMRobertaForMaskedLM

    from graftlm.data.format import HostFormat
    from graftlm.transfer.report import Ledger
    from graftlm.transfer.vocabulary import Vocabulary

    # texts as ids without special tokens
    Texts = Sequence[NDArray[Any] | Sequence[int]]


@dataclass(frozen=True)
class Step(ABC):
    """A step: its fields are its parameters, read from the strategy's YAML.

    A module of `graftlm.transfer.steps` defines a frozen dataclass that derives from this one and names it `STEP`.

    Class attributes:
        reference: where the method comes from.
        after: steps that must stand before it, where the strategy has them (`needs`: must have them).
        needs: steps that the strategy must have before it.
        encodes: it claims that the host's encoder then works like the donor's, which is measured.
        rescales: it rescales the encoder's output on purpose, so that only CKA tells whether the graft works.
        mixes: it undoes a part of the graft on purpose, so that a low fidelity is only told, not refused.
        reads_donor: it reads tensors or states of the donor; a strategy of other steps alone needs no donor.
        needs_models: it runs the models, so their tensors are not enough (a step without can work from files).
        needs_text: it reads calibration text.
        trains: it trains by gradients, where and in the precision in which the trainer does.
        needs_base: it carries what the pretrain stage changed, and reads the donor as it was before that stage. The
            steps in front of it then carry that earlier donor, or the change would count twice; those behind it read
            the trained one again. On a host of random weights a step in front has to carry all that it refines.
        needs_pretrained: it makes no sense on a host whose weights are random.
        needs_adapter: it reads the adapter that the pretrain stage trained (`transfer.adapter`).
        needs_head: it reads the donor's MLM head, which some checkpoints lack.
    """

    reference: ClassVar[str] = ""
    after: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    encodes: ClassVar[bool] = False
    rescales: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    reads_donor: ClassVar[bool] = True
    needs_models: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    needs_base: ClassVar[bool] = False
    needs_pretrained: ClassVar[bool] = False
    needs_adapter: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False

    def writes(self) -> tuple[str, ...]:
        """Patterns (`fnmatch`) of the host tensors that it may write, with these parameters; no other step may."""
        return ()

    def refines(self) -> tuple[str, ...]:
        """Patterns of the host tensors that it may change, whoever wrote them before it."""
        return ()

    def originals(self) -> tuple[str, ...]:
        """Patterns of the host tensors whose values before the strategy it reads (`Graft.original`)."""
        return ()

    def builds_on(self) -> tuple[str, ...]:
        """Patterns of host tensors of which an earlier step must write or refine at least one."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """Patterns of host tensors that it copies from: in a host of random weights an earlier step must write some."""
        return ()

    def check_behind(self, earlier: Sequence[tuple[str, Step]], path: str) -> Iterator[Problem]:
        """What in the steps in front of it, with their parameters, makes no sense together with this one."""
        yield from ()

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        """What in the two configurations (plain values) keeps this step from working."""
        yield from ()

    def prepare(self, graft: Graft) -> None:  # noqa: B027 - most steps have nothing to prepare
        """Look at the host before any step of the strategy has written."""

    @abstractmethod
    def apply(self, graft: Graft) -> None:
        """Write into the host.

        Raises:
            TransferError: if donor and host do not fit.
        """


@dataclass
class Graft:
    """A donor, a host and what a step needs to carry one into the other.

    Attributes:
        donor_config, host_config: the configurations of both (transformers).
        donor_weights, host_weights: their tensors. A donor that no step reads (`Step.reads_donor`) may be missing: its
            configuration is None then, and it has no tensors.
        vocabulary: which row belongs to which.
        ledger: who wrote what.
        calibration: texts as donor ids without special tokens.
        languages: the mBART code of each calibration text (the host may lack it), "" where its language is not known,
            another name where mBART has no code for it; empty: none is known.
        base_weights: the donor before the pretrain stage, for steps with `needs_base`.
        fresh: names of the donor's tensors that its checkpoint lacks: they are random, and nothing is taken from them.
        adapter: what the pretrain stage learned beside a frozen donor (a folder of peft), or None.
        donor_tokenizer, host_tokenizer: the tokenizers of both.
        device: where a step that trains may put a model while it does (`trained`).
        precision: of the trainer, for the same steps (`autocast`).
        scratch: where a step that trains keeps how far it is (`graftlm.transfer.halfway`), or None.
        spent, earlier: see `Spent`; seconds of earlier attempts at all steps so far.
        memory: what steps keep between `prepare` and `apply`, by names of their own.
        path, step: config path and name of the current step.
    """

    donor_config: Any
    host_config: Any
    donor_weights: Weights
    host_weights: Weights
    vocabulary: Vocabulary
    ledger: Ledger
    calibration: Texts = ()
    languages: Sequence[str] = ()
    donor_model: XLMRobertaForMaskedLM | None = None
    host_model: MBartForConditionalGeneration | None = None
    base_weights: Weights | None = None
    base_model: XLMRobertaForMaskedLM | None = None
    fresh: frozenset[str] = frozenset()
    adapter: Any = None
    donor_tokenizer: Any = None
    host_tokenizer: Any = None
    device: str = "cpu"
    precision: str = "32-true"
    progress: Progress = field(default_factory=Silent)
    scratch: Any = None
    spent: Spent = field(default_factory=Spent)
    earlier: float = 0.0
    path: str = "transfer"
    step: str = ""
    keep: tuple[str, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)
    _originals: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_models(cls, donor: Any, host: Any, vocabulary: Vocabulary, ledger: Ledger, **others: Any) -> Graft:
        """Between two models in memory; `donor` may be None."""
        return cls(
            donor.config if donor is not None else None,
            host.config,
            ModelWeights(donor) if donor is not None else NoWeights(),
            ModelWeights(host),
            vocabulary,
            ledger,
            donor_model=donor,
            host_model=host,
            **others,
        )

    @property
    def donor(self) -> XLMRobertaForMaskedLM:
        """The donor as a model, for steps with `needs_models`."""
        if self.donor_model is None:
            raise RuntimeError(f"{self.step} needs models and does not say so")
        return self.donor_model

    @property
    def host(self) -> MBartForConditionalGeneration:
        """The host as a model, for steps with `needs_models`."""
        if self.host_model is None:
            raise RuntimeError(f"{self.step} needs models and does not say so")
        return self.host_model

    @property
    def base(self) -> Weights:
        """The donor before the pretrain stage, for steps with `needs_base`."""
        if self.base_weights is None:
            raise RuntimeError(f"{self.step} needs the base donor and does not say so")
        return self.base_weights

    @property
    def format(self) -> HostFormat:
        """How the host's sequences are wrapped."""
        return self.vocabulary.format

    @contextmanager
    def trained(self, *models: nn.Module) -> Iterator[str]:
        """Models on the device for training, and back where they were afterwards."""
        places = [next(model.parameters()).device for model in models]
        for model in models:
            model.to(self.device)
        try:
            yield self.device
        finally:
            for model, place in zip(models, places, strict=True):
                model.to(place)

    def autocast(self) -> AbstractContextManager[Any]:
        """The trainer's mixed precision for a forward pass; float16, which needs a scaler, is taken as bfloat16."""
        import torch

        if not self.precision.endswith("-mixed"):
            return nullcontext()
        return torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16)

    def on_base(self) -> Graft:
        """The same graft with the donor as it was before the pretrain stage; one ledger, one host."""
        return replace(self, donor_model=self.base_model, donor_weights=self.base)

    def source(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """A tensor of the donor, or some of its rows, in float32, marked as used.

        Raises:
            TransferError: if it holds values that are not finite.
        """
        tensor = self.donor_weights.read(name, start, stop)
        if not finite(tensor):
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
        return self.host_weights.copy(name)

    def original(self, name: str) -> Tensor:
        """A tensor of the host as it was before the strategy; `Step.originals` must name it."""
        first = self.host_weights.aliases[name]
        return self._originals[first] if first in self._originals else self.current(name)

    def untie(self) -> None:
        """Give each use of the host's word embeddings a tensor of its own, with the values and the account of all."""
        from graftlm.models.tied import untie

        untie(self.host)
        self.host_weights = ModelWeights(self.host)
        self.ledger.split(self.host_weights)

    def adopt(self) -> None:
        """Take in the tensors of modules that a step gave the host, to be written and accounted for like the others."""
        self.host_weights = ModelWeights(self.host)
        self.ledger.add(self.host_weights)

    def remember(self) -> None:
        """Keep the originals that other steps will ask for, before a step changes the host in place."""
        for name in self.host_weights.shapes:
            self._remember(name)

    def is_random(self, name: str) -> bool:
        """Whether a tensor of the host still is what its initialisation gave; not, where it has no such tensor."""
        return name in self.host_weights and self.ledger.host[self.ledger.host_name(name)].status == "initialised"

    def write(self, name: str, value: Tensor, status: str, source: str | None, note: str = "") -> None:
        """Put `value` into the host tensor `name` and account for it.

        Raises:
            TransferError: if the shapes differ, the value is not finite, or another step wrote the tensor.
        """
        self._check(name, value)
        self.ledger.write(name, status, source, self.step, note)
        self._put(name, value)

    def refine(self, name: str, value: Tensor, status: str, note: str = "", source: str | None = None) -> None:
        """Change a host tensor that another step may have written before, and add that to its account.

        `source` is what it came from already unless given.

        Raises:
            TransferError: as `write`, but for the other writer.
        """
        self._check(name, value)
        self.ledger.refine(name, status, source, self.step, note)
        self._put(name, value)

    def _check(self, name: str, value: Tensor) -> None:
        shape = self.host_weights.shape(name)
        if tuple(value.shape) != shape:
            raise TransferError.at(
                self.path,
                name,
                f"has shape {shape} in the host, {tuple(value.shape)} in the graft",
                "give the host the donor's shape (sizes of model.host left null), or another strategy",
            )
        if not finite(value):
            raise TransferError.at(
                self.path,
                name,
                "would hold values that are not finite",
                "check the donor's weights, or raise the ridge",
            )

    def _put(self, name: str, value: Tensor) -> None:
        self._remember(name)
        self.host_weights.write(name, value)

    def _remember(self, name: str) -> None:
        first = self.host_weights.aliases[name]
        if first not in self._originals and any(fnmatchcase(name, pattern) for pattern in self.keep):
            self._originals[first] = self.current(name)
