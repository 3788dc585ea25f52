"""`graftlm run`: one job, or a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from graftlm.commands.words import parse_words, run_help

ABOUT = "train, graft, fine-tune and evaluate: one job, or a sweep with -m"


def run(arguments: Sequence[str]) -> int:
    if any(item in ("-h", "--help") for item in arguments):
        print(run_help("run", ABOUT))
        return 0
    from graftlm import sweep
    from graftlm.commands.report import make_report
    from graftlm.compose import compose_jobs, sweep_overrides
    from graftlm.jobs import ENDED_WELL

    words = parse_words(arguments)
    command = "graftlm run " + " ".join(shlex.quote(item) for item in arguments)
    # Hydra reads flags before overrides only
    flags = [*(f"--config-dir={folder}" for folder in words.config_dirs), *words.shown]
    if words.shown:
        if "--hydra-help" not in words.shown:
            compose_jobs(words)  # a mistake is told in our words
        fixed = [item for item in words.overrides if not (words.multirun and "," in item)]
        sweep.hand_over([*flags, *fixed], 0, command)
        return 0
    from graftlm.plan import check_inputs

    jobs = compose_jobs(words)
    check_inputs(jobs, to_run=True)
    overrides = ["--multirun", *sweep_overrides(words)] if words.multirun else words.overrides
    outcomes, folders = sweep.hand_over([*flags, *overrides], len(jobs), command)
    for folder in folders:
        make_report([folder], folder)
    return 0 if all(outcome.status in ENDED_WELL for outcome in outcomes) else 1
