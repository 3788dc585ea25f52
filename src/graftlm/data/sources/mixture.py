"""Several sources as one, each drawn with a weight.

Each part is divided into splits by itself and limited by its own max_pairs and max_texts; its groups get its name as a
prefix. Weights act on the train split only, after repeats were dropped (`graftlm.data.splits.prepare`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from graftlm.data.rows import SPLITS, Pair, Source, Text
from graftlm.data.settings import MixtureData
from graftlm.errors import Problem


def open_source(settings: MixtureData, path: str) -> MixtureSource:
    return MixtureSource(settings, path)


def check(settings: MixtureData, path: str, rows: bool = True) -> list[Problem]:
    """The problems of every part, under its own path."""
    from graftlm.data.sources import check_source

    parts = settings.parts()
    return [problem for name, part in parts.items() for problem in check_source(part, f"{path}.sources.{name}", rows)]


@dataclass
class MixtureSource:
    """The rows of all parts, each with its split and a group `part/group`."""

    settings: MixtureData
    path: str = "data"
    _parts: dict[str, Source] = field(default_factory=dict, repr=False)
    _pairs: dict[str, list[Pair]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        from graftlm.data.sources import open_source as open_part

        for name, part in self.settings.parts().items():
            self._parts[name] = open_part(part, f"{self.path}.sources.{name}")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part."""
        return {name: self.settings.weights.get(name, 1.0) for name in self._parts}

    @property
    def dropped(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for name, part in self._parts.items():
            counts.update({f"{name}: {reason}": count for reason, count in getattr(part, "dropped", {}).items()})
        return dict(counts)

    def fingerprint(self) -> dict[str, object]:
        return {"kind": "mixture", "parts": {name: part.fingerprint() for name, part in self._parts.items()}}

    def pairs(self) -> Iterator[Pair]:
        from graftlm.data.splits import by_split, limit

        for name, settings in self.settings.parts().items():
            rows = limit(by_split(self._assigned(name)), settings.max_pairs, settings)
            for split in SPLITS:
                for pair in rows[split]:
                    yield replace(pair, group=f"{name}/{pair.group}")

    def texts(self) -> Iterator[Text]:
        from graftlm.data.splits import assign_texts, by_split, limit

        for name, settings in self.settings.parts().items():
            texts = assign_texts(list(self._parts[name].texts()), self._assigned(name), settings)
            rows = limit(by_split(texts), settings.max_texts, settings)
            for split in SPLITS:
                for text in rows[split]:
                    yield replace(text, group=f"{name}/{text.group}")

    def _assigned(self, name: str) -> list[Pair]:
        """All pairs of a part with their splits; kept, since its texts follow them."""
        from graftlm.data.splits import assign_pairs

        if name not in self._pairs:
            self._pairs[name] = assign_pairs(list(self._parts[name].pairs()), self.settings.parts()[name])
        return self._pairs[name]
