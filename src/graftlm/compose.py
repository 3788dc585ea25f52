"""From the words of a command line to settings: Hydra composes, the schema validates, all mistakes come together.

This, `composition`, `composer`, `explain`, `sweep` and `search/` are the only modules that import Hydra. What was
composed is kept (`composed`): the same words over the same files need no Hydra.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm import composed
from graftlm.composer import Composer
from graftlm.composition import hydra_compose, mistakes, quoted
from graftlm.errors import Problem, SettingsError
from graftlm.explain import depends, explain, problem
from graftlm.guard import check_secrets
from graftlm.job import Job, Words
from graftlm.schema import Settings
from graftlm.search.space import Dimension, Search, check_space, corners, dimension, mend

CONFIG_MODULE = "graftlm.conf"


def compose_jobs(words: Words) -> list[Job]:
    """The jobs that a command line asks for; of a search those at the corners of its space.

    A sweep is expanded as Hydra's own sweeper does it: every combination of comma-separated values, those of
    `hydra.sweeper.params` included.

    Raises:
        SettingsError: with every mistake in every job, each once.
    """
    refuse_secrets(words)
    identity = composed.identity(words)
    kept = composed.load(identity)
    if kept is not None:
        return kept
    problems = _deleted(words)
    with _hydra(words) as base:
        sweep = _parse_sweep(base, problems) if words.multirun else None
        jobs, mappings, pure = _jobs(words, sweep.combinations() if sweep else iter([base]), problems)
    if pure and (sweep is None or sweep.sampler is None):
        composed.keep(identity, words, jobs, mappings)
    return jobs


def compose_search(words: Words) -> Search | None:
    """The search that a command line asks for; None where it asks for a single run or a grid.

    Raises:
        SettingsError: with every mistake in the space and at its corners, each once.
    """
    refuse_secrets(words)
    # what is kept is never a search
    if not words.multirun or composed.load(composed.identity(words)) is not None:
        return None
    problems = _deleted(words)
    with _hydra(words) as base:
        sweep = _parse_sweep(base, problems)
        if sweep.sampler is None:
            return None
        space = tuple(sweep.dimensions.values())
        try:
            return Search(sweep.fixed, space, _jobs(words, sweep.combinations(), problems)[0])
        except SettingsError as error:
            raise SettingsError(mend(error.problems, space)) from error


def refuse_secrets(words: Words) -> None:
    """Raises `SettingsError` where a word of the command line holds what must not be written down."""
    if problems := check_secrets(words.overrides):
        raise SettingsError(problems)


def _deleted(words: Words) -> list[Problem]:
    return [
        Problem(item.lstrip("~"), "(deleted)", "a setting cannot be taken away", "give it a value")
        for item in words.overrides
        if item.startswith("~")
    ]


def _jobs(
    words: Words, combinations: Iterable[Sequence[str]], problems: list[Problem]
) -> tuple[list[Job], list[dict[str, Any]], bool]:
    """The jobs, their settings as plain mappings, and whether these follow from words, files and environment alone."""
    jobs: list[Job] = []
    mappings: list[dict[str, Any]] = []
    composer = Composer(_compose, words.config_dirs)
    for overrides in combinations:
        try:
            mapping, choices = composer.compose(overrides)
        except SettingsError as error:
            problems += [*error.problems, *_beside(composer, overrides, error.problems)]
            continue
        if secret := check_secrets((), mapping):
            problems += secret
            continue
        try:
            settings = Settings.from_mapping(mapping)
        except SettingsError as error:
            problems += error.problems
            continue
        jobs.append(Job(tuple(item for item in overrides if not item.startswith("hydra.")), choices, settings))
        mappings.append(mapping)
    if problems:
        raise SettingsError(problems)
    return jobs, mappings, composer.pure


def _beside(composer: Composer, overrides: Sequence[str], told: Sequence[Problem]) -> list[Problem]:
    """Values out of range beside what could not be composed, which stands at its default meanwhile."""
    refused = {str(problem.value) if problem.path == "override" else problem.path for problem in told}
    sound = [item for item in overrides if not depends(item, refused)]
    keys = {item.partition("=")[0].lstrip("+") for item in sound}
    try:
        Settings.from_mapping(composer.compose(sound)[0])
    except SettingsError as error:
        return [problem for problem in error.problems if problem.path in keys]
    return []


def sweep_overrides(words: Words) -> list[str]:
    """The overrides of a sweep with those of its experiment written out.

    Hydra's own sweeper would refuse a command line that varies what the experiment varies too.
    """
    with _hydra(words) as base:
        sweep = _parse_sweep(base, [])
    return [item for item in sweep.fixed if not item.startswith("hydra.searchpath=")] + [
        *sweep.varied.values(),
        "hydra.sweeper.params=null",
        *(["search.params={}"] if sweep.sampler else []),
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
            places = ",".join(quoted(f"file://{Path(folder).resolve()}") for folder in words.config_dirs)
            base.append(f"hydra.searchpath=[{places}]")
        yield tuple(base)


def _compose(overrides: Sequence[str]) -> Any:
    try:
        return hydra_compose(overrides)
    except mistakes() as error:
        raise SettingsError(list(explain(overrides, error))) from error


@dataclass(frozen=True)
class _Sweep:
    """A sweep taken apart: overrides that hold for all jobs, and those with several values, as text and as read.

    `sampler`: what chooses the jobs of a search; None for a grid.
    """

    fixed: tuple[str, ...]
    varied: dict[str, str]
    dimensions: dict[str, Dimension]
    sampler: str | None

    def combinations(self) -> Iterator[tuple[str, ...]]:
        items = self.dimensions.values()
        found: Iterable[tuple[str, ...]]
        if self.sampler:
            found = corners(tuple(items))
        else:
            found = itertools.product(*([f"{item.key}={option}" for option in item.options] for item in items))
        for combination in found:
            yield (*self.fixed, *combination)


def _folder_of_sweeps(value: str) -> Problem:
    """Of one's own it would not be: workers look for the sweep in `multirun/`, and `store gc` for what it needs."""
    reason = "the folder of a sweep is multirun/ and the time, below the folder that the command is given in"
    return Problem("hydra.sweep.dir", value, reason, "leave it out, and give the command elsewhere")


