"""What our sweeper does: it asks the study for trials, hands them to the launcher, and tells what they gave."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import FrozenTrial

from graftlm.composition import to_mapping
from graftlm.engines import end_if_asked
from graftlm.errors import Problem, SettingsError
from graftlm.fields import build
from graftlm.schema import Settings
from graftlm.search.outcome import Told
from graftlm.search.settings import SearchSettings
from graftlm.search.space import Dimension, dimension
from graftlm.search.study import Study
from graftlm.search.summary import write_summary

_MANY = 10**6


def search(arguments: Sequence[str], config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
    """Ask for as many trials at a time as the launcher has workers, until the study has its total."""
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    fixed, space = _read(arguments, loader)
    settings = _search_settings(config)
    batch = batch_size(settings, config.hydra.launcher)
    study = Study(str(settings.study), settings, Path(str(config.store.dir)), parallel=batch > 1)
    launched = 0
    with study.working():
        write_summary(study, folder, fixed, config)
        while trials := study.take(batch, space, folder):
            sound = [trial for trial in trials if _sound(trial, fixed, config, loader, study)]
            if not sound:
                continue
            try:
                results = launcher.launch([_overrides(trial, fixed) for trial in sound], initial_job_idx=launched)
            finally:
                outcomes = [study.settle(trial) for trial in sound]
                write_summary(study, folder, fixed, config)
            end_if_asked()
            launched += len(sound)
            if not any(outcomes):  # a launcher that runs nothing would spend all trials
                for result in results:
                    _ = result.return_value
                break
            for trial, outcome in zip(sound, outcomes, strict=True):
                if outcome is None:
                    study.tell(trial, Told("failed", error="its job wrote no end: killed, perhaps for want of memory"))
        write_summary(study, folder, fixed, config)


def _sound(trial: FrozenTrial, fixed: Sequence[str], config: DictConfig, loader: ConfigLoader, study: Study) -> bool:
    """Whether the settings of a trial can be together; the trial has failed otherwise."""
    try:
        composed = loader.load_sweep_config(config, _overrides(trial, fixed))
        Settings.from_mapping(to_mapping(composed)[0])
    except (SettingsError, HydraException, OmegaConfBaseException) as error:
        study.tell(trial, Told("failed", error=" ".join(str(error).split())))
        return False
    return True


def batch_size(settings: SearchSettings, launcher: Any) -> int:
    """How many trials are asked for at a time.

    Unless it is set, no more than a sampler can do without results: the random ones before it begins, a generation.
    """
    if settings.batch is not None:
        return settings.batch
    at_once = {"random": settings.trials, "nsga2": settings.population}
    return min(workers(launcher), at_once.get(str(settings.sampler), settings.startup_trials))


def workers(launcher: Any) -> int:
    """How many jobs a launcher runs at a time, as far as its settings tell: a cluster's are without limit."""
    if "ray" in launcher:
        cores = (launcher.ray.get("remote") or {}).get("num_cpus") or 1
        local = (launcher.ray.get("init") or {}).get("address") in (None, "local")
        return max(1, int((os.cpu_count() or 1) // cores)) if local else _MANY
    for name in ("n_jobs", "array_parallelism"):
        count = launcher.get(name)
        if isinstance(count, int) and count != 0:
            return count if count > 0 else max(1, (os.cpu_count() or 1) + 1 + count)
    return 1


def _read(arguments: Sequence[str], loader: ConfigLoader) -> tuple[list[str], list[Dimension]]:
    parser = OverridesParser.create(config_loader=loader)
    fixed: list[str] = []
    space: list[Dimension] = []
    for text, parsed in zip(arguments, parser.parse_overrides(list(arguments)), strict=True):
        if parsed.is_sweep_override():
            space.append(dimension(parsed))
        else:
            fixed.append(text)
    return fixed, space


def _search_settings(config: DictConfig) -> SearchSettings:
    problems: list[Problem] = []
    built = build(SearchSettings, OmegaConf.to_container(config.search, resolve=True), "search", problems)
    if problems:
        raise SettingsError(problems)
    assert isinstance(built, SearchSettings)
    return built


def _overrides(trial: FrozenTrial, fixed: Sequence[str]) -> list[str]:
    """The overrides of a trial's job, in a folder of the trial's number: the study's, not the sweep's."""
    number = trial.number
    return [*fixed, *trial.user_attrs["overrides"], f"search.trial={number}", f"hydra.sweep.subdir={number}"]
