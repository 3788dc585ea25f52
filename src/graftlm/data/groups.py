"""Which split a group of rows goes to.

A row that names its split keeps it. The others are assigned by group, to the splits that no
row names. Where groups are many and small (the inverse Simpson index of their sizes, times the smaller share, is at
least 50, so that chance moves a share by about 14%), a group goes where the sha256 of its name, read as a number in
[0, 1), falls: an assignment that new groups do not disturb. Where groups are few and large (packages), the groups are
walked in the order of their hashes, and each goes into the held-out split that is emptier, if it still fits there and
is no more than a third of it (so that several groups make a split), else into train; a held-out split that stays below
half of its share then takes the group of train that brings it nearest to its share and leaves train the larger part.
So train keeps the bulk, and large groups stay whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from graftlm.data.rows import SPLITS, Split

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ENOUGH_GROUPS = 50
LARGEST_PART = 1 / 3
HELD_OUT: tuple[Split, ...] = ("test", "validation")  # in the order of who wins a repeat


def fold(text: str) -> str:
    """The text as repeats are compared: whitespace and case folded."""
    return " ".join(text.split()).casefold()


def digest(*parts: str) -> bytes:
    """A short, stable hash: a random order that does not depend on the machine."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()[:12]


def number_of(text: str) -> int:
    """64 bits of the digest. Of 10 million texts two that differ share a number with a chance of 1 in 400,000."""
    return int.from_bytes(digest(text)[:8], "big")


def assign_groups(sizes: Mapping[str, int], shares: Mapping[Split, float]) -> dict[str, Split]:
    """The split of each group, given the groups' row counts and the share of each held-out split."""
    import numpy as np

    numbers = np.asarray([number_of(group) for group in sizes], dtype=np.uint64)
    splits = assign_numbers(numbers, np.fromiter(sizes.values(), dtype=np.int64, count=len(sizes)), shares)
    return {group: SPLITS[split] for group, split in zip(sizes, splits.tolist(), strict=True)}


def assign_numbers(
    numbers: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64], shares: Mapping[Split, float]
) -> npt.NDArray[np.uint8]:
    """The split (its place in `SPLITS`) of each group, given the groups by `number_of` their names."""
    import numpy as np

    shares = {split: share for split, share in shares.items() if share > 0}
    splits = np.full(len(numbers), SPLITS.index("train"), dtype=np.uint8)
    total = int(sizes.sum())
    if not shares or not total:
        return splits
    effective = total**2 / float((sizes.astype(np.float64) ** 2).sum())
    if effective * min(shares.values()) < ENOUGH_GROUPS:
        of = _greedily(dict(zip(numbers.tolist(), sizes.tolist(), strict=True)), shares, total)
        return np.asarray([SPLITS.index(of[number]) for number in numbers.tolist()], dtype=np.uint8)
    positions = numbers / 2.0**64
    open_ = np.ones(len(numbers), dtype=np.bool_)
    for split in HELD_OUT:
        positions -= shares.get(split, 0.0)
        splits[open_ & (positions < 0)] = SPLITS.index(split)
        open_ &= positions >= 0
    return splits


def _greedily(sizes: Mapping[int, int], shares: Mapping[Split, float], total: int) -> dict[int, Split]:
    order = sorted(sizes)
    target = {split: max(1.0, share * total) for split, share in shares.items()}
    filled = dict.fromkeys(target, 0)
    assigned: dict[int, Split] = {}
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
