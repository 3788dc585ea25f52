"""What a report holds: its figures, arms and contrasts. docs/comparing.md describes every key of report.json."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from graftlm.report.statistics import Difference

VERSION = 2  # of report.json
# figures that are compared, and whether less is better (None: neither is)
FIGURES: dict[str, tuple[str, bool | None]] = {
    "auc": ("validation loss along training", True),
    "val_loss": ("final validation loss", True),
    "equal_compute": ("validation loss at the baseline’s compute", True),
    "test_loss": ("test loss", True),
    "gap": ("shuffled-source gap", False),
    "rougeL": ("ROUGE-L", False),
    "rouge1": ("ROUGE-1", False),
    "rouge2": ("ROUGE-2", False),
    "chrf": ("chrF", False),
    "bleu": ("BLEU", False),
}


BY_EXAMPLE = ("test_loss", "rougeL", "rouge1", "rouge2", "chrf", "bleu")
# what one of each is: of losses nats a token, of scores points of 100
UNITS = {name: "points" if less is False and name != "gap" else "nats a token" for name, (_, less) in FIGURES.items()}


@dataclass
class ArmReport:
    """An arm's figures, seed by seed, and its comparison."""

    name: str
    is_baseline: bool
    control: bool
    compared_to: str | None
    seeds: list[dict[str, Any]]
    mean: dict[str, float | None]
    languages: dict[str, dict[str, float | None]]
    difference: dict[str, Difference] = field(default_factory=dict)
    languages_difference: dict[str, dict[str, Difference]] = field(default_factory=dict)
    word: str = ""
    words: str = ""
    basis: str = ""
    exact_speaks: bool = False
    seeds_needed: int | None = None
    detectable: float | None = None
    differs: dict[str, list[Any]] = field(default_factory=dict)
    fidelity: dict[str, Any] | None = None
    pairs: int = 0
    to_best: dict[str, Any] = field(default_factory=dict)
    equal_compute: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    alarms: list[dict[str, str]] = field(default_factory=list)
    worst: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    primary: str = "auc"
    not_above: list[str] = field(default_factory=list)  # controls that it was not shown to be better than

    @property
    def main(self) -> Difference | None:
        """The difference of the primary figure."""
        return self.difference.get(self.primary)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["primary"]  # it is the report's
        return data


@dataclass
class Contrast:
    """One arm against another that is not its baseline."""

    arm: str
    against: str
    asked: bool
    difference: dict[str, Difference]
    differs: dict[str, list[Any]]
    primary: str
    word: str = ""
    words: str = ""
    basis: str = ""
    exact_speaks: bool = False
    seeds_needed: int | None = None
    detectable: float | None = None

    @property
    def main(self) -> Difference | None:
        """The difference of the primary figure."""
        return self.difference.get(self.primary)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        del data["primary"]
        return data


@dataclass
class Report:
    """What report.json holds."""

    headline: str
    detail: str
    caveats: list[str]
    baseline: str | None
    arms: list[ArmReport]
    warnings: list[str]
    failed: list[dict[str, Any]]
    pruned: list[dict[str, Any]]
    confidence: float
    rule: str
    jobs: int
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    primary: dict[str, Any] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    pruning: bool = False
    html: str | None = None

    @property
    def verdict(self) -> str:
        """The headline and its figures as one sentence."""
        return f"{self.headline}: {self.detail[:1].lower()}{self.detail[1:]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; nan and infinity become null."""
        data: dict[str, Any] = {
            "version": VERSION,
            "verdict": self.verdict,
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "html"},
        }
        data["arms"] = [arm.to_json() for arm in self.arms]
        data["contrasts"] = [contrast.to_json() for contrast in self.contrasts]
        cleaned: dict[str, Any] = clean(data)
        return cleaned

    def arm(self, name: str) -> ArmReport:
        """The arm of this name; KeyError where there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)


def clean(value: Any) -> Any:
    """The value with nan and infinities as None, for JSON."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
