"""From the words of a command line to settings: Hydra composes, the schema validates, all mistakes come together.

This and `cli`/`sweep` are the only modules that import Hydra.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.errors import Problem, SettingsError
from graftlm.schema import Settings

CONFIG_MODULE = "graftlm.conf"
# groups whose choice tells runs apart, in the order of `conf/config.yaml`
GROUPS = ("model", "data", "mask", "transfer", "trainer", "logger", "sweep", "launch", "experiment", "debug")


@dataclass(frozen=True)
class Job:
    """One job of a run or sweep: what was chosen, what was overridden, and the settings that follow."""

    overrides: tuple[str, ...]
    choices: dict[str, str]
    settings: Settings


@dataclass(frozen=True)
class Words:
    """A command line taken apart: overrides, and the flags of Hydra that matter to composing."""

    overrides: tuple[str, ...]
    multirun: bool = False
    config_dirs: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()  # --cfg, --info and their like: nothing will be run


def compose_jobs(words: Words) -> list[Job]:
    """The jobs that a command line asks for.

    A sweep is expanded as Hydra's own sweeper does it: every combination of comma-separated values, those of
    `hydra.sweeper.params` included.

    Raises:
        SettingsError: with every mistake in every job, each once.
    """
    problems: list[Problem] = [
        Problem(item.lstrip("~"), "(deleted)", "a setting cannot be taken away", "give it a value")
        for item in words.overrides
        if item.startswith("~")
    ]
    jobs: list[Job] = []
    with _hydra(words) as base:
        combinations = _parse_sweep(base, problems).combinations() if words.multirun else iter([base])
        for overrides in combinations:
            try:
                mapping, choices = _compose(overrides)
                settings = Settings.from_mapping(mapping)
            except SettingsError as error:
                problems += error.problems
                continue
            jobs.append(Job(tuple(item for item in overrides if not item.startswith("hydra.")), choices, settings))
    if problems:
        raise SettingsError(problems)
    return jobs


def sweep_overrides(words: Words) -> list[str]:
    """The overrides of a sweep with those of its experiment written out.

    Hydra's own sweeper would refuse a command line that varies what the experiment varies too.
    """
    with _hydra(words) as base:
        sweep = _parse_sweep(base, [])
    return [item for item in sweep.fixed if not item.startswith("hydra.searchpath=")] + [
        *sweep.varied.values(),
        "hydra.sweeper.params=null",
    ]


@contextmanager
def _hydra(words: Words) -> Iterator[tuple[str, ...]]:
    """Hydra ready to compose from the packaged groups and the user's own; gives the overrides."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module(version_base="1.3", config_module=CONFIG_MODULE, job_name="graftlm"):
        base = list(words.overrides)
        if words.config_dirs:
            places = ",".join(f"file://{Path(folder).resolve()}" for folder in words.config_dirs)
            base.append(f"hydra.searchpath=[{places}]")
        yield tuple(base)