def _parse_sweep(overrides: Sequence[str], problems: list[Problem]) -> _Sweep:
    """What varies, on the command line and in the `params` of an experiment; the command line wins."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    fixed: list[str] = []
    varied: dict[str, str] = {}
    dimensions: dict[str, Dimension] = {}

    def take(text: str) -> None:
        try:
            (parsed,) = parser.parse_overrides([text])  # the plural: its errors are of a kind that can be told apart
            parsed.config_loader = parser.config_loader
            key, value = parsed.get_key_element(), text.partition("=")[2]
            if key.lstrip("+~") == "hydra.sweep.dir":
                problems.append(_folder_of_sweeps(value))
            elif not parsed.is_sweep_override():
                fixed.append(text)
            elif key.lstrip("+~").startswith("hydra"):
                problems.append(Problem(key, value, "cannot differ between jobs", "give one value"))
            else:
                dimensions[key] = dimension(parsed)
                varied[key] = text
        except HydraException as error:
            problems.append(problem(text, error))
        except SettingsError as error:
            problems.extend(error.problems)

    for text in overrides:
        take(text)
    sampler: str | None = None
    params: dict[str, Any] = {}
    try:
        config = hydra_compose(fixed)
        for found in (config.hydra.sweeper.get("params"), config.get("search", {}).get("params")):
            params |= dict(found) if found else {}
        sampler = config.get("search", {}).get("sampler")
        # not resolved: the packaged name holds that variable, another one is the user's, wherever it was set
        sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        if "GRAFTLM_RUN" not in str(sweep["dir"]):
            problems.append(_folder_of_sweeps(str(sweep["dir"])))
        if "${hydra.job." not in str(sweep["subdir"]):
            reason = "is one folder for all jobs, which would write over each other"
            remedy = "leave it out: a job's folder is its number"
            problems.append(Problem("hydra.sweep.subdir", sweep["subdir"], reason, remedy))
    except mistakes():  # the mistake is found and explained when the jobs are composed
        sampler = "unknown" if any(not item.options for item in dimensions.values()) else None
    given = {item.partition("=")[0].lstrip("+") for item in overrides}
    for key, value in params.items():
        if str(key) not in given:
            take(f"{key!s}={value!s}")
    if sampler and not problems:
        problems.extend(check_space(tuple(dimensions.values()), sampler))
    for item in () if sampler else dimensions.values():
        if not item.options:
            reason = "is a range of numbers, which a grid cannot count through"
            problems.append(Problem(item.key, varied[item.key].partition("=")[2], reason, "add sweep=tpe"))
    return _Sweep(tuple(fixed), varied, dimensions, sampler)
