"""A command line taken apart, and the jobs that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from graftlm.schema import Settings


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