def to_mapping(config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The plain settings and the group choices of what Hydra composed (with its own part)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choices = {
        group: str(choice)
        for group, choice in OmegaConf.to_container(config.hydra.runtime.choices).items()  # type: ignore[union-attr]
        if group in GROUPS and choice is not None and choice != "null"
    }
    try:
        plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        mapping = OmegaConf.to_container(plain, resolve=True)
    except OmegaConfBaseException as error:
        raise SettingsError.at(
            str(getattr(error, "full_key", None) or "config"), None, _first_line(error), "check the interpolation"
        ) from error
    return {str(key): value for key, value in mapping.items()}, choices  # type: ignore[union-attr]


def _compose(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    from hydra import compose

    try:
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    except _mistakes() as error:
        raise SettingsError(list(_explain(overrides, error))) from error
    return to_mapping(config)


def _mistakes() -> tuple[type[Exception], ...]:
    """What composing raises over a user's words and files."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return HydraException, OmegaConfBaseException, YAMLError


def _explain(overrides: Sequence[str], error: Exception) -> Iterator[Problem]:
    """Hydra stops at its first mistake: try the choices of groups each alone, then each setting beside those."""
    found = False
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
            found = True
            yield _problem(override, wrong)
    for override in settings:
        wrong = _fails([*context, override])
        if wrong is not None:
            found = True
            yield _problem(override, wrong)
    if not found:
        yield Problem("overrides", " ".join(overrides), _first_line(error))


def _fails(overrides: Sequence[str]) -> Exception | None:
    from hydra import compose

    try:
        compose("config", overrides=list(overrides), return_hydra_config=True)
    except _mistakes() as error:
        return error
    return None


def _problem(override: str, error: Exception) -> Problem:
    from hydra.errors import OverrideParseException

    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    text = str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        what = f"{mark.name}, line {mark.line + 1}, is no YAML ({getattr(error, 'problem', None) or 'cannot be read'})"
        return Problem(key, value, what, "mend the file")
    if "Ambiguous value" in text:
        return Problem(key, value, "has several values", "add -m for a sweep, or [..] around a list")
    if "Could not append" in text:
        return Problem(key, value, "is there already", "leave out the +")
    if isinstance(error, OverrideParseException) or not _:
        return Problem("override", override, "cannot be read", "write key=value, in quotes where it has spaces")
    if "Could not find" in text or "Could not override" in text:
        options = group_options(key)
        if options:
            close = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}?" if close else ""
            return Problem(key, value, "is no choice of this group", remedy or "choices are " + ", ".join(options))
        return Problem(key, value, "is no setting and no group", _near_key(key))
    if "is not in struct" in text or "Key" in text:
        return Problem(key, value, "is no setting", _near_key(key))
    return Problem(key, value, _first_line(error))


def _near_key(key: str) -> str:
    """Where a key was misspelt: the nearest setting."""
    from hydra import compose
    from omegaconf import OmegaConf

    known = list(_paths(OmegaConf.to_container(compose("config"), resolve=False), ""))
    close = difflib.get_close_matches(key, [*known, *GROUPS], n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "graftlm run --cfg job shows all settings"


def _paths(value: Any, path: str) -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, f"{path}.{key}" if path else str(key))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class _Sweep:
    """A sweep taken apart: overrides that hold for all jobs, and those with several values, as text and as a list."""

    fixed: tuple[str, ...]
    varied: dict[str, str]
    values: dict[str, list[str]]

    def combinations(self) -> Iterator[tuple[str, ...]]:
        for combination in itertools.product(*self.values.values()):
            yield (*self.fixed, *combination)


def _parse_sweep(overrides: Sequence[str], problems: list[Problem]) -> _Sweep:
    """What varies, on the command line and in `hydra.sweeper.params` of an experiment; the command line wins."""
    from hydra import compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    parser = OverridesParser.create()
    fixed: list[str] = []
    varied: dict[str, str] = {}
    values: dict[str, list[str]] = {}

    def take(text: str) -> None:
        try:
            parsed = parser.parse_override(text)
        except HydraException as error:
            problems.append(_problem(text, error))
            return
        if parsed.is_sweep_override():
            key = parsed.get_key_element()
            varied[key] = text
            values[key] = [f"{key}={item}" for item in parsed.sweep_string_iterator()]
        else:
            fixed.append(text)

    for text in overrides:
        take(text)
    try:
        config = compose("config", overrides=fixed, return_hydra_config=True)
        params = OmegaConf.to_container(config.hydra.sweeper.params) if config.hydra.sweeper.get("params") else {}
    except _mistakes():
        params = {}  # the mistake is found and explained when the jobs are composed
    given = {item.partition("=")[0].lstrip("+") for item in overrides}
    if isinstance(params, dict):
        for key, value in params.items():
            if str(key) not in given:
                take(f"{key!s}={value!s}")
    return _Sweep(tuple(fixed), varied, values)


def config_folder() -> Path:
    """The folder of the packaged configuration."""
    import graftlm.conf

    return Path(next(iter(graftlm.conf.__path__)))


def group_options(group: str) -> list[str]:
    """The choices of a group, by name."""
    folder = config_folder() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []


def first_comment(path: Path) -> str:
    """The line that says what a YAML file is for."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""
