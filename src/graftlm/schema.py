"""The settings of an experiment, typed and validated.

`Settings.from_mapping` turns a plain mapping (what Hydra composed, resolved) into dataclasses and collects *all*
mistakes before it raises one `SettingsError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from graftlm.across import across
from graftlm.data.settings import DataSettings
from graftlm.errors import Problem, SettingsError
from graftlm.fields import build, setting
from graftlm.running import LaunchSettings, LoggerSettings, ReportSettings, StoreSettings, TrainerSettings
from graftlm.search.settings import SearchSettings

# --- the model pair -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DonorSettings:
    """The XLM-R: a checkpoint (hub name or local folder), or the shape of one to be built."""

    checkpoint: str | None = None
    revision: str | None = None
    d_model: int = setting(192, at_least=8)
    layers: int = setting(4, at_least=1)
    heads: int = setting(4, at_least=1)
    ffn: int = setting(768, at_least=8)
    max_positions: int = setting(512, at_least=16)
    dropout: float = setting(0.1, at_least=0, below=1)

    def check(self, path: str) -> Iterator[Problem]:
        if self.d_model % self.heads:
            yield Problem(f"{path}.heads", self.heads, f"must divide d_model={self.d_model}")


@dataclass(frozen=True)
class HostSettings:
    """The mBART: a checkpoint, or the shape of one to be built; a size left null is the donor's.

    `architecture`: `mbart` has its LayerNorms before each sublayer; `bart` after it, as the donor has, so that a graft
    can be exact. Tokens and format are mBART's in both.
    """

    architecture: Literal["mbart", "bart"] = "mbart"
    checkpoint: str | None = None
    revision: str | None = None
    d_model: int | None = setting(None, at_least=8)
    encoder_layers: int | None = setting(None, at_least=1)
    decoder_layers: int = setting(2, at_least=1)
    heads: int | None = setting(None, at_least=1)
    ffn: int | None = setting(None, at_least=8)
    max_positions: int = setting(1024, at_least=16)
    dropout: float = setting(0.1, at_least=0, below=1)

    def check(self, path: str) -> Iterator[Problem]:
        if self.d_model and self.heads and self.d_model % self.heads:
            yield Problem(f"{path}.heads", self.heads, f"must divide d_model={self.d_model}")


@dataclass(frozen=True)
class ModelSettings:
    """The pair of donor and host, and the vocabulary they share.

    `trim`: both are cut to the tokens that the corpus uses and so many of the likeliest others; null keeps all.
    """

    name: str = setting("custom", outcome=False)
    format: Literal["mbart50", "cc25"] = "mbart50"
    vocab_size: int | None = setting(None, at_least=300, remedy="null takes the tokenizers of the checkpoints")
    trim: int | None = setting(None, at_least=0, remedy="null keeps the whole vocabulary of the checkpoints")
    pretrain_lr: float = setting(1e-3, above=0, at_most=1, outcome=False)  # counted as pretrain.lr
    finetune_lr: float = setting(1e-3, above=0, at_most=1, outcome=False)
    donor: DonorSettings = field(default_factory=DonorSettings)
    host: HostSettings = field(default_factory=HostSettings)

    def check(self, path: str) -> Iterator[Problem]:
        if self.donor.checkpoint is None and self.vocab_size is None:
            yield Problem(
                f"{path}.vocab_size", "null", "a donor that is built needs a vocabulary", "set it, for example 8000"
            )
        if self.donor.checkpoint is not None and self.vocab_size is not None:
            yield Problem(
                f"{path}.vocab_size",
                self.vocab_size,
                "a donor checkpoint brings its own tokenizer",
                f"set {path}.vocab_size=null",
            )
        if self.donor.checkpoint is None and self.trim is not None:
            yield Problem(
                f"{path}.trim",
                self.trim,
                "there is no checkpoint to cut: a vocabulary that is built is of the corpus already",
                f"set {path}.trim=null, or name {path}.donor.checkpoint",
            )
        if self.donor.checkpoint is None and self.host.checkpoint is not None:
            yield Problem(
                f"{path}.donor.checkpoint",
                "null",
                "a host checkpoint needs a donor checkpoint beside it",
                "name an XLM-R folder or hub name",
            )


# --- masking, transfer, stages ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskSettings:
    """Dynamic masking in training. Evaluation always masks 15% of single tokens, the same ones each time.

    Of the chosen tokens `replace` become `<mask>`, `randomize` a random token, the rest stay (BERT, Devlin 2019).
    """

    name: str = setting("custom", outcome=False)
    ratio: float = setting(0.15, above=0, below=1, remedy="a share of the tokens, for example 0.15 (mask=r15)")
    final_ratio: float | None = setting(None, above=0, below=1, remedy="null keeps the ratio constant")
    unit: Literal["token", "word", "span"] = "token"
    span_mean: float = setting(3.0, at_least=1, at_most=20)
    replace: float = setting(0.8, at_least=0, at_most=1)
    randomize: float = setting(0.1, at_least=0, at_most=1)

    def check(self, path: str) -> Iterator[Problem]:
        if self.replace + self.randomize > 1 + 1e-9:
            yield Problem(f"{path}.replace", self.replace, f"replace + randomize ({self.randomize}) must not pass 1")


# how a grafted encoder is trained unless its strategy says otherwise: factor on the rate, share of the steps frozen
STAGED = (0.1, 0.3)


@dataclass(frozen=True)
class AdapterSettings:
    """LoRA on the donor in the pretrain stage, which then trains nothing else; rank 0 trains the whole donor.

    The change of a map is alpha / rank · B·A. `targets`: the adapted maps of each layer. `head`: whether the MLM head's
    own map, LayerNorm and bias are trained beside it (its output matrix, the word embeddings, is not).
    """

    rank: int = setting(0, at_least=0, at_most=1024)
    alpha: float = setting(16.0, above=0)
    dropout: float = setting(0.0, at_least=0, below=1)
    targets: list[Literal["query", "key", "value", "out", "fc1", "fc2"]] = setting(["query", "value"])
    head: bool = True

    def check(self, path: str) -> Iterator[Problem]:
        if not self.targets:
            yield Problem(f"{path}.targets", "[]", "names no map to adapt", "for example [query, value]")


@dataclass(frozen=True)
class TransferSettings:
    """A strategy: its steps in order, and how fine-tuning treats what they wrote.

    A step is a mapping `{step: NAME, ...parameters}`; NAME is a module of `graftlm.transfer.steps`.
    `*_lr` multiply `finetune.lr` for a part of the host; `freeze_*` is the share of `finetune.max_steps` during which
    the part is not trained. `decoder` is its self-attention and feed-forward layers, `cross_attention` what reads the
    encoder. `encoder_layer_decay` multiplies the encoder's rate once more for each layer further down (discriminative
    rates, Howard & Ruder 2018). A graft of layers is destroyed within the first steps at the decoder's rate: where
    `encoder_lr` and `freeze_encoder` are left null, such a strategy trains in stages (`STAGED`) and others do not.
    `calibration_texts` is how many texts of the training split the steps may read at most, from all of it; fidelity
    is measured on `fidelity_texts` of the validation split.
    """

    name: str
    steps: list[dict[str, Any]] = setting([])
    encoder_lr: float | None = setting(None, at_least=0, at_most=100)
    encoder_layer_decay: float = setting(1.0, above=0, at_most=1)
    embeddings_lr: float = setting(1.0, at_least=0, at_most=100)
    decoder_lr: float = setting(1.0, at_least=0, at_most=100)
    cross_attention_lr: float = setting(1.0, at_least=0, at_most=100)
    freeze_encoder: float | None = setting(None, at_least=0, at_most=1)
    freeze_embeddings: float = setting(0.0, at_least=0, at_most=1)
    freeze_decoder: float = setting(0.0, at_least=0, at_most=1)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    control: bool = False
    fidelity_texts: int = setting(200, at_least=2)
    calibration_texts: int = setting(20_000, at_least=2)

    @property
    def needs_donor(self) -> bool:
        """Whether the finetune stage builds on a pretrained donor: whether a step reads it."""
        from graftlm.transfer.strategy import any_step  # the steps say what they do

        return bool(any_step(self, "reads_donor"))

    def encoder_rate(self) -> tuple[float, float]:
        """The factor on the encoder's rate and the share of the steps during which it is frozen."""
        from graftlm.transfer.strategy import step_class  # the steps say what they do

        layers = not self.control and any(step_class(item["step"]).encodes for item in self.steps)
        factor, frozen = STAGED if layers else (1.0, 0.0)
        return (
            factor if self.encoder_lr is None else self.encoder_lr,
            frozen if self.freeze_encoder is None else self.freeze_encoder,
        )

    def check(self, path: str) -> Iterator[Problem]:
        from graftlm.transfer.strategy import any_step, check_steps  # the steps name their own parameters

        problems = list(check_steps(self.steps, f"{path}.steps"))
        yield from problems
        if not problems and not self.adapter.rank and (step := any_step(self, "needs_adapter")):
            yield Problem(f"{path}.adapter.rank", 0, f"the step {step} carries an adapter", "set it, for example 8")


