"""What a stage will cost, told from what like stages cost: the `seconds` of artifacts in the store.

A stage is like another where nothing differs but what does not move the cost of a step (seeds, rates, mask ratios, the
text itself); of several the nearest counts, the newest of equals. Seconds are scaled where `max_steps` differs. They
were measured on whatever machine made the artifact; of one that was resumed they count its earlier attempts too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.differences import differences
from graftlm.errors import StoreError
from graftlm.plan import PlannedStage
from graftlm.store import MARKER, read_marker

# last names of settings that do not change what a step costs
NEUTRAL = frozenset(
    {
        *("seed", "lr", "schedule", "warmup", "weight_decay", "grad_clip", "label_smoothing", "dropout"),
        *("ratio", "final_ratio", "replace", "randomize", "alpha", "length_penalty", "name"),
        *("encoder_lr", "encoder_layer_decay", "embeddings_lr", "decoder_lr", "cross_attention_lr", "control"),
    }
)
# what a stage's cost depends on beside its own settings: settings of the stages that it builds on
ALSO: dict[str, dict[str, tuple[str, ...]]] = {
    "pretrain": {"corpus": ("vocab_size", "trim")},
    "graft": {"corpus": ("vocab_size", "trim")},
    "finetune": {"corpus": ("vocab_size", "trim")},
    "evaluate": {"corpus": ("vocab_size", "trim"), "finetune": ("donor", "host", "trainer")},
}
SIZES = frozenset({"d_model", "layers", "heads", "ffn"})


@dataclass(frozen=True)
class Estimate:
    """Seconds that a stage will take, and the key of the artifact that tells so."""

    seconds: float
    key: str


class Costs:
    """What the stages of one store took."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._markers: dict[str, list[dict[str, Any]]] = {}

    def estimate(self, planned: PlannedStage, job: Sequence[PlannedStage]) -> Estimate | None:
        """The cost of a stage of a job; None where no like stage has run."""
        key = planned.key
        ours = _facts(key.stage, key.settings, {other.key.stage: other.key.settings for other in job})
        best: tuple[float, ...] | None = None
        found: Estimate | None = None
        for marker in self._of(key.stage):
            theirs = self._facts_of(marker)
            ratio, steps = _ratio(ours, theirs)
            if ratio is None:
                continue
            apart = list(differences(theirs, ours))
            if not all(_neutral(item.path) for item in apart):
                continue
            distance = (float(len(apart)), steps, -float(marker["mtime"]))
            if best is None or distance < best:
                best, found = distance, Estimate(float(marker["seconds"]) * ratio, str(marker.get("key", "")))
        return found

    def _of(self, stage: str) -> list[dict[str, Any]]:
        """The markers of a stage's artifacts, each with the time it was written."""
        if stage not in self._markers:
            self._markers[stage] = list(self._read(stage))
        return self._markers[stage]

    def _read(self, stage: str) -> Iterator[dict[str, Any]]:
        for path in sorted((self._folder / stage).glob(f"*/{MARKER}")):
            if path.parent.suffix:
                continue  # not finished
            try:
                marker = read_marker(path.parent)
                seconds = marker.get("seconds")
                if isinstance(seconds, int | float) and isinstance(marker.get("settings"), dict):
                    yield {**marker, "mtime": path.stat().st_mtime}
            except (StoreError, OSError):
                continue

    def _facts_of(self, marker: dict[str, Any]) -> dict[str, Any]:
        if "facts" not in marker:
            inputs: dict[str, Any] = {}
            for stage, key in marker.get("inputs", {}).items():
                inputs[stage] = next((item["settings"] for item in self._of(stage) if item.get("key") == key), {})
            marker["facts"] = _facts(marker["stage"], marker["settings"], inputs)
        return dict(marker["facts"])


def _facts(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a stage's cost follows from."""
    facts = {name: value for name, value in settings.items() if name != "fingerprint"}
    for of, names in ALSO.get(stage, {}).items():
        facts[f"of {of}"] = {name: _sizes(inputs.get(of, {}).get(name, "unknown")) for name in names}
    return facts


def _sizes(value: Any) -> Any:
    """Of a donor to be built, the sizes that a host may inherit: all that a finetune stage without a donor knows."""
    if isinstance(value, Mapping) and value.keys() >= SIZES and "architecture" not in value:
        return {name: value[name] for name in SIZES}
    return value


def _ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float | None, float]:
    """Our steps over theirs (None where one side has none), and how far apart they are; both lose `max_steps`."""
    ratio = 1.0
    for name in ("pretrain", "finetune"):
        one, other = ours.get(name), theirs.get(name)
        if not isinstance(one, Mapping) or not isinstance(other, Mapping) or one.get("max_steps") is None:
            continue
        steps, known = one["max_steps"], other.get("max_steps")
        if steps != known:
            if not steps or not known:
                return None, 0.0
            ratio *= steps / known
            theirs[name] = {**other, "max_steps": steps}
    return ratio, abs(math.log(ratio))


def _neutral(path: str) -> bool:
    return path.rpartition(".")[2] in NEUTRAL


def duration(seconds: float) -> str:
    """Seconds in words, as exact as an estimate is."""
    if seconds < 9.5:
        return f"{seconds:.1f} s" if seconds < 0.95 else f"{seconds:.0f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
