"""Where two trees of settings differ: why an artifact of one job is not that of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """A setting that two artifacts do not share. A value is `ABSENT` where one has no such setting."""

    path: str
    one: Any
    other: Any

    def __str__(self) -> str:
        return f"{self.path or 'settings'} is {self.one!r} instead of {self.other!r}"


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def differences(one: Any, other: Any, path: str = "") -> Iterator[Difference]:
    """Where two trees of plain values differ, each by the path of its leaf."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}, key=str):
            where = f"{path}.{name}" if path else str(name)
            yield from differences(one.get(name, ABSENT), other.get(name, ABSENT), where)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{path}[{index}]")
    elif one != other:
        yield Difference(path, one, other)
