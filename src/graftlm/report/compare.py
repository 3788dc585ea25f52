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
from graftlm.report.records import Run, number
from graftlm.report.statistics import Difference

SCORES = ("rouge1", "rouge2", "rougeL", "chrf", "bleu")
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
        data: dict[str, Any] = {"version": 1, "verdict": self.verdict, **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "html"}}
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
        f"{confidence:.0%} t-interval of the paired differences excludes zero, the t-test's p corrected by Holm over the "
        f"arms is at most {level}, and, where the seeds are many enough for an exact sign-flip test to reach that level "
        "at all, its corrected p agrees. Controls are corrected among themselves. Otherwise: cannot tell."
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
        warnings.insert(0, "no baseline among these jobs (a job with transfer=none): nothing to compare the arms against")
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
        key: [base.context.get(key), arm.context.get(key)] for key in keys if arm.context.get(key) != base.context.get(key)
    }


def _measure(arm: Arm, base: Arm | None, collection: Collection, warnings: list[str]) -> ArmReport:
    by_seed = {run.finetune_seed: run for run in base.runs} if base else {}
    if base is not None:
        alone = sorted({run.finetune_seed for run in arm.runs} - set(by_seed))
        if alone:
            warnings.append(
                f"{arm.name}: no baseline run with finetune seed {', '.join(map(str, alone))}; not part of the comparison"
            )
        missing = sorted(set(by_seed) - {run.finetune_seed for run in arm.runs})
        if missing:
            warnings.append(
                f"{arm.name}: no run with finetune seed {', '.join(map(str, missing))}, which the baseline has; "
                "an arm whose failed runs are missing may look better than it is"
            )
    seeds = [_figures(run, by_seed.get(run.finetune_seed)) for run in arm.runs]
    result = ArmReport(
        name=arm.name,
        is_baseline=arm.is_baseline,
        control=arm.control,
        compared_to=base.name if base else None,
        seeds=seeds,
        mean=_means(seeds),
        languages=_languages(arm.runs),
        fidelity=_fidelity(arm.runs),
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
        difference = stats.paired(_paired(pairs, _READ.get(name, _score(name))), confidence)
        if difference is not None:
            result.difference[name] = difference
    examples = _example_differences(pairs)
    if examples is not None:
        found = stats.bootstrap(*examples, confidence=confidence, resamples=collection.resamples)
        if found is not None:
            result.difference["test_loss"] = found
    return result


def curve_area(run: Run, other: Run | None = None) -> float:
    """The primary figure: the mean validation loss over log steps, over the steps that `other` has as well."""
    steps = run.curve["step"]
    if other is None:
        return stats.area(steps, run.curve["loss"])
    first, last = max(steps[0], other.curve["step"][0]), min(steps[-1], other.curve["step"][-1])
    return stats.area(steps, run.curve["loss"], float(first), float(last))


def _score(name: str) -> Callable[[Run, Run | None], float | None]:
    return lambda run, _: number((run.scores.get("all") or {}).get(name))


_READ: dict[str, Callable[[Run, Run | None], float | None]] = {
    "auc": curve_area,
    "val_loss": lambda run, _: float(run.curve["loss"][-1]),
    "test_loss": lambda run, _: number(run.scores.get("loss")),
    "gap": lambda run, _: number(run.scores.get("gap")),
}


def _paired(pairs: Sequence[tuple[Run, Run]], read: Callable[[Run, Run | None], float | None]) -> list[float]:
    """One difference a fine-tuning seed: several donors of one seed are averaged, so that seeds stay independent."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for run, base in pairs:
        ours, theirs = read(run, base), read(base, run)
        if ours is not None and theirs is not None and math.isfinite(ours - theirs):
            by_seed[run.finetune_seed].append(ours - theirs)
    return [fmean(values) for _, values in sorted(by_seed.items())]


def _example_differences(pairs: Sequence[tuple[Run, Run]]) -> tuple[stats.Floats, stats.Floats] | None:
    """[seeds, examples] differences of the loss and the tokens of each example; None where the examples do not match."""
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
    weights = np.array([number(first[index].get("tokens")) or 1.0 for index in order], dtype=np.float64)
    return np.stack([np.mean(rows[seed], axis=0) for seed in sorted(rows)]), weights


def _figures(run: Run, base: Run | None) -> dict[str, Any]:
    """All figures of one run; the shares are null where the baseline's best was never reached (then see `..._above`)."""
    curve, cost, donor = run.curve, run.cost, run.donor_cost
    figures: dict[str, Any] = {
        "finetune_seed": run.finetune_seed,
        "pretrain_seed": run.pretrain_seed,
        "auc": curve_area(run),
        "val_loss": float(curve["loss"][-1]),
        "val_loss_best": float(np.nanmin(curve["loss"])),
        "test_loss": number(run.scores.get("loss")),
        "gap": number(run.scores.get("gap")),
        **{name: value for name in (*SCORES, "length_ratio") if (value := _score(name)(run, None)) is not None},
        "seconds": cost.get("seconds"),
        "graft_seconds": cost.get("graft_seconds"),
        "donor_seconds": donor.get("seconds", 0.0),
        "flops": cost.get("flops"),
        "donor_flops": donor.get("flops", 0.0),
        "parameters": cost.get("parameters"),
        "command": run.command,
        "job": run.job,
    }
    if base is None or base is run:
        return figures
    best = int(np.argmin(base.curve["loss"]))
    goal, needed = float(base.curve["loss"][best]), float(base.curve["step"][best])
    if needed <= 0:
        return figures
    reached = stats.first_reach(curve["step"], curve["loss"], goal)
    last = float(curve["step"][-1])
    figures["steps_share"] = None if reached is None else reached / needed
    figures["steps_share_above"] = last / needed if reached is None else None
    spent = flops_at(base, needed)
    if spent:
        charged = donor.get("flops", 0.0) + flops_at(run, last if reached is None else reached)
        figures["compute_share"] = None if reached is None else charged / spent
        figures["compute_share_above"] = charged / spent if reached is None else None
    return figures


def flops_at(run: Run, step: float) -> float:
    """The fine-tuning flops spent up to a step: the total by the share of tokens read (of steps where unknown)."""
    total, steps = run.cost.get("flops"), run.curve["step"]
    tokens = run.curve["tokens"]
    if total is None:
        return 0.0
    if np.all(np.isfinite(tokens)) and tokens[-1] > 0:
        whole = max(float(tokens[-1]), run.cost.get("tokens", 0.0))
        return total * float(np.interp(step, steps, tokens)) / whole
    return total * step / max(float(steps[-1]), run.cost.get("steps", 0.0), 1.0)


def _means(seeds: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Means over seeds; of the censored shares the median, with its bound where it is censored itself."""
    names = dict.fromkeys(name for item in seeds for name in item)
    mean: dict[str, float | None] = {}
    for name in names:
        if name in ("finetune_seed", "pretrain_seed", "command", "job") or name.endswith("_above"):
            continue
        if name.endswith("_share"):
            told = [item for item in seeds if name in item]
            bounds = [item[f"{name}_above"] or math.inf for item in told]
            mean[name], mean[f"{name}_above"] = stats.median_censored([item[name] for item in told], bounds)
            continue
        values = [found for item in seeds if (found := number(item.get(name))) is not None]
        mean[name] = fmean(values) if values else None
    return mean


def _languages(runs: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """Mean scores over seeds, per language; the lead-1 line's as `lead1.NAME`."""
    gathered: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        languages = run.scores.get("languages")
        tables = {"all": run.scores.get("all"), **(languages if isinstance(languages, dict) else {})}
        for code, table in tables.items():
            if not isinstance(table, dict):
                continue
            lead = table.get("lead1")
            lines = {**table, **{f"lead1.{key}": value for key, value in (lead if isinstance(lead, dict) else {}).items()}}
            for name, value in lines.items():
                if (found := number(value)) is not None:
                    gathered[str(code)][name].append(found)
    return {code: {name: fmean(values) for name, values in table.items()} for code, table in gathered.items()}


def _fidelity(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The first run's fidelity: before and after the graft, on the donor's held-out text."""
    for run in runs:
        found = (run.transfer or {}).get("fidelity")
        if isinstance(found, dict):
            return {name: found[name] for name in ("before", "after", "layers", "texts", "tokens") if name in found}
    return None


def _say(arm: ArmReport, tested: int, confidence: float) -> None:
    """The words for one arm, by the rule."""
    difference = arm.difference.get("auc")
    count = difference.n if difference else 0
    seeds = f"{count} seed" + ("" if count == 1 else "s")
    arm.word = stats.judge(difference, tested, confidence)
    if difference is None:
        arm.words = "cannot tell: no run is paired with a baseline run"
        return
    if arm.word != "cannot tell":
        arm.words = arm.word
        arm.basis = "exact and t-test" if stats.exact_can_speak(count, tested, confidence) else "t-test only"
        return
    arm.words = f"cannot tell with {seeds}"
    if count > 1 and difference.sd is not None and difference.low is None:
        arm.words += ": every seed gave exactly the same difference, so they are no repetitions"
        return
    if count < stats.FEWEST_SEEDS:
        arm.words += ", too few for a claim beyond " + ("it" if count == 1 else "them")
    needed = stats.seeds_needed(difference, (1 - confidence) / max(tested, 1))
    if needed is not None:
        arm.seeds_needed = max(needed, count + 1)
        amount = "over 1,000" if needed >= 1000 else f"roughly {arm.seeds_needed}"
        arm.words += f"; {amount} would be needed if the effect is what it seems"
