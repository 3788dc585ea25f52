"""Rows divided into train, validation and test, without a text in two of them.

How groups are assigned. A row that names its split keeps it. The others are assigned by group, to the splits that no
row names. Where groups are many and small (the inverse Simpson index of their sizes, times the smaller share, is at
least 50, so that chance moves a share by about 14%), a group goes where the sha256 of its name, read as a number in
[0, 1), falls: an assignment that new groups do not disturb. Where groups are few and large (packages), the groups are
walked in the order of their hashes, and each goes into the held-out split that is emptier, if it still fits there and
is no more than a third of it (so that several groups make a split), else into train; a held-out split that stays below
half of its share then takes the group of train that brings it nearest to its share and leaves train the larger part.
So train keeps the bulk, and large groups stay whole.

Repeats are compared with whitespace and case folded. A row whose source, or a text that, is the source or target of a
test row is dropped from validation and train, and likewise for validation rows from train; inside a split one copy is
kept. A target alone may stand in two splits: short summaries of different texts do repeat.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from graftlm.console import Progress, Silent
from graftlm.data.rows import SPLITS, Pair, Source, Split, Text
from graftlm.data.settings import DataSettings
from graftlm.errors import DataError

Row = TypeVar("Row", Pair, Text)
ENOUGH_GROUPS = 50
LARGEST_PART = 1 / 3
_HELD_OUT: tuple[Split, ...] = ("test", "validation")  # in the order of who wins a repeat


@dataclass(frozen=True)
class Prepared:
    """The rows of each split, and how many were dropped, by reason."""

    pairs: dict[Split, list[Pair]]
    texts: dict[Split, list[Text]]
    dropped: dict[str, int]


def prepare(source: Source, settings: DataSettings, progress: Progress | None = None) -> Prepared:
    """Read a source, divide it, drop repeats, weigh and limit it.

    Raises:
        DataError: the source cannot be read, or a split is empty.
    """
    progress = progress or Silent()
    with progress.task(f"reading pairs of {settings.name}", None) as advance:
        pairs = _counted(source.pairs(), advance)
    with progress.task(f"reading texts of {settings.name}", None) as advance:
        texts = _counted(source.texts(), advance)
    dropped: Counter[str] = Counter(getattr(source, "dropped", {}))
    divided = divide_pairs(pairs, settings, dropped)
    split_texts = divide_texts(texts, divided, settings, dropped)
    weights: Mapping[str, float] = getattr(source, "weights", {})
    if weights:
        divided["train"] = weigh(divided["train"], weights)
        split_texts["train"] = weigh(split_texts["train"], weights)
    divided = limit(divided, settings.max_pairs, settings)
    split_texts = limit(split_texts, settings.max_texts, settings)
    _refuse_empty(divided, split_texts, settings)
    return Prepared(divided, split_texts, {reason: count for reason, count in sorted(dropped.items()) if count})


def _counted(rows: Iterable[Row], advance: Callable[[int], None]) -> list[Row]:
    kept: list[Row] = []
    for row in rows:
        kept.append(row)
        if len(kept) % 1000 == 0:
            advance(1000)
    advance(len(kept) % 1000)
    return kept


def fold(text: str) -> str:
    """The text as repeats are compared: whitespace and case folded."""
    return " ".join(text.split()).casefold()


def digest(*parts: str) -> bytes:
    """A short, stable hash: a random order that does not depend on the machine."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()[:12]


def _mark(text: str) -> bytes:
    return digest(fold(text))


def _position(group: str) -> float:
    """The group's place in [0, 1)."""
    return int.from_bytes(digest(group)[:8], "big") / 2**64


# --- groups -> splits -----------------------------------------------------------------------------------------------


def assign_groups(sizes: Mapping[str, int], shares: Mapping[Split, float]) -> dict[str, Split]:
    """The split of each group, given the groups' row counts and the share of each held-out split."""
    shares = {split: share for split, share in shares.items() if share > 0}
    total = sum(sizes.values())
    if not shares or not total:
        return dict.fromkeys(sizes, "train")
    effective = total**2 / sum(size**2 for size in sizes.values())
    if effective * min(shares.values()) >= ENOUGH_GROUPS:
        return {group: _by_hash(group, shares) for group in sizes}
    return _greedily(sizes, shares, total)


