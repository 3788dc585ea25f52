"""The verdict in one sentence, and the caveats that are true of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graftlm.report.collect import Collection
from graftlm.report.probes import HARDLY_READS
from graftlm.report.results import FIGURES, UNITS, ArmReport
from graftlm.report.statistics import Difference, Floats
from graftlm.report.text import interval, level, share, signed


def verdict(arms: Sequence[ArmReport], confidence: float) -> tuple[str, str]:
    """A headline that a person can repeat, and the sentence with its figures."""
    candidates = _candidates(arms)
    ranked = _ranked(candidates)
    if not arms:
        return "No run finished", "There is nothing to compare."
    if not any(arm.is_baseline for arm in arms):
        return "Whether a graft helps cannot be said", "There is no baseline among these runs."
    if not candidates:
        return "Only the baseline was run", "There is no arm to compare it with."
    if not ranked:
        if any(arm.differs for arm in candidates):
            return "Nothing can be compared", "Every arm differs from the baselines in more than the graft; see below."
        if any(arm.pairs for arm in candidates):
            return "Nothing can be compared", f"No arm has the primary figure, {_label(candidates[0])}."
        return "Nothing can be compared", "No arm shares a fine-tuning seed with the baseline."
    best = ranked[0]
    against = f"the baseline ({best.compared_to})"
    more = _others(ranked)
    if best.word == "better":
        aside = _aside(best)
        detail = f"Its {_noun(best)} was {_gain(best, confidence)}{_speed(best)}.{more}"
        return f"{best.name} is better than {against}{aside}", detail
    if best.word == "worse":
        if len(ranked) == 1:
            return f"{best.name} is worse than {against}", f"Its {_noun(best)} was {_gain(best, confidence)}."
        detail = f"Even {best.name}'s {_noun(best)} was {_gain(best, confidence)}.{more}"
        return f"Every arm is worse than {against}", detail
    count = _main(best).n
    seeds = f"{count} seed" + ("" if count == 1 else "s")
    open_arms = sum(1 for arm in ranked if arm.word == "cannot tell")
    who = best.name if open_arms == 1 else f"any of {open_arms} arms"
    closest = "Its" if open_arms == 1 else f"{best.name} comes first: its"
    needed = (
        f"; roughly {best.seeds_needed} seeds would be needed" if best.seeds_needed and best.seeds_needed < 1000 else ""
    )
    return (
        f"With {seeds} one cannot tell whether {who} is better than {against}",
        f"{closest} {_noun(best)} was {_gain(best, confidence)}{needed}.{more}",
    )


def _aside(best: ArmReport) -> str:
    """What a headline must not be repeated without."""
    said = [] if _reads(best) else ["does not yet read its source"]
    if best.not_above:
        said.append(f"was not shown to gain more than the control {' or '.join(best.not_above)}")
    return f", but {' and '.join(said)}" if said else ""


def leading(arms: Sequence[ArmReport]) -> ArmReport | None:
    """The arm that the verdict is about; None where it is about none."""
    return next(iter(_ranked(_candidates(arms))), None)


def _candidates(arms: Sequence[ArmReport]) -> list[ArmReport]:
    return [arm for arm in arms if not arm.is_baseline and not arm.control] or [
        arm for arm in arms if not arm.is_baseline
    ]


def _ranked(candidates: Sequence[ArmReport]) -> list[ArmReport]:
    """Best first. Arms on other data or another schedule are shown with what differs, elsewhere: a headline would
    compare them silently."""
    compared = [arm for arm in candidates if arm.main is not None and not arm.differs]
    return sorted(compared, key=lambda arm: (_RANK[arm.word], _loss(arm)))


def _main(arm: ArmReport) -> Difference:
    found = arm.main
    assert found is not None, "only arms that are compared come here"
    return found


def _label(arm: ArmReport) -> str:
    return FIGURES[arm.primary][0]


def _loss(arm: ArmReport) -> float:
    """The difference of the primary figure, turned so that less is better."""
    return _main(arm).mean if FIGURES[arm.primary][1] else -_main(arm).mean


def _noun(arm: ArmReport) -> str:
    return "validation loss" if arm.primary == "auc" else _label(arm)


def _gain(arm: ArmReport, confidence: float) -> str:
    """`0.210 nats a token lower along training (95% interval ...)`."""
    difference, unit = _main(arm), UNITS[arm.primary]
    digits = 1 if unit == "points" else 3
    way = ("lower" if difference.mean < 0 else "higher") + (" along training" if arm.primary == "auc" else "")
    return f"{abs(difference.mean):.{digits}f} {unit} {way}{_between(difference, confidence, digits)}"


def _reads(arm: ArmReport) -> bool:
    """Whether the loss rises when sources are shuffled; not known counts as yes."""
    gap = arm.mean.get("gap")
    return gap is None or gap >= HARDLY_READS


_RANK = {"better": 0, "cannot tell": 1, "worse": 2}


def _between(difference: Difference, confidence: float, digits: int = 3) -> str:
    seeds = f"{difference.n} paired seed" + ("" if difference.n == 1 else "s")
    if difference.low is None or difference.high is None:
        return f" ({seeds}, no interval)"
    low, high = difference.low, difference.high
    if low > 0 or high < 0:  # one direction: sizes are easier to say than signs
        low, high = sorted((abs(low), abs(high)))
        return f" ({level(confidence)} interval {low:.{digits}f} to {high:.{digits}f}, {seeds})"
    between = f"{signed(low, digits)} to {signed(high, digits)}"
    return f" ({level(confidence)} interval of the difference {between}, {seeds})"


def _speed(arm: ArmReport) -> str:
    steps = arm.mean.get("steps_share")
    if steps is None:
        return ", though it did not reach the baseline's best loss" if arm.mean.get("steps_share_above") else ""
    text = f", and it reached the baseline's best loss in {steps:.0%} of the steps"
    compute = arm.mean.get("compute_share")
    if compute is None:
        return text
    told = f"{compute:.0%} of" if compute < 2 else f"{compute:.1f} times"
    return f"{text} ({told} the compute once the donor's training is charged)"


def _others(ranked: Sequence[ArmReport]) -> str:
    if len(ranked) == 1:
        return ""
    counts = {word: sum(1 for arm in ranked if arm.word == word) for word in _RANK}
    if counts["better"] == len(ranked):
        every = "Both" if len(ranked) == 2 else f"All {len(ranked)}"
        return f" {every} arms are better; the order among them is not tested."
    if counts["worse"] == len(ranked) or counts["cannot tell"] == len(ranked):
        return ""
    parts = [
        f"{counts['better']} better" if counts["better"] else "",
        f"{counts['cannot tell']} undecided" if counts["cannot tell"] else "",
        f"{counts['worse']} worse" if counts["worse"] else "",
    ]
    return f" Of {len(ranked)} arms: {', '.join(filter(None, parts))}."


def caveats(arms: Sequence[ArmReport], collection: Collection) -> list[str]:
    """What a reader of the verdict must know, each only where it is true."""
    said: list[str] = []
    if collection.primary_note:
        said.append(collection.primary_note)
    candidates = [arm for arm in arms if not arm.is_baseline and not arm.control and arm.main is not None]
    better = [arm for arm in candidates if arm.word == "better"]
    controls = [arm for arm in arms if arm.control and arm.word == "better"]
    if controls and better:
        said.append(
            f"The control {_list(controls)} is better than the baseline as well: that part of the gain does not come "
            "from what the control was made to destroy."
        )
    fewest = min((_main(arm).n for arm in candidates), default=None)
    if fewest is not None and fewest < 3:
        seeds = f"{fewest} paired seed" + ("" if fewest == 1 else "s")
        said.append(f"{seeds} cannot support a claim beyond these very runs, whatever the size of the difference.")
    leaning = [arm for arm in candidates if arm.basis == "t-test only"]
    if leaning:
        rest = "rests" if len(leaning) == 1 else "rest"
        said.append(
            f"{_list(leaning)}: {rest} on a t-test, which takes the differences between seeds to be roughly normal; "
            "an exact test needs more seeds before it can speak for this many arms."
        )
    fading = [
        arm for arm in better if (test := arm.difference.get("test_loss")) and test.high is not None and test.high >= 0
    ]
    if fading and collection.primary != "test_loss":
        told = ", ".join(f"{arm.name} {interval(arm.difference['test_loss'])}" for arm in fading[:6])
        said.append(f"The gain is along the way: in final test loss one cannot tell it from the baseline ({told}).")
    said += _equal_compute(better)
    dear = [
        arm for arm in better if (arm.mean.get("compute_share") or 0) > 1 and (arm.mean.get("steps_share") or 2) < 1
    ]
    if dear:
        times = ", ".join(f"{arm.name} {share(arm.mean, 'compute_share')} times" for arm in dear[:6])
        said.append(
            f"Fewer steps, but more compute than the baseline once the donor's training is charged in full ({times}); "
            "a donor that is used again is cheaper."
        )
    early = max((_first_stretch(run.curve["step"]) for arm in collection.arms for run in arm.runs), default=0.0)
    if early > 0.5 and candidates and collection.primary == "auc":
        said.append(
            f"{early:.0%} of the log-step axis lies before the second validation and is a straight line between two "
            "points: lower finetune.val_interval to see the early steps that the primary figure weighs most."
        )
    if any(arm.control for arm in arms) is False and candidates:
        said.append("No control was run (a name copy, shuffled weights): what the gain comes from is not tested.")
    said += _few_donors(candidates)
    unread = [arm for arm in arms if not arm.control and arm.seeds and not _reads(arm)]
    if unread:
        said.append(
            f"{_list(unread)}: the loss hardly rises when sources are shuffled (gap below {HARDLY_READS}): the model "
            "barely reads its source, so its scores say little about the encoder."
        )
    for word in dict.fromkeys(item["word"] for arm in arms for item in arm.alarms if item["probe"] != "gap"):
        alarmed = [arm for arm in arms if any(item["word"] == word for item in arm.alarms)]
        first = next(item for item in alarmed[0].alarms if item["word"] == word)
        where = "" if first["language"] == "all" else f" ({first['language']})"
        said.append(f"Probe “{word}”: {_list(alarmed)}. Of {alarmed[0].name}{where}, {first['text']}.")
    if any(arm.differs for arm in arms):
        said.append("Some arms differ from their baseline in more than the graft; see the warnings.")
    if collection.searches:
        said.append(
            f"These are trials of a search ({', '.join(collection.searches)}): settings chosen by their own results, "
            "so that the best of them looks better than it is. Repeat it with other seeds before you compare it."
        )
    if collection.pruning or collection.pruned:
        said.append(
            f"Pruning was on; trials given up before their end: {len(collection.pruned)}. "
            "Pruned trials are no arms: they are listed, and in no figure and no verdict."
        )
    if collection.failed:
        count = len(collection.failed)
        said.append(
            f"{count} job{'' if count == 1 else 's'} failed and {'is' if count == 1 else 'are'} not in the figures."
        )
    return said


def _few_donors(arms: Sequence[ArmReport]) -> list[str]:
    """Where seeds share donors: they are no repetitions of what the donor's training adds to the spread."""
    sharing: dict[int, list[ArmReport]] = {}
    for arm in arms:
        built = {(item["pretrain_seed"], item["finetune_seed"]) for item in arm.seeds}
        donors = {donor for donor, _ in built}
        if len(built) > len(donors) and any(item.get("donor_flops") for item in arm.seeds):
            sharing.setdefault(len(donors), []).append(arm)
    said = []
    for count, some in sorted(sharing.items()):
        if count == 1:
            text = "all seeds share one donor (one pretrain.seed); the interval does not cover how far another donor"
        else:
            text = f"the seeds share {count} donors; the interval covers only in part how far other donors"
        said.append(f"{_list(some)}: {text} would have differed. pretrain.donors says how many a comparison has.")
    return said


