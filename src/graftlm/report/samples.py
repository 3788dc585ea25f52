"""A few examples of the test split, side by side: spread over the split, and those that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graftlm.data.languages import language_of
from graftlm.report.collect import Arm
from graftlm.report.records import number

LONGEST = 1500  # characters of a text on the page


def choose(arms: Sequence[Arm], count: int) -> list[dict[str, Any]]:
    """At most `count` examples with every arm's prediction, of one fine-tuning seed that all arms have if there is one.

    Three quarters are even over the split; the rest are those on which the first arm that is no control gained most
    and lost most against the baseline, so that neither is hidden.
    """
    chosen = _same_seed(arms)
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
    if base and other:
        gains = sorted(
            (ours - theirs, index)
            for index in order
            if index in base
            and index in other
            and (ours := number(other[index].get("loss"))) is not None
            and (theirs := number(base[index].get("loss"))) is not None
        )
        extra = max(1, count // 8)
        for _, index in gains[:extra]:
            wanted[index] = "gained most"
        for _, index in gains[::-1][:extra]:
            wanted[index] = "lost most"
    names = [arm.name for arm, _ in chosen if arm.name in tables]
    return [_sample(index, note, names, tables) for index, note in sorted(wanted.items())]


def _spread(order: Sequence[int], count: int) -> list[int]:
    return [order[round(place * (len(order) - 1) / max(count - 1, 1))] for place in range(count)]


def _same_seed(arms: Sequence[Arm]) -> list[tuple[Arm, Any]]:
    shared: set[int] = set.intersection(*({run.finetune_seed for run in arm.runs} for arm in arms)) if arms else set()
    seed = min(shared) if shared else None
    return [(arm, next((run for run in arm.runs if run.finetune_seed == seed), arm.runs[0])) for arm in arms]


def _sample(
    index: int, note: str, names: Sequence[str], tables: dict[str, dict[int, dict[str, Any]]]
) -> dict[str, Any]:
    row = next(table[index] for table in tables.values() if index in table)
    source, target = str(row.get("source_lang") or ""), str(row.get("target_lang") or "")
    return {
        "index": index,
        "note": note,
        "language": target or source,
        "source_lang": tag(source),
        "target_lang": tag(target or source),
        "source": cut(row.get("source")),
        "reference": cut(row.get("reference")),
        "predictions": [
            {
                "arm": name,
                "text": cut(tables[name][index].get("prediction")),
                "chrf": number(tables[name][index].get("chrf")),
                "loss": number(tables[name][index].get("loss")),
            }
            for name in names
            if index in tables[name]
        ],
    }


def tag(code: str) -> str:
    """The language tag for `lang` of an mBART code: `de` of `de_DE`."""
    return language_of(code) if code else ""


def cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