def _by_hash(group: str, shares: Mapping[Split, float]) -> Split:
    position = _position(group)
    for split in _HELD_OUT:
        position -= shares.get(split, 0.0)
        if position < 0:
            return split
    return "train"


def _greedily(sizes: Mapping[str, int], shares: Mapping[Split, float], total: int) -> dict[str, Split]:
    order = sorted(sizes, key=lambda group: (digest(group), group))
    target = {split: max(1.0, share * total) for split, share in shares.items()}
    filled = dict.fromkeys(target, 0)
    assigned: dict[str, Split] = {}
    for group in order:
        split = min(target, key=lambda each: (filled[each] / target[each], each))
        if filled[split] + sizes[group] <= target[split] and sizes[group] <= max(1.0, LARGEST_PART * target[split]):
            assigned[group] = split
            filled[split] += sizes[group]
        else:
            assigned[group] = "train"
    for split in sorted(target):
        train = [group for group in order if assigned[group] == "train"]
        if filled[split] >= 0.5 * target[split] or len(train) < 2:
            continue
        best = min(train, key=lambda group: abs(filled[split] + sizes[group] - target[split]))
        nearer = abs(filled[split] + sizes[best] - target[split]) < target[split] - filled[split]
        left = sum(sizes[group] for group in train) - sizes[best]
        # an empty split is worse than a large one, but train must stay the largest
        if (nearer or not filled[split]) and left >= max(filled[split] + sizes[best], *filled.values()):
            assigned[best] = split
            filled[split] += sizes[best]
    return assigned


def _shares(rows: Iterable[Pair | Text], settings: DataSettings) -> dict[Split, float]:
    """The shares to split off: of the held-out splits that no row names."""
    named = {row.split for row in rows}
    wanted: dict[Split, float] = {"test": settings.test_share, "validation": settings.validation_share}
    return {split: share for split, share in wanted.items() if split not in named}


def assign_pairs(pairs: Sequence[Pair], settings: DataSettings) -> list[Pair]:
    """The same pairs, each with its split named."""
    unassigned = Counter(pair.group for pair in pairs if pair.split is None)
    splits = assign_groups(unassigned, _shares(pairs, settings))
    return [pair if pair.split is not None else replace(pair, split=splits[pair.group]) for pair in pairs]


def assign_texts(texts: Sequence[Text], pairs: Iterable[Pair], settings: DataSettings) -> list[Text]:
    """The same texts, each with its split named: that of its group's pairs (test before validation before train).

    Texts of groups without a pair are divided between train and validation, since the test split trains nothing.
    """
    rank = {split: index for index, split in enumerate(_HELD_OUT)}
    of_group: dict[str, Split] = {}
    for pair in pairs:
        assert pair.split is not None, "pairs are assigned first"
        known = of_group.get(pair.group)
        if known is None or rank.get(pair.split, 9) < rank.get(known, 9):
            of_group[pair.group] = pair.split
    alone = Counter(text.group for text in texts if text.split is None and text.group not in of_group)
    has_validation = any(text.split == "validation" for text in texts)
    shares: dict[Split, float] = {} if has_validation else {"validation": settings.validation_share}
    splits = {**assign_groups(alone, shares), **of_group}
    return [text if text.split is not None else replace(text, split=splits[text.group]) for text in texts]


# --- repeats ----------------------------------------------------------------------------------------------------------


def divide_pairs(
    pairs: Sequence[Pair], settings: DataSettings, dropped: Counter[str] | None = None
) -> dict[Split, list[Pair]]:
    """Pairs by split, in their order, without repeats; `dropped` counts what went, by reason.

    Two pairs repeat each other inside a split where source, target and languages are equal; across splits it is enough
    that the source is a text of the held-out row.
    """
    dropped = Counter() if dropped is None else dropped
    rows = by_split(assign_pairs(pairs, settings))
    held_out: set[bytes] = set()
    kept: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    for split in (*_HELD_OUT, "train"):
        texts: set[bytes] = set()
        seen: set[bytes] = set()
        for pair in rows[split]:
            source, target = _mark(pair.source), _mark(pair.target)
            key = source + target + f"{pair.source_lang} {pair.target_lang}".encode()
            if source in held_out:
                dropped[f"pairs of {split} whose source is a text of a held-out pair"] += 1
            elif key in seen:
                dropped[f"pairs of {split} that repeat another"] += 1
            else:
                seen.add(key)
                texts |= {source, target}
                kept[split].append(pair)
        held_out |= texts
    return kept