def _equal_compute(better: Sequence[ArmReport]) -> list[str]:
    """Whether a gain is still there once an arm has spent no more than the baseline."""
    dear: dict[str, list[ArmReport]] = {}
    for arm in better:
        if words := arm.equal_compute.get("words"):
            dear.setdefault(words, []).append(arm)
    behind = [arm for arm in better if (at := arm.difference.get("equal_compute")) and at.mean > 0]
    said = [f"At the compute that the baseline spent ({_list(some)}): {words}." for words, some in dear.items()]
    if behind:
        told = ", ".join(f"{arm.name} {interval(arm.difference['equal_compute'])}" for arm in behind[:6])
        said.append(
            f"At the compute that the baseline spent, donor and graft charged, the validation loss is higher ({told}); "
            "there the arm is in the midst of a schedule that was made for more steps."
        )
    return said


def _first_stretch(steps: Floats) -> float:
    """The share of a curve's log-step axis between its first two points."""
    logs = np.log1p(steps)
    return float((logs[1] - logs[0]) / (logs[-1] - logs[0])) if len(logs) > 2 else float(len(logs) == 2)


def _list(arms: Sequence[ArmReport]) -> str:
    names = [arm.name for arm in arms]
    return ", ".join(names) if len(names) <= 4 else ", ".join(names[:3]) + f" and {len(names) - 3} more"
