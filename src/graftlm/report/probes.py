"""What the probes of the evaluate stage say of an arm, with a plain word where one alarms, and its worst examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from graftlm.report.examples import examples_of
from graftlm.report.records import Run, mapping, number

SHARES = ("in_language", "copied", "exact_copies", "repeated", "degenerate", "commonest", "empty")
HARDLY_READS = 0.02  # nats a token by which the loss must at least rise with wrong sources
WORST = 5  # examples listed
_LONGEST = 400  # characters of a text in the list of worst examples

# how far an arm's share may be from its references' before it alarms, and how few outputs are no matter
_COPIED, _EXACT, _DEGENERATE, _SAME, _LANGUAGE, _EMPTY = 0.25, 0.05, 0.05, 0.1, 0.1, 0.02
_SHORT, _LONG = 0.5, 2.0
_FEWEST = 3


def probes_of(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """`{code: {pairs, gap, shares ..., length_ratio, reference}}` for `all` and each language; means over seeds."""
    gathered: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        record = mapping(run.scores.get("probes"))
        tables = {"all": mapping(record.get("all")), **mapping(record.get("languages"))}
        gaps = {"all": run.scores.get("gap"), **mapping(run.scores.get("gaps"))}
        for code in {**tables, **gaps}:
            gathered[code].append({**mapping(tables.get(code)), "gap": gaps.get(code)})
    found: dict[str, dict[str, Any]] = {}
    for code, tables_of_code in sorted(gathered.items(), key=lambda item: (item[0] != "all", item[0])):
        names = ("pairs", "gap", "length_ratio", *SHARES)
        found[code] = {name: _mean(tables_of_code, name) for name in names}
        references = [mapping(table.get("reference")) for table in tables_of_code]
        found[code]["reference"] = {name: _mean(references, name) for name in SHARES}
    return {code: table for code, table in found.items() if any(table[name] is not None for name in ("gap", *SHARES))}


def _mean(tables: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [value for table in tables if (value := number(table.get(name))) is not None]
    return fmean(values) if values else None


def alarms(probes: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """`{probe, word, text, language}` of all that is out of the ordinary.

    A language is named only for what is not true of all together, so that one fault is said once.
    """
    said: list[dict[str, str]] = []
    for code, table in probes.items():
        for probe, word, text in _judged(table):
            if code == "all" or not any(item["probe"] == probe and item["language"] == "all" for item in said):
                said.append({"probe": probe, "word": word, "text": text, "language": code})
    if len([code for code in probes if code != "all"]) == 1:
        said = [item for item in said if item["language"] == "all"]
    return said


def _judged(table: dict[str, Any]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    gap, pairs = table["gap"], table["pairs"] or 0
    if gap is not None and gap < HARDLY_READS:
        change = f"rises by {gap:z.3f} nats a token only" if gap > -5e-4 else f"falls by {-gap:.3f} nats a token"
        found.append(("gap", "reads hardly its source", f"with shuffled sources its loss {change}"))

    def apart(name: str) -> tuple[float, float]:
        """Ours and the references' share; what is not known counts as none."""
        return table[name] or 0.0, table["reference"][name] or 0.0

    def many(share: float) -> bool:
        return share * pairs >= _FEWEST

    if table["in_language"] is not None:
        ours, theirs = table["in_language"], table["reference"]["in_language"]
        theirs = 1.0 if theirs is None else theirs
        if ours < theirs - _LANGUAGE and many(theirs - ours):
            text = f"{ours:.0%} of its outputs are in the language asked for, of the references {theirs:.0%}"
            found.append(("in_language", "wrong language", text))
    if table["copied"] is not None:
        ours, theirs = apart("copied")
        exact, exact_theirs = apart("exact_copies")
        if (ours > theirs + _COPIED and many(ours - theirs)) or (exact > exact_theirs + _EXACT and many(exact)):
            text = f"{ours:.0%} of what it writes stands in the source, of the references {theirs:.0%}"
            if exact > exact_theirs:
                text += f"; {exact:.0%} of its outputs are a sentence of it, of the references {exact_theirs:.0%}"
            found.append(("copied", "copies", text))
        ours, theirs = apart("degenerate")
        if ours > theirs + _DEGENERATE and many(ours):
            text = f"{ours:.0%} of its outputs run in a loop, of the references {theirs:.0%}"
            found.append(("degenerate", "repeats", text))
        ours, theirs = apart("commonest")
        if ours > theirs + _SAME and many(ours) and table["empty"] != 1:
            text = f"{ours:.0%} of its outputs are one and the same, of the references {theirs:.0%}"
            found.append(("commonest", "says the same", text))
        ours, theirs = apart("empty")
        if ours > theirs + _EMPTY and many(ours):
            found.append(("empty", "empty outputs", f"{ours:.0%} of its outputs are empty"))
    if table["length_ratio"] is not None and not _SHORT <= table["length_ratio"] <= _LONG:
        word = "too short" if table["length_ratio"] < _SHORT else "too long"
        found.append(
            ("length_ratio", word, f"its outputs are {table['length_ratio']:.2f} times as long as the references")
        )
    return found


def worst_of(runs: Sequence[Run], pairs: Sequence[tuple[Run, Run]]) -> dict[str, list[dict[str, Any]]]:
    """The examples of the largest loss and of the largest increase against the baseline, by means over seeds."""
    ours = _losses(runs)
    bases = list({id(base): base for _, base in pairs}.values())
    paired_runs = _losses([run for run, _ in pairs])
    theirs = _losses(bases)
    rise = {index: paired_runs[index] - theirs[index] for index in paired_runs if index in theirs}
    by_loss = sorted(ours, key=lambda index: (-ours[index], index))[:WORST]
    by_rise = [index for index in sorted(rise, key=lambda index: (-rise[index], index)) if rise[index] > 0][:WORST]
    texts = _texts(runs, {*by_loss, *by_rise})
    return {
        "loss": [_listed(index, ours, theirs, texts) for index in by_loss],
        "increase": [_listed(index, paired_runs, theirs, texts) for index in by_rise],
    }


def _losses(runs: Sequence[Run]) -> dict[int, float]:
    """The mean loss of each example that all these runs have."""
    found: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        table = examples_of(run)
        if table is not None:
            for index, loss in zip(table.index.tolist(), table.values["loss"].tolist(), strict=True):
                found[index].append(loss)
    return {index: fmean(losses) for index, losses in found.items() if len(losses) == len(runs)}


def _texts(runs: Sequence[Run], wanted: set[int]) -> dict[int, dict[str, Any]]:
    """The rows of the first run that has them."""
    found: dict[int, dict[str, Any]] = {}
    for run in runs:
        for row in run.examples:
            if row["index"] in wanted and row["index"] not in found:
                found[row["index"]] = {**row, "finetune_seed": run.finetune_seed}
    return found


def _listed(
    index: int, ours: dict[int, float], theirs: dict[int, float], texts: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    row = texts.get(index, {})
    return {
        "index": index,
        "language": str(row.get("target_lang") or ""),
        "loss": ours[index],
        "baseline": theirs.get(index),
        **{name: str(row.get(name) or "")[:_LONGEST] for name in ("source", "reference", "prediction")},
        "finetune_seed": row.get("finetune_seed"),
    }
