"""A few examples of the test split, side by side: spread over the split, and those that changed most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from graftlm.data.languages import language_of
from graftlm.report.collect import Arm
from graftlm.report.records import number

LONGEST = 1500  # characters of a text on the page
_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
MOST_ARMS = 16  # whose outputs are shown: the first ones of each kind


def choose(arms: Sequence[Arm], count: int) -> list[dict[str, Any]]:
    """At most `count` examples with every arm's prediction, of one fine-tuning seed that all arms have if there is one.

    Three quarters are even over the split; the rest are those on which the first arm that is no control gained most
    and lost most against the baseline, so that neither is hidden.
    """
    chosen = _same_seed(_few(arms))
    tables = {arm.name: {row["index"]: row for row in run.examples} for arm, run in chosen if run.examples}
    if not tables or count < 1:
        return []
    first = next(iter(tables.values()))
    order = sorted(index for index in first if all(index in table for table in tables.values())) or sorted(first)
    wanted = dict.fromkeys(order if len(order) <= count else _spread(order, count - count // 4), "")
    base = next((tables[arm.name] for arm, _ in chosen if arm.is_baseline and arm.name in tables), None)
    other = next(
        (tables[arm.name] for arm, _ in chosen if not arm.is_baseline and not arm.control and arm.name in tables), None
    )
    gains: dict[int, float] = {}
    if base and other:
        for index in order:
            ours, theirs = (number(table.get(index, {}).get("loss")) for table in (other, base))
            if ours is not None and theirs is not None:
                gains[index] = ours - theirs
        ranked = sorted(gains, key=lambda index: (gains[index], index))
        extra = max(1, count // 8)
        for index in ranked[:extra]:
            wanted[index] = "gained most"
        for index in ranked[::-1][:extra]:
            wanted[index] = "lost most"
    names = [arm.name for arm, _ in chosen if arm.name in tables]
    return [{**_sample(index, note, names, tables), "gain": gains.get(index)} for index, note in sorted(wanted.items())]


def _few(arms: Sequence[Arm]) -> list[Arm]:
    """At most MOST_ARMS: baselines, then controls up to a quarter, then the others, in the order of the report."""
    if len(arms) <= MOST_ARMS:
        return list(arms)
    kept = {arm.name for arm in [arm for arm in arms if arm.is_baseline][:2]}
    kept |= {arm.name for arm in [arm for arm in arms if arm.control][: MOST_ARMS // 4]}
    rest = [arm.name for arm in arms if not arm.is_baseline and not arm.control]
    kept |= set(rest[: MOST_ARMS - len(kept)])
    return [arm for arm in arms if arm.name in kept]


def _spread(order: Sequence[int], count: int) -> list[int]:
    return [order[round(place * (len(order) - 1) / max(count - 1, 1))] for place in range(count)]


def _same_seed(arms: Sequence[Arm]) -> list[tuple[Arm, Any]]:
    shared: set[int] = set.intersection(*({run.finetune_seed for run in arm.runs} for arm in arms)) if arms else set()
    seed = min(shared) if shared else None
    return [(arm, next((run for run in arm.runs if run.finetune_seed == seed), arm.runs[0])) for arm in arms]


def _sample(
    index: int, note: str, names: Sequence[str], tables: dict[str, dict[int, dict[str, Any]]]
) -> dict[str, Any]:
    """One example. Arms that wrote the same text are one group of `groups`; `agree` where all of several did."""
    row = next(table[index] for table in tables.values() if index in table)
    source, target = str(row.get("source_lang") or ""), str(row.get("target_lang") or "")
    groups: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        if index in tables[name]:
            found = tables[name][index]
            item = {"arm": name, "chrf": number(found.get("chrf")), "loss": number(found.get("loss"))}
            groups.setdefault(str(found.get("prediction") or ""), []).append(item)
    losses = [item["loss"] for group in groups.values() for item in group if item["loss"] is not None]
    return {
        "index": index,
        "note": note,
        "language": target or source,
        "source_lang": tag(source),
        "target_lang": tag(target or source),
        "source": cut(row.get("source")),
        "reference": cut(row.get("reference")),
        "groups": [{"text": cut(text), "arms": group} for text, group in groups.items()],
        "agree": len(groups) == 1 and sum(map(len, groups.values())) > 1,
        "loss": fmean(losses) if losses else None,
    }


def tag(code: str) -> str:
    """The language tag for `lang` of an mBART code: `de` of `de_DE`; empty where it would be none."""
    found = language_of(code) if code else ""
    return found if _TAG.fullmatch(found) else ""


def cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
