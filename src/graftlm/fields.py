"""From plain values to settings dataclasses, with every mistake collected on the way.

A field says its range where it is declared (`setting(..., above=0)`); `outcome=False` there marks what cannot change a
result (workers, folders, loggers) and is therefore left out of an artifact's key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from graftlm.errors import Problem

MOST = 2**31 - 1  # that a whole number may be


def setting(
    default: Any = dataclasses.MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    outcome: bool = True,
    remedy: str = "",
) -> Any:
    """A dataclass field with its range, its remedy, and whether it changes the outcome."""
    metadata = {
        "above": above,
        "at_least": at_least,
        "below": below,
        "at_most": at_most,
        "outcome": outcome,
        "remedy": remedy,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def outcome(value: Any) -> Any:
    """A settings dataclass as plain values, without the fields that cannot change a result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: outcome(getattr(value, item.name))
            for item in dataclasses.fields(value)
            if item.metadata.get("outcome", True)
        }
    if isinstance(value, Mapping):
        return {str(key): outcome(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [outcome(item) for item in value]
    return value


def build(kind: type[Any], mapping: Any, path: str, problems: list[Problem]) -> Any:
    """An instance of a settings dataclass, or None where problems were added.

    A dataclass may have `check(path)`, which yields what its fields together get wrong, and a class method
    `from_plain(mapping, path, problems)`, which chooses a subclass.
    """
    if not isinstance(mapping, Mapping):
        problems.append(Problem(path, mapping, "must be a group of settings"))
        return None
    _, fields = _declared(kind)
    for name in mapping:
        if name not in fields:
            problems.append(Problem(_join(path, name), mapping[name], "is no setting", did_you_mean(name, fields)))
    before = len(problems)
    values: dict[str, Any] = {}
    for name, item in fields.items():
        if name in mapping:
            values[name] = build_field(kind, name, mapping[name], path, problems)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problems.append(Problem(_join(path, name), None, "is missing"))
    if len(problems) > before:
        return None
    built = kind(**values)
    check = getattr(built, "check", None)
    if check is not None:
        problems.extend(check(path))
    return built


def build_field(kind: type[Any], name: str, value: Any, path: str, problems: list[Problem]) -> Any:
    """The value of one field as the dataclass wants it; what is wrong with it is added to `problems`."""
    hints, fields = _declared(kind)
    where = _join(path, name)
    make = getattr(hints[name], "from_plain", None)
    if make is not None and isinstance(value, Mapping):
        return make(value, where, problems)
    return _convert(hints[name], value, where, fields[name].metadata, problems)


_Declared = tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]
_DECLARED: dict[Any, _Declared] = {}


def _declared(kind: type[Any]) -> _Declared:
    """The types and the fields of a settings dataclass, by name: looked up once, a sweep builds them for each job."""
    if kind not in _DECLARED:
        _DECLARED[kind] = get_type_hints(kind), {item.name: item for item in dataclasses.fields(kind)}
    return _DECLARED[kind]


def group_of(kind: type[Any], name: str) -> type[Any] | None:
    """The settings dataclass that a field of another one holds, or None where it holds none, or one of several."""
    hint = _declared(kind)[0].get(name)
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """A remedy for a name that is not known: the closest one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "known are " + ", ".join(map(str, known))


def _convert(hint: Any, value: Any, path: str, metadata: Mapping[str, Any], problems: list[Problem]) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, path, problems)
    converted = _cast(hint, value)
    if converted is _REFUSED:
        problems.append(Problem(path, value, f"must be {_describe(hint)}", metadata.get("remedy") or ""))
        return None
    if isinstance(converted, int | float) and not isinstance(converted, bool):
        wanted = _range(converted, metadata)
        if wanted:
            problems.append(Problem(path, value, f"must be {wanted}", metadata.get("remedy") or ""))
    return converted


_REFUSED = object()


def _cast(hint: Any, value: Any) -> Any:
    """The value as the type wants it, or `_REFUSED`. A single value stands for a list of one."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None if type(None) in get_args(hint) else _REFUSED
        for option in get_args(hint):
            if option is not type(None):
                converted = _cast(option, value)
                if converted is not _REFUSED:
                    return converted
        return _REFUSED
    if origin is Literal:
        return value if value in get_args(hint) else _REFUSED
    if origin is list:
        (inner,) = get_args(hint)
        items = value if isinstance(value, list | tuple) else [value]
        if value is None:
            return _REFUSED
        converted = [_cast(inner, item) for item in items]
        return _REFUSED if any(item is _REFUSED for item in converted) else converted
    if origin is dict:
        _, inner = get_args(hint)
        if not isinstance(value, Mapping):
            return _REFUSED
        pairs = {str(key): _cast(inner, item) for key, item in value.items()}
        return _REFUSED if any(item is _REFUSED for item in pairs.values()) else pairs
    if hint is typing.Any:
        return value
    if hint is bool:
        return value if isinstance(value, bool) else _REFUSED
    if hint is int:
        if isinstance(value, bool):
            return _REFUSED
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) else _REFUSED
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return _REFUSED
        return float(value)
    if hint is str:
        # YAML reads `1` as a number where a name is meant; a nested structure is a mistake
        return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else _REFUSED
    return value if isinstance(value, hint) else _REFUSED


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is list:
        return f"a list, each item {_describe(get_args(hint)[0])}"
    if origin is dict:
        return "a group of settings"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, str(hint))


def _range(value: float, metadata: Mapping[str, Any]) -> str:
    """The range in words where the value lies outside it, else an empty string."""
    bounds: list[tuple[str, Callable[[float, float], bool], str]] = [
        ("above", operator.gt, "above"),
        ("at_least", operator.ge, "at least"),
        ("below", operator.lt, "below"),
        ("at_most", operator.le, "at most"),
    ]
    given = [(metadata[name], holds, words) for name, holds, words in bounds if metadata.get(name) is not None]
    if abs(value) > MOST and isinstance(value, int):
        given.append((MOST, operator.le, "at most"))  # nothing is counted so far, and arrays have no such places
    if all(holds(value, bound) for bound, holds, _ in given):
        return ""
    return " and ".join(f"{words} {bound:g}" if abs(bound) < 1e6 else f"{words} {bound}" for bound, _, words in given)