@dataclass(frozen=True)
class OptimSettings:
    """What both training stages share. `warmup` is a share of the steps; batches are counted in tokens."""

    seed: int = setting(1, at_least=0, at_most=2**31 - 1)
    max_steps: int = setting(1000, at_least=0)
    batch_tokens: int = setting(4096, at_least=16)
    lr: float = setting(1e-3, above=0, at_most=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = setting(0.1, at_least=0, at_most=1)
    weight_decay: float = setting(0.01, at_least=0, at_most=1)
    grad_clip: float = setting(1.0, at_least=0, remedy="0 turns clipping off")
    val_interval: int = setting(100, at_least=1)
    checkpoint_interval: int = setting(500, at_least=1, outcome=False)


@dataclass(frozen=True)
class PretrainSettings(OptimSettings):
    """Stage `pretrain`: masked-language modelling of the donor. Zero steps take the donor checkpoint as it is.

    `donors`: how many a comparison has; unless `seed` is set, the seeds of the fine-tuning take turns at them.
    `packing`: rows of `max_length` tokens hold several short texts, each computed as if it stood alone; without it a
    row is a text, and rows are padded to the longest of their batch.
    """

    donors: int = setting(1, at_least=1, outcome=False)
    max_length: int = setting(128, at_least=8)
    packing: bool = True
    val_texts: int = setting(500, at_least=1)


@dataclass(frozen=True)
class FinetuneSettings(OptimSettings):
    """Stage `finetune`: sequence-to-sequence training of the host, after the graft."""

    max_source_length: int = setting(128, at_least=4)
    max_target_length: int = setting(32, at_least=4)
    label_smoothing: float = setting(0.1, at_least=0, below=1)
    val_pairs: int = setting(400, at_least=2)
    generate_pairs: int = setting(16, at_least=0)

    def check(self, path: str) -> Iterator[Problem]:
        if self.max_steps < 1:
            yield Problem(f"{path}.max_steps", self.max_steps, "must be at least 1")


@dataclass(frozen=True)
class EvaluateSettings:
    """Stage `evaluate`: teacher-forced loss and generation on the test split.

    `vocabulary`: what may be written; `corpus` is the tokens of the training pairs, for which alone the output layer is
    then computed. That changes what is written, so it must be the same for all arms.
    """

    max_pairs: int | None = setting(400, at_least=2, remedy="null takes the whole test split")
    num_beams: int = setting(4, at_least=1)
    max_new_tokens: int = setting(32, at_least=1)
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = setting(0, at_least=0)
    vocabulary: Literal["full", "corpus"] = "full"
    batch_size: int = setting(32, at_least=1, outcome=False)


@dataclass(frozen=True)
class Settings:
    """All settings of one job."""

    model: ModelSettings
    data: DataSettings
    mask: MaskSettings
    transfer: TransferSettings
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings, metadata={"outcome": False})
    launch: LaunchSettings = field(default_factory=LaunchSettings, metadata={"outcome": False})
    store: StoreSettings = field(default_factory=StoreSettings, metadata={"outcome": False})
    report: ReportSettings = field(default_factory=ReportSettings, metadata={"outcome": False})
    search: SearchSettings = field(default_factory=SearchSettings, metadata={"outcome": False})

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Settings:
        """The settings of a resolved configuration.

        Raises:
            SettingsError: with every mistake found.
        """
        problems: list[Problem] = []
        built: Settings | None = build(cls, mapping, "", problems)
        if built is None:
            raise SettingsError(problems)
        return cls._checked(built, problems)

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Settings:
        """The settings of groups that were built before (`fields.build_field`) and may be shared between jobs.

        Raises:
            SettingsError: with every mistake that no group sees alone.
        """
        return cls._checked(cls(**parts), [])

    @classmethod
    def _checked(cls, built: Settings, problems: list[Problem]) -> Settings:
        problems.extend(across(built))
        if problems:
            raise SettingsError(problems)
        return built
