"""Composing the jobs of a sweep: Hydra composes each set of group choices once, what else varies is laid over it.

Hydra reads the files and then applies the overrides of single settings, in their order, by `OmegaConf.update`
(`ConfigLoaderImpl._apply_overrides_to_config`). So jobs that differ in those alone have all else in common. An override
of any other form (`+x`, `~x`, `a@b`, a mapping for a group) is left to Hydra, as is whatever does not work.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graftlm import donors
from graftlm.composition import chosen, hydra_compose, mistakes, plain_part, resolved
from graftlm.errors import SettingsError

Composed = tuple[dict[str, Any], dict[str, str]]  # the plain settings and the choices of groups

# a setting by its path: at least one dot, nothing that adds, deletes, or names a package
PLAIN = re.compile(r"([A-Za-z_]\w*(?:\.\w+)+)=")
GROUP = re.compile(r"[A-Za-z_][\w/]*=(?!\s*\{)")
RESOLVER = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*:")
# resolvers whose value follows from the configuration and the environment
PURE = re.compile(rf"{donors.RESOLVER}|oc\.(env|select|decode|create|deprecated|dict\.(keys|values))")


class Composer:
    """Composes with Hydra, which must be initialised as long as this is used.

    `full` composes a list of overrides from the start. `pure` turns false where a setting does not follow from the
    words, the files and the environment alone (`${now:…}`), so that what was composed must not be kept.
    """

    def __init__(self, full: Callable[[Sequence[str]], Any], config_dirs: Sequence[str]):
        self._full = full
        self._dirs = [Path(folder) for folder in config_dirs]
        self._bases: dict[tuple[str, ...], tuple[Any, dict[str, str]]] = {}
        self._failed: set[tuple[str, ...]] = set()
        self._parsed: dict[str, Any] = {}
        self.pure = True

    def compose(self, overrides: Sequence[str]) -> Composed:
        """The settings and choices of one job, as Hydra would compose them.

        Raises:
            SettingsError: with every mistake of the overrides.
        """
        divided = self._divide(overrides)
        if divided is not None and divided[0] not in self._failed:
            told: tuple[type[Exception], ...] = (SettingsError, *mistakes())
            try:
                return self._vary(*divided)
            except told:
                # Hydra says what is wrong, and it is explained from the whole line
                if divided[0] not in self._bases:
                    self._failed.add(divided[0])
        config = self._full(overrides)
        plain = plain_part(config)
        self._note(plain)
        return resolved(plain), chosen(config)

    def _divide(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]] | None:
        """The overrides that Hydra must see, and the plain ones; None where the line has any other form."""
        seen: list[str] = []
        plain: list[str] = []
        for text in overrides:
            match = PLAIN.match(text)
            if text.startswith("hydra.") or (match is None and GROUP.match(text)):
                seen.append(text)
            elif match is not None and not any((folder / match[1]).is_dir() for folder in self._dirs):
                plain.append(text)
            else:
                return None
        return tuple(seen), plain

    def _vary(self, seen: tuple[str, ...], plain: Sequence[str]) -> Composed:
        from omegaconf import OmegaConf

        if seen not in self._bases:
            config = hydra_compose(seen)
            self._bases[seen] = plain_part(config), chosen(config)
        base, choices = self._bases[seen]
        varied = copy.deepcopy(base)
        OmegaConf.set_struct(varied, True)
        for text in plain:
            override = self._parse(text)
            OmegaConf.update(varied, override.key_or_group, override.value(), merge=True)
        self._note(varied)
        return resolved(varied), dict(choices)

    def _parse(self, text: str) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        if text not in self._parsed:
            override = OverridesParser.create().parse_override(text)
            if override.is_sweep_override():
                raise HydraException("several values")
            self._parsed[text] = override
        return self._parsed[text]

    def _note(self, plain: Any) -> None:
        """Whether what was composed follows from words, files and environment."""
        from omegaconf import OmegaConf

        if self.pure and not all(PURE.fullmatch(name) for name in resolvers(OmegaConf.to_container(plain))):
            self.pure = False


def resolvers(value: Any) -> Iterator[str]:
    """Names of the resolvers that unresolved settings use."""
    if isinstance(value, str):
        yield from RESOLVER.findall(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from resolvers(item)
    elif isinstance(value, list):
        for item in value:
            yield from resolvers(item)
