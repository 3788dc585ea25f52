"""What Hydra could not compose, told in our words: the setting, the value, what is wrong and what to do.

Hydra stops at its first mistake; here all of a command line are found.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from graftlm.composition import hydra_compose, mistakes
from graftlm.data.settings import DATA_KINDS
from graftlm.errors import Problem, first_line
from graftlm.groups import GROUPS, group_options

# launchers of plugins, by Hydra's name -> what to install for them
PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "'graftlm[slurm]'",
    "submitit_slurm": "'graftlm[slurm]'",
    "ray": "'graftlm[ray]'",
}


def explain(overrides: Sequence[str], error: Exception) -> Iterator[Problem]:
    """Hydra stops at its first mistake: try the choices of groups each alone, then each setting beside those."""
    refused: set[str] = set()
    context = [item for item in overrides if item.startswith("hydra.searchpath=")]
    settings: list[str] = []
    for override in overrides:
        key = override.partition("=")[0]
        if override in context:
            continue
        if "." in key or "=" not in override:
            settings.append(override)
            continue
        wrong = _fails([*context, override])
        if wrong is None:
            context.append(override)
        else:
            refused.add(key.lstrip("+~"))
            yield problem(override, wrong)
    for override in settings:
        wrong = None if depends(override, refused) else _fails([*context, override])
        if wrong is not None:
            refused.add(override)
            yield problem(override, wrong)
    if not refused:
        yield Problem("overrides", " ".join(overrides), first_line(error))


def depends(override: str, refused: Collection[str]) -> bool:
    """Whether an override was refused, or is of a group whose choice was: nothing can be said of it then."""
    key = override.partition("=")[0].lstrip("+~")
    group = key.partition(".")[0]
    return key in refused or override in refused or {"search": "sweep"}.get(group, group) in refused


def _fails(overrides: Sequence[str]) -> Exception | None:
    try:
        hydra_compose(overrides)
    except mistakes() as error:
        return error
    return None


def problem(override: str, error: Exception) -> Problem:
    from hydra.errors import OverrideParseException

    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    text = str(error)
    if not key:
        return Problem("override", override, "cannot be read", "write key=value")
    lacking = re.search(r"Could not find 'hydra/launcher/(\w+)'", text)
    if lacking and lacking[1] in PACKAGES:
        install = f"pip install {PACKAGES[lacking[1]]}"
        return Problem(key, value, "needs a package that is not installed", install)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        what = f"{mark.name}, line {mark.line + 1}, is no YAML ({getattr(error, 'problem', None) or 'cannot be read'})"
        return Problem(key, value, what, "mend the file")
    if "codec can't decode" in text:
        return Problem(key, value, f"its file is not UTF-8 ({first_line(error)})", "save it as UTF-8")
    if "Ambiguous value" in text:
        return Problem(key, value, "has several values", "add -m for a sweep, or [..] around a list")
    if "requires --multirun" in text:
        return Problem(key, value, "has several values", "add -m for a sweep")
    if "Could not append" in text:
        return Problem(key, value, "is there already", "leave out the +")
    if isinstance(error, OverrideParseException) or not _:
        return Problem("override", override, "cannot be read", "write key=value, in quotes where it has spaces")
    if "group override must be" in text:
        reason = "is read as a value, not as a name, even where a file is called so"
        return Problem(key, value, reason, "choices are " + ", ".join(group_options(key)))
    if "Could not find" in text or "Could not override" in text:
        # Hydra names those of one's own folders (--config-dir) too
        listed = text.partition("Config search path")[0]
        options = sorted(re.findall(r"^\t(\S.*)$", listed, re.MULTILINE)) or group_options(key)
        if options:
            close = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}?" if close else ""
            return Problem(key, value, "is no choice of this group", remedy or "choices are " + ", ".join(options))
        if _is_setting(key) and not key.startswith("search."):
            return Problem(key, value, "is in no file of what was chosen", f"write ++{key}={value}")
        return Problem(key, value, "is no setting and no group", _near_key(key))
    if "is not in struct" in text or "Key" in text:
        return Problem(key, value, "is no setting", _near_key(key))
    return Problem(key, value, first_line(error))


def _is_setting(path: str) -> bool:
    """Whether the schema has a setting of this path: a file of one's own may leave it out to its default."""
    from graftlm.fields import group_of
    from graftlm.schema import Settings

    *groups, name = path.split(".")
    kind: type[Any] | None = Settings
    for group in groups:
        kind = group_of(kind, group) if kind is not None else None
    return kind is not None and name in {item.name for item in dataclasses.fields(kind)}


def _near_key(key: str) -> str:
    """Where a key was misspelt: the nearest setting."""
    from hydra import compose
    from omegaconf import OmegaConf

    if key.startswith("search."):
        return "a grid has no search: choose sweep=random, tpe, cmaes or nsga2"
    known = list(_paths(OmegaConf.to_container(compose("config"), resolve=False), ""))
    for kind in DATA_KINDS.values():  # of which one alone was composed
        known += _paths(_declared(kind), "data")
    close = difflib.get_close_matches(key, [*known, *GROUPS], n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "graftlm run --cfg job shows all settings"


def _declared(kind: type[Any]) -> dict[str, Any]:
    """The settings of a settings dataclass, those of its groups within."""
    from graftlm.fields import group_of

    inner = {item.name: group_of(kind, item.name) for item in dataclasses.fields(kind)}
    return {name: _declared(group) if group else None for name, group in inner.items()}


def _paths(value: Any, path: str) -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, f"{path}.{key}" if path else str(key))
