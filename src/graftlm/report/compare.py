"""Each arm against its baseline: the figures of every seed, the paired differences, and what may be said of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from graftlm.report import statistics as stats
from graftlm.report.collect import Arm, Collection
from graftlm.report.figures import READ, fidelity_of, figures_of, languages_of, means_of, score
from graftlm.report.records import Run, number
from graftlm.report.statistics import Difference

# figures that are compared, and whether less is better (None: neither is)
FIGURES: dict[str, tuple[str, bool | None]] = {
    "auc": ("validation loss along training", True),
    "val_loss": ("final validation loss", True),
    "test_loss": ("test loss", True),
    "gap": ("shuffled-source gap", False),
    "rougeL": ("ROUGE-L", False),
    "rouge1": ("ROUGE-1", False),
    "rouge2": ("ROUGE-2", False),
    "chrf": ("chrF", False),
    "bleu": ("BLEU", False),
}


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
    word: str = ""
    words: str = ""
    basis: str = ""
    exact_speaks: bool = False
    seeds_needed: int | None = None
    differs: dict[str, list[Any]] = field(default_factory=dict)
    fidelity: dict[str, Any] | None = None
    pairs: int = 0

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["difference"] = {name: item.to_json() for name, item in self.difference.items()}
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
    html: str | None = None

    @property
    def verdict(self) -> str:
        """The headline and its figures as one sentence."""
        return f"{self.headline}: {self.detail[:1].lower()}{self.detail[1:]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; nan and infinity become null."""
        data: dict[str, Any] = {
            "version": 1,
            "verdict": self.verdict,
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "html"},
        }
        data["arms"] = [arm.to_json() for arm in self.arms]
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


def rule(confidence: float) -> str:
    """The rule for the words, in words."""
    level = f"{1 - confidence:.2g}"
    return (
        "The primary figure, chosen beforehand, is the mean validation loss over the log-step axis, paired by "
        "fine-tuning seed. An arm is called better or worse if at least three seeds are paired, the "
        f"{confidence:.0%} t-interval of the paired differences excludes zero, the t-test's p corrected by Holm over "
        f"the arms is at most {level}, and, where the seeds are many enough for an exact sign-flip test to reach that "
        "level at all, its corrected p agrees. Controls are corrected among themselves. Otherwise: cannot tell."
    )


def compare(collection: Collection) -> Report:
    """The report of what was collected."""
    warnings = list(collection.warnings)
    baselines = collection.baselines
    results: list[ArmReport] = []
    for arm in collection.arms:
        base = None if arm.is_baseline else _baseline_of(arm, baselines)
        results.append(_measure(arm, base, collection, warnings))
    for control in (False, True):
        family = [item for item in results if not item.is_baseline and item.control == control]
        corrected = stats.correct([item.difference.get("auc") for item in family])
        for item, difference in zip(family, corrected, strict=True):
            if difference is not None:
                item.difference["auc"] = difference
        tested = sum(1 for item in corrected if item is not None and item.p is not None)
        for item in family:
            _say(item, tested, collection.confidence)
    if not baselines:
        warnings.insert(
            0, "no baseline among these jobs (a job with transfer=none): nothing to compare the arms against"
        )
    from graftlm.report.verdict import caveats, verdict

    headline, detail = verdict(results, collection.confidence)
    return Report(
        headline=headline,
        detail=detail,
        caveats=caveats(results, collection),
        baseline=baselines[0].name if baselines else None,
        arms=results,
        warnings=warnings,
        failed=collection.failed,
        pruned=collection.pruned,
        confidence=collection.confidence,
        rule=rule(collection.confidence),
        jobs=collection.jobs,
    )


def _baseline_of(arm: Arm, baselines: Sequence[Arm]) -> Arm | None:
    """The baseline of the same data, schedule and decoding, or else the one that differs least."""
    return min(baselines, key=lambda base: len(_differs(arm, base)), default=None)


def _differs(arm: Arm, base: Arm) -> dict[str, list[Any]]:
    keys = sorted({*arm.context, *base.context})
    return {
        key: [base.context.get(key), arm.context.get(key)]
        for key in keys
        if arm.context.get(key) != base.context.get(key)
    }


