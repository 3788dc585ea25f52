"""Rows divided into train, validation and test, without a text in two of them.

Groups go to splits as `graftlm.data.groups` says; a row that names its split keeps it.

Repeats are compared with whitespace and case folded. A row whose source, or a text that, is the source or target of a
test row is dropped from validation and train, and likewise for validation rows from train; inside a split one copy is
kept. A target alone may stand in two splits: short summaries of different texts do repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from graftlm.console import Progress, Silent
from graftlm.data.groups import HELD_OUT, assign_groups, assign_numbers, digest, fold, number_of
from graftlm.data.rows import SPLITS, Pair, Source, Split, Text
from graftlm.data.settings import DataSettings
from graftlm.data.spool import UNNAMED, Spool, Spooled, spooled
from graftlm.errors import DataError

Row = TypeVar("Row", Pair, Text)


@dataclass(frozen=True)
class Prepared:
    """The rows of each split, and how many were dropped, by reason. Pairs are in memory, texts may be on disk."""

    pairs: Mapping[Split, Sequence[Pair]]
    texts: Mapping[Split, Sequence[Text]]
    dropped: dict[str, int]


def prepare(
    source: Source, settings: DataSettings, progress: Progress | None = None, folder: Path | None = None
) -> Prepared:
    """Read a source, divide it, drop repeats, weigh and limit it.

    `folder`: where texts are kept meanwhile, in a file without a name; by default where temporary files are.

    Raises:
        DataError: the source cannot be read, or a split is empty.
    """
    progress = progress or Silent()
    with progress.task(f"reading pairs of {settings.name}", None) as advance:
        pairs = list(_counted(source.pairs(), advance))
    with progress.task(f"reading texts of {settings.name}", None) as advance:
        spool = spooled(_counted(source.texts(), advance), mark_of, number_of, folder)
    dropped: Counter[str] = Counter(getattr(source, "dropped", {}))
    divided: Mapping[Split, Sequence[Pair]] = divide_pairs(pairs, settings, dropped)
    split_texts: Mapping[Split, Sequence[Text]] = divide_spool(spool, divided, settings, dropped)
    weights: Mapping[str, float] = getattr(source, "weights", {})
    if weights:
        divided = {**divided, "train": weigh(divided["train"], weights)}
        split_texts = {**split_texts, "train": weigh(split_texts["train"], weights)}
    divided = limit(divided, settings.max_pairs, settings)
    split_texts = limit(split_texts, settings.max_texts, settings)
    _refuse_empty(divided, split_texts, settings, dropped)
    _tell_leaks(pairs, dropped, settings, progress)
    return Prepared(divided, split_texts, {reason: count for reason, count in sorted(dropped.items()) if count})


def _counted(rows: Iterable[Row], advance: Callable[[int], None]) -> Iterator[Row]:
    count = 0
    for count, row in enumerate(rows, 1):
        yield row
        if count % 1000 == 0:
            advance(1000)
    advance(count % 1000)


def mark_of(text: str) -> int:
    """The number of a text as repeats are compared."""
    return number_of(fold(text))


# --- groups -> splits -----------------------------------------------------------------------------------------------


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
    rank = {split: index for index, split in enumerate(HELD_OUT)}
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


def _leaks(split: Split) -> str:
    return f"pairs of {split} whose source is a text of a held-out pair"


def divide_pairs(
    pairs: Sequence[Pair], settings: DataSettings, dropped: Counter[str] | None = None
) -> dict[Split, list[Pair]]:
    """Pairs by split, in their order, without repeats; `dropped` counts what went, by reason.

    Two pairs repeat each other inside a split where source, target and languages are equal; across splits it is enough
    that the source is a text of the held-out row.
    """
    dropped = Counter() if dropped is None else dropped
    rows = by_split(assign_pairs(pairs, settings))
    held_out: set[int] = set()
    kept: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    for split in (*HELD_OUT, "train"):
        texts: set[int] = set()
        seen: set[tuple[int, int, str, str]] = set()
        for pair in rows[split]:
            source, target = mark_of(pair.source), mark_of(pair.target)
            key = (source, target, pair.source_lang, pair.target_lang)
            if source in held_out:
                dropped[_leaks(split)] += 1
            elif key in seen:
                dropped[f"pairs of {split} that repeat another"] += 1
            else:
                seen.add(key)
                texts |= {source, target}
                kept[split].append(pair)
        held_out |= texts
    return kept


def divide_texts(
    texts: Iterable[Text],
    pairs: Mapping[Split, Collection[Pair]],
    settings: DataSettings,
    dropped: Counter[str] | None = None,
) -> dict[Split, Spooled]:
    """Texts by split, in their order, without repeats and without any text of a held-out pair in another split."""
    return divide_spool(spooled(texts, mark_of, number_of), pairs, settings, dropped)


def divide_spool(
    spool: Spool,
    pairs: Mapping[Split, Collection[Pair]],
    settings: DataSettings,
    dropped: Counter[str] | None = None,
) -> dict[Split, Spooled]:
    """`divide_texts` of texts that are on disk: by their numbers, all at once."""
    dropped = Counter() if dropped is None else dropped
    splits, marks = _assign_spool(spool, pairs, settings), np.asarray(spool.marks, dtype=np.uint64)
    held_out = np.empty(0, dtype=np.uint64)
    kept: dict[Split, Spooled] = {}
    for split in (*HELD_OUT, "train"):
        rows = np.flatnonzero(splits == SPLITS.index(split))
        fresh = rows[~np.isin(marks[rows], held_out)]
        if len(rows) > len(fresh):
            dropped[f"texts of {split} that are a text of a held-out row"] += len(rows) - len(fresh)
        once = fresh[np.sort(np.unique(marks[fresh], return_index=True)[1])]
        if len(fresh) > len(once):
            dropped[f"texts of {split} that repeat another"] += len(fresh) - len(once)
        kept[split] = Spooled(spool, once, split)
        of_pairs = [mark_of(text) for pair in pairs.get(split, ()) for text in (pair.source, pair.target)]
        held_out = np.unique(np.concatenate([held_out, marks[once], np.asarray(of_pairs, dtype=np.uint64)]))
    return {split: kept[split] for split in SPLITS}


def _assign_spool(
    spool: Spool, pairs: Mapping[Split, Collection[Pair]], settings: DataSettings
) -> npt.NDArray[np.uint8]:
    """The split of each text, as `assign_texts`."""
    splits, groups = spool.splits.copy(), np.asarray(spool.groups, dtype=np.uint64)
    unnamed = splits == UNNAMED
    has_validation = bool((splits == SPLITS.index("validation")).any())
    for split in ("train", "validation", "test"):  # of the splits of a group's pairs the last named counts
        own = np.asarray(list({number_of(pair.group) for pair in pairs.get(split, ())}), dtype=np.uint64)
        splits[unnamed & np.isin(groups, own)] = SPLITS.index(split)
    alone = splits == UNNAMED
    names, sizes = np.unique(groups[alone], return_counts=True)
    shares: dict[Split, float] = {} if has_validation else {"validation": settings.validation_share}
    splits[alone] = assign_numbers(names, sizes, shares)[np.searchsorted(names, groups[alone])]
    return splits


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


def draw(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """`count` rows chosen by their hashes, in their own order; all where there are not more."""
    return _take(rows, _drawn(rows, count))


def _drawn(rows: Sequence[Row], count: int) -> npt.NDArray[np.int64]:
    if count >= len(rows):
        return np.arange(len(rows))
    keys = np.fromiter((int.from_bytes(_order(row)[:8], "big") for row in rows), dtype=np.uint64, count=len(rows))
    return np.sort(np.argsort(keys, kind="stable")[:count])


def _take(rows: Sequence[Row], places: npt.NDArray[np.int64]) -> Sequence[Row]:
    return rows.take(places) if isinstance(rows, Spooled) else [rows[place] for place in places.tolist()]


def weigh(rows: Sequence[Row], weights: Mapping[str, float]) -> Sequence[Row]:
    """Rows of each part (the group up to its first `/`) as often as its weight says: 2.5 is two copies and a half."""
    numbers: dict[str, int] = {}
    parts = np.fromiter(
        (numbers.setdefault(row.group.split("/", 1)[0], len(numbers)) for row in rows), dtype=np.int64, count=len(rows)
    )
    places: list[npt.NDArray[np.int64]] = [np.arange(0)]
    for name, number in numbers.items():
        part = np.flatnonzero(parts == number)
        weight = weights.get(name, 1.0)
        rest = round((weight - int(weight)) * len(part))
        places += [part] * int(weight)
        if rest:
            places.append(part[_drawn(_take(rows, part), rest)])
    return _take(rows, np.concatenate(places))


def limit(
    rows: Mapping[Split, Sequence[Row]], most: int | None, settings: DataSettings
) -> Mapping[Split, Sequence[Row]]:
    """At most `most` rows in all: held-out splits keep at most their share of it (one row at least), train the rest."""
    if most is None or sum(map(len, rows.values())) <= most:
        return rows
    kept: dict[Split, Sequence[Row]] = {
        "validation": draw(rows["validation"], max(1, round(settings.validation_share * most))),
        "test": draw(rows["test"], max(1, round(settings.test_share * most))),
    }
    kept["train"] = draw(rows["train"], max(1, most - sum(map(len, kept.values()))))
    return {split: kept[split] for split in SPLITS}


def _tell_leaks(pairs: Sequence[Pair], dropped: Mapping[str, int], settings: DataSettings, progress: Progress) -> None:
    """Say which rows a data set with splits of its own has in two of them; of repeats that we divide nobody asks."""
    named = {pair.split for pair in pairs}
    for split in SPLITS:
        if dropped.get(_leaks(split)) and named & set(HELD_OUT):
            progress.say(f"{settings.name}: {dropped[_leaks(split)]} {_leaks(split)} are left out")


def _refuse_empty(
    pairs: Mapping[Split, Sequence[Pair]],
    texts: Mapping[Split, Sequence[Text]],
    settings: DataSettings,
    dropped: Mapping[str, int],
) -> None:
    """Raise where a split that training or evaluation needs holds nothing."""
    total = sum(map(len, pairs.values()))
    if not total:
        empty = "; ".join(f"{count} {reason}" for reason, count in dropped.items() if reason.startswith("rows of"))
        reason = "gives no pair of source and target" + (f" ({empty})" if empty else "")
        raise DataError.at("data", settings.name, reason, "graftlm data shows what it reads")
    for split in SPLITS:
        if not pairs[split] and (lost := dropped.get(_leaks(split))):
            reason = f"an empty {split} split: the sources of all its {lost} pairs stand in a held-out split too"
            raise DataError.at("data", settings.name, reason, "give each split rows of its own")
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
