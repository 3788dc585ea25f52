"""What was composed, kept: the same words over the same files and environment give the same jobs, without Hydra.

A kept composition is a JSON file in the cache (`$GRAFTLM_CACHE`, else `~/.cache/graftlm`), named by a hash of all that
it follows from: the words, the content of every config file that could be read, the values of the environment
variables that those name, and what composes. Settings are validated again each time. What cannot be known to follow
from that (random sweeps, other search paths, resolvers of other kinds) is not kept. The cache may be deleted at any
time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import graftlm
from graftlm.composer import RESOLVER
from graftlm.errors import Problem, SettingsError
from graftlm.fields import build_field
from graftlm.groups import config_folder
from graftlm.guard import check_secrets
from graftlm.job import Job, Words
from graftlm.memo import cache_folder
from graftlm.schema import Settings

KEPT = 50  # compositions; the oldest go
FILES = 2000  # a folder of more is no folder of settings
CODE = (
    "compose.py", "composed.py", "composer.py", "composition.py", "donors.py",
    "explain.py", "groups.py", "guard.py", "job.py", "search/space.py",
)  # fmt: skip
ENVIRONMENT = re.compile(r"\boc\.env\s*:\s*([A-Za-z_]\w*(?=\s*[,}]))?")
LISTED = re.compile(r"^\s*-\s.*$", re.MULTILINE)  # in lists of defaults, interpolations are resolved while composing


def load(name: str | None) -> list[Job] | None:
    """The jobs that were kept under an identity, or None where they must be composed."""
    if name is None:
        return None
    try:
        content = json.loads(_file(name).read_text(encoding="utf-8"))
        values: list[list[Any]] = content["values"]
        problems: list[Problem] = []
        if check_secrets((), {"": values}):
            return None  # a variable has become a secret since: composed anew, it is told
        parts = [build_field(Settings, group, value, "", problems) for group, value in values]
        if problems:
            return None  # composed anew, they are told with all others
        return [
            Job(
                tuple(job["overrides"]),
                dict(job["choices"]),
                Settings.from_parts({values[index][0]: parts[index] for index in job["settings"]}),
            )
            for job in content["jobs"]
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError, SettingsError):
        return None


def keep(name: str | None, words: Words, jobs: Sequence[Job], mappings: Sequence[Mapping[str, Any]]) -> None:
    """Keep what was composed: for each job the plain settings it was made of, each distinct group once.

    `name` is the identity from before composing: where it is another now, a file was changed meanwhile.
    """
    if name is None or identity(words) != name:
        return
    known: dict[str, int] = {}
    values: list[list[Any]] = []
    kept: list[dict[str, Any]] = []
    try:
        for job, mapping in zip(jobs, mappings, strict=True):
            indices: list[int] = []
            for group, value in mapping.items():
                text = json.dumps([group, value])
                if text not in known:
                    if json.loads(text) != [group, value]:
                        return  # keys that are no texts
                    known[text] = len(values)
                    values.append([group, value])
                indices.append(known[text])
            kept.append({"overrides": list(job.overrides), "choices": job.choices, "settings": indices})
        file = _file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"values": values, "jobs": kept}), encoding="utf-8")
        temporary.replace(file)
        _forget(file.parent)
    except (OSError, TypeError, ValueError):
        return  # a cache that cannot be written, or values that JSON does not have


def identity(words: Words) -> str | None:
    """A hash of all that composing these words follows from; None where that cannot be told."""
    if any("searchpath" in word or "shuffle(" in word for word in words.overrides):
        return None
    parts: list[Any] = [graftlm.__version__, words.overrides, words.multirun, _code()]
    names: set[str] = set()
    texts: list[str] = list(words.overrides)
    for folder in (config_folder(), *map(Path, words.config_dirs)):
        files = list(_files(folder))
        if len(files) > FILES:
            return None
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, ValueError):
                return None
            parts.append([str(file), hashlib.sha256(text.encode()).hexdigest()])
            texts.append(text)
    for text in texts:
        if "searchpath" in text:
            return None
        if "${" in text:
            found = ENVIRONMENT.findall(text)
            listed = [name for line in LISTED.findall(text) for name in RESOLVER.findall(line)]
            if "" in found or any(name != "oc.env" for name in listed):
                return None  # the name of a variable that is itself looked up; a choice that time or chance makes
            names.update(found)
    parts.append([[name, os.environ.get(name)] for name in sorted(names)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _files(folder: Path) -> Iterator[Path]:
    """All that Hydra may read below a folder, and one more than `FILES` at most."""
    count = 0
    for place, folders, names in os.walk(folder.resolve(), followlinks=True):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > FILES or name.endswith((".yaml", ".yml")):
                yield Path(place) / name
            if count > FILES:
                yield from [Path(place)] * FILES
                return


def _code() -> list[Any]:
    """What identifies the code that composes: our own modules, Hydra, OmegaConf, and Hydra's plugins."""
    here = Path(__file__).parent
    files = [here / name for name in CODE]
    for package, name in (("hydra", "__init__.py"), ("omegaconf", "version.py")):
        spec = importlib.util.find_spec(package)
        files += [Path(place) / name for place in (spec.submodule_search_locations or ())] if spec else []
    found: list[Any] = []
    for file in filter(Path.is_file, files):
        status = file.stat()
        found.append([str(file), status.st_size, status.st_mtime_ns])
    plugins = importlib.util.find_spec("hydra_plugins")
    for place in (plugins.submodule_search_locations or ()) if plugins else ():
        if Path(place).is_dir():  # an editable install adds a place of its own that is no folder
            found.append(sorted(item.name for item in Path(place).iterdir()))
    return found


def _file(name: str) -> Path:
    return cache_folder() / "composed" / f"{name}.json"


def _forget(folder: Path) -> None:
    """Delete the oldest where there are more than `KEPT`."""
    kept = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in kept[:-KEPT]:
        file.unlink(missing_ok=True)