def _measure(arm: Arm, base: Arm | None, collection: Collection, warnings: list[str]) -> ArmReport:
    by_seed = {run.finetune_seed: run for run in base.runs} if base else {}
    if base is not None:
        alone = sorted({run.finetune_seed for run in arm.runs} - set(by_seed))
        if alone:
            warnings.append(
                f"{arm.name}: no baseline run with finetune seed {', '.join(map(str, alone))}; "
                "left out of the comparison"
            )
        missing = sorted(set(by_seed) - {run.finetune_seed for run in arm.runs})
        if missing:
            warnings.append(
                f"{arm.name}: no run with finetune seed {', '.join(map(str, missing))}, which the baseline has; "
                "an arm whose failed runs are missing may look better than it is"
            )
    seeds = [figures_of(run, by_seed.get(run.finetune_seed)) for run in arm.runs]
    result = ArmReport(
        name=arm.name,
        is_baseline=arm.is_baseline,
        control=arm.control,
        compared_to=base.name if base else None,
        seeds=seeds,
        mean=means_of(seeds),
        languages=languages_of(arm.runs),
        fidelity=fidelity_of(arm.runs),
    )
    if base is None:
        return result
    result.differs = _differs(arm, base)
    if result.differs:
        told = ", ".join(f"{key} ({old} → {new})" for key, (old, new) in list(result.differs.items())[:6])
        warnings.append(f"{arm.name} is compared with {base.name}, but they differ in more than the graft: {told}")
    pairs = [(run, by_seed[run.finetune_seed]) for run in arm.runs if run.finetune_seed in by_seed]
    result.pairs = len({run.finetune_seed for run, _ in pairs})
    confidence = collection.confidence
    for name in FIGURES:
        difference = stats.paired(_paired(pairs, READ.get(name, score(name))), confidence)
        if difference is not None:
            result.difference[name] = difference
    examples = _example_differences(pairs)
    if examples is not None:
        found = stats.bootstrap(*examples, confidence=confidence, resamples=collection.resamples)
        if found is not None:
            result.difference["test_loss"] = found
    return result


def _paired(pairs: Sequence[tuple[Run, Run]], read: Callable[[Run, Run | None], float | None]) -> list[float]:
    """One difference a fine-tuning seed: several donors of one seed are averaged, so that seeds stay independent."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for run, base in pairs:
        ours, theirs = read(run, base), read(base, run)
        if ours is not None and theirs is not None and math.isfinite(ours - theirs):
            by_seed[run.finetune_seed].append(ours - theirs)
    return [fmean(values) for _, values in sorted(by_seed.items())]


def _example_differences(pairs: Sequence[tuple[Run, Run]]) -> tuple[stats.Floats, stats.Floats] | None:
    """[seeds, examples] differences of the loss, and the tokens of each example; None where none match."""
    rows: dict[int, list[stats.Floats]] = defaultdict(list)
    shared: set[Any] | None = None
    tables = []
    for run, base in pairs:
        ours, theirs = (
            {row["index"]: row for row in item.examples if "index" in row and number(row.get("loss")) is not None}
            for item in (run, base)
        )
        common = set(ours) & set(theirs)
        shared = common if shared is None else shared & common
        tables.append((run.finetune_seed, ours, theirs))
    if not shared:
        return None
    order = sorted(shared, key=str)
    for seed, ours, theirs in tables:
        rows[seed].append(np.array([ours[index]["loss"] - theirs[index]["loss"] for index in order], dtype=np.float64))
    first = tables[0][1]
    tokens = [number(first[index].get("tokens")) for index in order]
    weights = np.array([count if count and count > 0 else 1.0 for count in tokens], dtype=np.float64)
    return np.stack([np.mean(rows[seed], axis=0) for seed in sorted(rows)]), weights


def _say(arm: ArmReport, tested: int, confidence: float) -> None:
    """The words for one arm, by the rule."""
    difference = arm.difference.get("auc")
    count = difference.n if difference else 0
    seeds = f"{count} seed" + ("" if count == 1 else "s")
    arm.word = stats.judge(difference, tested, confidence)
    arm.exact_speaks = difference is not None and stats.exact_can_speak(count, tested, confidence)
    if difference is None:
        arm.words = "cannot tell: no run is paired with a baseline run"
        return
    if arm.word != "cannot tell":
        arm.words = arm.word
        arm.basis = "exact and t-test" if arm.exact_speaks else "t-test only"
        return
    arm.words = f"cannot tell with {seeds}"
    if count > 1 and difference.sd is not None and difference.low is None:
        arm.words += ": every seed gave exactly the same difference, so they are no repetitions"
        return
    if count < stats.FEWEST_SEEDS:
        arm.words += ", too few for a claim beyond " + ("it" if count == 1 else "them")
    elif difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high:
        arm.words += f": its interval excludes zero, but not after correction for {tested} arms"
    needed = stats.seeds_needed(difference, (1 - confidence) / max(tested, 1))
    if needed is not None:
        arm.seeds_needed = max(needed, count + 1)
        amount = "over 1,000" if needed >= 1000 else f"roughly {arm.seeds_needed}"
        arm.words += f"; {amount} would be needed if the effect is what it seems"
