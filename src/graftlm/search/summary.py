"""What a search found: `search.json` in the sweep's folder, and the lines that a terminal shows."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.store import write_json

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from graftlm.search.study import Study

SUMMARY = "search.json"
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
_SEEDS = 3  # the fewest from which a comparison claims anything
_SHOWN = 8


def write_summary(study: Study, folder: Path, fixed: Sequence[str], config: DictConfig) -> None:
    """`search.json`: all trials of the study, those of earlier sweeps too, the best, and how to repeat them."""
    prefix = _repeatable(fixed, config)
    seed = int(config.finetune.seed)
    trials = [
        {
            "number": trial.number,
            "state": _STATES[trial.state.name],
            "values": trial.values if trial.state.name == "COMPLETE" else None,
            "overrides": trial.user_attrs.get("overrides", []),
            "job": os.path.relpath(study.job(trial), folder.absolute()),
            "step": trial.last_step,
            "error": trial.user_attrs.get("error"),
        }
        for trial in study.trials
        if trial.state.name in _STATES
    ]
    best = _best(study)
    write_json(
        folder / SUMMARY,
        {
            "version": 1,
            "study": study.name,
            "folder": os.path.relpath(study.folder, folder.absolute()),
            "sampler": study.settings.sampler,
            "pruner": study.settings.pruner.kind,
            "objectives": list(study.settings.objectives),
            "wanted": study.settings.trials,
            "counts": study.counts(),
            "unended": study.unended(),
            "best": [
                {
                    "number": trial["number"],
                    "values": trial["values"],
                    "overrides": trial["overrides"],
                    "repeat": _repeat(prefix, trial["overrides"], seed),
                }
                for trial in trials
                if trial["number"] in best
            ],
            "importance": _importance(study),
            "trials": trials,
        },
    )


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary in a folder; an empty one where there is none that can be read."""
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def tell_summary(found: dict[str, Any]) -> Iterator[str]:
    """The summary in lines."""
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items())
    yield f"search: study {found['study']}: {counts or 'no trial yet'}, of {found['wanted']} wanted"
    if found["unended"]:
        yield f"{found['unended']} came to no end: the same command begins them again"
    best = found["best"]
    if not best:
        if found["trials"]:
            yield "no trial gave a value: nothing is the best"
            yield from dict.fromkeys(f"  {trial['error']}" for trial in found["trials"] if trial["error"])
        return
    names = found["objectives"]
    several = len(names) > 1
    if several:
        yield f"no other trial beats these in all of {', '.join(names)}:"
    for trial in best[:_SHOWN]:
        values = ", ".join(f"{name} {value:.5g}" for name, value in zip(names, trial["values"], strict=True))
        yield f"{'  ' if several else 'best: '}trial {trial['number']}: {values}: {' '.join(trial['overrides'])}"
    if len(best) > _SHOWN:
        yield f"  and {len(best) - _SHOWN} more, in {SUMMARY}"
    if found["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found["importance"].items())
        yield f"share of what made the difference: {shares}"
    yield f"the best of many was lucky too; repeat {'one' if several else 'it'} with other seeds:"
    yield f"  {best[0]['repeat']}"


def _best(study: Study) -> set[int]:
    """The numbers of the best trials: one, or the Pareto set of several objectives."""
    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        return set()
    if len(study.settings.objectives) == 1:
        return {study.optuna.best_trial.number}
    return {trial.number for trial in study.optuna.best_trials}


def _importance(study: Study) -> dict[str, float]:
    """The share of each setting in what made trials good (PED-ANOVA, Watanabe 2023); empty where too few tell it."""
    from optuna.importance import get_param_importances

    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(study.settings.objectives) > 1 or len(complete) < 10 or len(complete[0].params) < 2:
        return {}
    try:
        return {name: round(float(share), 4) for name, share in get_param_importances(study.optuna).items()}
    except (ValueError, RuntimeError):  # all trials have the same value
        return {}


def _repeatable(fixed: Sequence[str], config: DictConfig) -> list[str]:
    """The words of a grid with all that the trials shared."""
    dropped = ("sweep=", "search.", "hydra.sweeper.", "finetune.seed=")
    sources = config.hydra.runtime.config_sources
    folders = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    return ["graftlm", "run", "-m", *folders, *(item for item in fixed if not item.startswith(dropped))]


def _repeat(prefix: Sequence[str], overrides: Sequence[str], seed: int) -> str:
    """The command that runs a trial again, with seeds that it was not chosen by."""
    seeds = ",".join(str(seed + step) for step in range(1, _SEEDS + 1))
    return shlex.join([*prefix, *overrides, f"finetune.seed={seeds}"])
