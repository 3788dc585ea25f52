"""Each arm against its baseline: the figures of every seed, the paired differences, and what may be said of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from graftlm.report import examples
from graftlm.report import statistics as stats
from graftlm.report.budget import equal_compute, to_best
from graftlm.report.collect import Arm, Collection
from graftlm.report.figures import READ, fidelity_of, figures_of, languages_of, means_of, score
from graftlm.report.power import MOST, detectable, seeds_needed
from graftlm.report.probes import alarms, probes_of, worst_of
from graftlm.report.records import Run
from graftlm.report.results import BY_EXAMPLE, FIGURES, UNITS, ArmReport, Contrast, Report, clean
from graftlm.report.statistics import Difference
from graftlm.report.text import level

__all__ = ["FIGURES", "ArmReport", "Contrast", "Report", "clean", "compare", "rule"]


def rule(confidence: float, primary: str = "auc") -> str:
    """The rule for the words, in words."""
    most, sure = f"{1 - confidence:.2g}", level(confidence)
    figure = "the mean validation loss over the log-step axis" if primary == "auc" else f"the {FIGURES[primary][0]}"
    kind = "bootstrap interval over seeds and examples" if primary in BY_EXAMPLE else "t-interval"
    return (
        f"The primary figure, chosen beforehand, is {figure}, paired by fine-tuning seed. An arm is called better or "
        f"worse if at least three seeds are paired, the {sure} {kind} of the paired differences excludes "
        f"zero, the t-test's p corrected by Holm over the arms is at most {most}, and, where the seeds are many "
        "enough for an exact sign-flip test to reach that level at all, its corrected p agrees. Controls are "
        "corrected among themselves, and so are the contrasts. Otherwise: cannot tell."
    )


def compare(collection: Collection) -> Report:
    """The report of what was collected."""
    warnings = list(collection.warnings)
    baselines = collection.baselines
    primary = collection.primary
    results: list[ArmReport] = []
    for arm in collection.arms:
        base = None if arm.is_baseline else _baseline_of(arm, baselines)
        results.append(_measure(arm, base, collection, warnings))
    for control in (False, True):
        _judge([item for item in results if not item.is_baseline and item.control == control], collection.confidence)
    _beside_controls(results, collection)
    contrasts = _contrasts(collection, warnings)
    _judge(contrasts, collection.confidence)
    if not baselines:
        warnings.insert(
            0, "no baseline among these jobs (a job with transfer=none): nothing to compare the arms against"
        )
    from graftlm.report.verdict import caveats, verdict

    headline, detail = verdict(results, collection.confidence)
    compared: list[ArmReport | Contrast] = [*results, *contrasts]
    told = {name for item in compared for name in item.difference} | {primary}
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
        rule=rule(collection.confidence, primary),
        jobs=collection.jobs,
        figures={name: _figure(name) for name in FIGURES if name in told},
        primary={
            "figure": primary,
            **_figure(primary),
            "declared": collection.declared,
            "asked": collection.asked,
            "note": collection.primary_note,
        },
        contrasts=contrasts,
        searches=collection.searches,
        pruning=collection.pruning,
    )


def _beside_controls(results: Sequence[ArmReport], collection: Collection) -> None:
    """Which controls each better arm was not shown to beat: pairs of seeds whose t-interval does not exclude zero.

    Of other data or another schedule a control says nothing of the arm: it has a baseline of its own.
    """
    arms = {arm.name: arm for arm in collection.arms}
    _, less = FIGURES[collection.primary]
    for arm in results:
        if arm.word != "better" or arm.control:
            continue
        for control in results:
            if not control.control or control.main is None:
                continue
            pairs = _pairs(arms[arm.name], arms[control.name])
            if _differs(arms[arm.name], arms[control.name]) or _unlike(pairs):
                continue
            if collection.primary == "equal_compute":
                difference = equal_compute(pairs, collection.confidence)[1]
            else:
                read = READ.get(collection.primary, score(collection.primary))
                difference = stats.paired(_paired(pairs, read), collection.confidence)
            bound = None if difference is None else difference.high if less else difference.low
            if bound is None or (bound >= 0 if less else bound <= 0):
                arm.not_above.append(control.name)


def _figure(name: str) -> dict[str, Any]:
    label, less = FIGURES[name]
    return {"label": label, "less": less, "unit": UNITS[name], "digits": 1 if UNITS[name] == "points" else 3}


def _judge(family: Sequence[ArmReport | Contrast], confidence: float) -> None:
    """Corrects every figure over the family and words it; the primary one gives the verdict."""
    for name, (_, less) in FIGURES.items():
        corrected = stats.correct([item.difference.get(name) for item in family])
        tested = sum(1 for item in corrected if item is not None and item.p is not None)
        for item, difference in zip(family, corrected, strict=True):
            if difference is not None:
                word = "" if name == "gap" else stats.judge(difference, tested, confidence, bool(less))
                item.difference[name] = replace(difference, word=word)
            if name == item.primary:
                _say(item, tested, confidence)


def _contrasts(collection: Collection, warnings: list[str]) -> list[Contrast]:
    """The declared pairs; of several arms by one name each meets the one that differs least from it."""
    found: list[Contrast] = []
    for first, second, asked in collection.contrasts:
        arms, others = (
            [arm for arm in collection.arms if name in (arm.name, arm.transfer)] for name in (first, second)
        )
        for name, there in ((first, arms), (second, others)):
            if not there:
                warnings.append(f"contrast of {first} and {second}: no arm is called {name}")
        for arm in arms:
            other = min(others, key=lambda item: len(_apart(arm, item, ("transfer.",))), default=None)
            if other is not None and other is not arm:
                pairs = _pairs(arm, other)
                difference = _differences(pairs, collection)[0]
                differs = _differs(arm, other) or _unlike(pairs)
                if differs:
                    warnings.append(f"{arm.name} and {other.name} differ in more than the graft: {_told(differs)}")
                found.append(Contrast(arm.name, other.name, asked, difference, differs, collection.primary))
    return found


def _apart(arm: Arm, other: Arm, apart_from: tuple[str, ...]) -> list[str]:
    keys = {*arm.identity, *other.identity}
    return [key for key in keys if not key.startswith(apart_from) and arm.identity.get(key) != other.identity.get(key)]


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


def _told(differs: dict[str, list[Any]]) -> str:
    return ", ".join(f"{key} ({old} → {new})" for key, (old, new) in list(differs.items())[:6])


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
        probes=probes_of(arm.runs),
        primary=collection.primary,
    )
    result.alarms = alarms(result.probes)
    pairs = _pairs(arm, base) if base else []
    result.worst = worst_of(arm.runs, pairs)
    if base is None:
        return result
    result.differs = _differs(arm, base) or _unlike(pairs)
    if result.differs:
        told = _told(result.differs)
        warnings.append(f"{arm.name} is compared with {base.name}, but they differ in more than the graft: {told}")
    result.pairs = len({run.finetune_seed for run, _ in pairs})
    result.difference, result.languages_difference, result.equal_compute = _differences(pairs, collection)
    result.to_best = to_best(seeds, collection.confidence)
    return result


def _unlike(pairs: Sequence[tuple[Run, Run]]) -> dict[str, list[Any]]:
    """What no setting tells: another corpus from the same settings (as where other packages are installed), or other
    batches at the same step."""
    for run, base in pairs:
        keys = [str(item.extra.get("corpus") or "") for item in (base, run)]
        if all(keys) and keys[0] != keys[1]:
            return {"the corpus itself": [key[:12] for key in keys]}
        steps, ours, theirs = np.intersect1d(run.curve["step"], base.curve["step"], return_indices=True)
        for name in ("examples", "tokens"):
            seen = [base.curve[name][theirs], run.curve[name][ours]]
            apart = np.flatnonzero(np.isfinite(seen[0]) & np.isfinite(seen[1]) & (seen[0] != seen[1]))
            if len(apart):
                at = int(apart[-1])
                return {f"{name} read up to step {steps[at]:.0f}": [float(seen[0][at]), float(seen[1][at])]}
    return {}


def _pairs(arm: Arm, base: Arm) -> list[tuple[Run, Run]]:
    """Runs of one fine-tuning seed; of several donors of the other arm the one of the same seed, or else the first."""
    pairs = []
    for run in arm.runs:
        others = [other for other in base.runs if other.finetune_seed == run.finetune_seed]
        if others:
            same = (other for other in others if other.pretrain_seed == run.pretrain_seed)
            pairs.append((run, next(same, others[0])))
    return pairs


def _differences(
    pairs: Sequence[tuple[Run, Run]], collection: Collection
) -> tuple[dict[str, Difference], dict[str, dict[str, Difference]], dict[str, Any]]:
    """The difference of each figure, those by language, and what was reached at equal compute."""
    confidence = collection.confidence
    found: dict[str, Difference] = {}
    by_example, by_language = examples.differences(pairs, confidence, collection.resamples)
    reached, at_equal = equal_compute(pairs, confidence)
    for name in FIGURES:
        if name == "equal_compute":
            difference = at_equal
        else:
            difference = by_example.get(name) or stats.paired(_paired(pairs, READ.get(name, score(name))), confidence)
        if difference is not None:
            found[name] = difference
    return found, by_language, reached


def _paired(pairs: Sequence[tuple[Run, Run]], read: Callable[[Run, Run | None], float | None]) -> list[float]:
    """One difference a fine-tuning seed: several donors of one seed are averaged, so that seeds stay independent."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for run, base in pairs:
        ours, theirs = read(run, base), read(base, run)
        if ours is not None and theirs is not None and math.isfinite(ours - theirs):
            by_seed[run.finetune_seed].append(ours - theirs)
    return [fmean(values) for _, values in sorted(by_seed.items())]