def divide_texts(
    texts: Sequence[Text],
    pairs: Mapping[Split, Collection[Pair]],
    settings: DataSettings,
    dropped: Counter[str] | None = None,
) -> dict[Split, list[Text]]:
    """Texts by split, in their order, without repeats and without any text of a held-out pair in another split."""
    dropped = Counter() if dropped is None else dropped
    everything = [
        pair if pair.split is not None else replace(pair, split=split) for split, some in pairs.items() for pair in some
    ]
    rows = by_split(assign_texts(texts, everything, settings))
    held_out: set[bytes] = set()
    kept: dict[Split, list[Text]] = {split: [] for split in SPLITS}
    for split in (*_HELD_OUT, "train"):
        of_pairs = {_mark(text) for pair in pairs.get(split, ()) for text in (pair.source, pair.target)}
        seen: set[bytes] = set()
        for text in rows[split]:
            key = _mark(text.text)
            if key in held_out:
                dropped[f"texts of {split} that are a text of a held-out row"] += 1
            elif key in seen:
                dropped[f"texts of {split} that repeat another"] += 1
            else:
                seen.add(key)
                kept[split].append(text)
        held_out |= seen | of_pairs
    return kept


def by_split(rows: Sequence[Row]) -> dict[Split, list[Row]]:
    """Rows whose split is named, by split, in their order."""
    found: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        assert row.split is not None
        found[row.split].append(row)
    return found


# --- weights and limits -----------------------------------------------------------------------------------------------


def _order(row: Pair | Text) -> bytes:
    if isinstance(row, Pair):
        return digest(row.source, row.target, row.source_lang, row.target_lang, row.group)
    return digest(row.text, row.lang, row.group)


def draw(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows chosen by their hashes, in their own order; all where there are not more."""
    if count >= len(rows):
        return list(rows)
    chosen = sorted(range(len(rows)), key=lambda index: (_order(rows[index]), index))[:count]
    return [rows[index] for index in sorted(chosen)]


def weigh(rows: Sequence[Row], weights: Mapping[str, float]) -> list[Row]:
    """Rows of each part (the group up to its first `/`) as often as its weight says: 2.5 is two copies and a half."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.group.split("/", 1)[0], []).append(row)
    weighed: list[Row] = []
    for name, part in parts.items():
        weight = weights.get(name, 1.0)
        weighed += part * int(weight)
        rest = round((weight - int(weight)) * len(part))
        if rest:
            weighed += draw(part, rest)
    return weighed


def limit(rows: dict[Split, list[Row]], most: int | None, settings: DataSettings) -> dict[Split, list[Row]]:
    """At most `most` rows in all: held-out splits keep at most their share of it (one row at least), train the rest."""
    if most is None or sum(map(len, rows.values())) <= most:
        return rows
    kept: dict[Split, list[Row]] = {
        "validation": draw(rows["validation"], max(1, round(settings.validation_share * most))),
        "test": draw(rows["test"], max(1, round(settings.test_share * most))),
    }
    kept["train"] = draw(rows["train"], max(1, most - sum(map(len, kept.values()))))
    return {split: kept[split] for split in SPLITS}


def _refuse_empty(pairs: Mapping[Split, list[Pair]], texts: Mapping[Split, list[Text]], settings: DataSettings) -> None:
    """Raise where a split that training or evaluation needs holds nothing."""
    total = sum(map(len, pairs.values()))
    if not total:
        raise DataError.at(
            "data", settings.name, "gives no pair of source and target", "graftlm data shows what it reads"
        )
    for split in SPLITS:
        if not pairs[split]:
            groups = len({pair.group for rows in pairs.values() for pair in rows})
            raise DataError.at(
                "data",
                settings.name,
                f"an empty {split} split ({total} pairs in {groups} groups, which are not divided)",
                f"give more groups, or raise data.{split}_share" if split != "train" else "give more rows for training",
            )
    for split in ("train", "validation"):
        if not texts[split]:
            raise DataError.at(
                "data",
                settings.name,
                f"no text for masked-language modelling in the {split} split",
                "give more text",
            )
