"""Where Hydra finds our sweeper: it takes plugins from the namespace package `hydra_plugins` only.

Hydra imports this for every program of the environment that uses it: nothing else is imported before a search begins.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Jobs chosen by what earlier ones gave: `sweep=random`, `tpe`, `cmaes`, `nsga2`."""

    def __init__(self, params: Any = None):
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self._launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context = hydra_context
        self.config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from graftlm.search.sweeper import search

        assert self.hydra_context is not None
        assert self.config is not None
        assert self._launcher is not None
        search(arguments, self.config, self.hydra_context.config_loader, self._launcher)