def _say(item: ArmReport | Contrast, tested: int, confidence: float) -> None:
    """The words for one arm or contrast, by the rule."""
    difference = item.main
    label, less = FIGURES[item.primary]
    count = difference.n if difference else 0
    seeds = f"{count} seed" + ("" if count == 1 else "s")
    item.word = stats.judge(difference, tested, confidence, bool(less))
    item.exact_speaks = difference is not None and stats.exact_can_speak(count, tested, confidence)
    if difference is None:
        item.words = "cannot tell: no run is paired with a " + ("baseline run" if item.primary == "auc" else f"{label}")
        return
    item.detectable = detectable(difference, confidence, tested)
    if item.word != "cannot tell":
        item.words = item.word
        item.basis = "exact and t-test" if item.exact_speaks else "t-test only"
        return
    item.words = f"cannot tell with {seeds}"
    if count > 1 and difference.sd is not None and difference.low is None:
        item.words += ": every seed gave exactly the same difference, so they are no repetitions"
        return
    if count < stats.FEWEST_SEEDS:
        item.words += ", too few for a claim beyond " + ("it" if count == 1 else "them")
    elif difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high:
        item.words += f": its interval excludes zero, but not after correction for {tested} arms"
    needed = seeds_needed(difference, confidence, tested, more_than=count)
    if needed is not None:
        item.seeds_needed = needed
        amount = "over 1,000" if needed >= MOST else f"roughly {needed}"
        item.words += f"; {amount} would be needed if the effect is what it seems"
