"""What a record does not say: a setting that is younger than it has its default, so that it makes no other arm."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any


def with_defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted settings of a record, completed by the schema's defaults; whole numbers as such, 1.0 as 1.

    Groups of settings that a record lacks altogether are left out: it is not known that they existed.
    """
    groups = {key.split(".", 1)[0] for key in flat}
    known = {
        key: value for key, value in _defaults(str(flat.get("data.kind", ""))).items() if key.split(".", 1)[0] in groups
    }
    return {key: _plain(value) for key, value in {**known, **flat}.items()}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.cache
def _defaults(data_kind: str) -> Mapping[str, Any]:
    from graftlm.data.settings import DATA_KINDS, DataSettings
    from graftlm.schema import Settings

    found: dict[str, Any] = {}

    def walk(kind: Any, prefix: str) -> None:
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            where, hint = f"{prefix}{item.name}", hints[item.name]
            if hint is DataSettings:
                hint = DATA_KINDS.get(data_kind, DataSettings)
            if dataclasses.is_dataclass(hint):
                walk(hint, where + ".")
            elif item.default is not dataclasses.MISSING:
                found[where] = item.default
            elif item.default_factory is not dataclasses.MISSING:
                made = item.default_factory()
                if made != {}:  # an empty group has no dotted name in a record either
                    found[where] = made

    walk(Settings, "")
    return found
