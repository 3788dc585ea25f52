"""`graftlm run`: one job, or a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graftlm.commands.words import check_shown, parse_words, run_help
from graftlm.console import tell

if TYPE_CHECKING:
    from graftlm.job import Job
    from graftlm.search.space import Search

ABOUT = "train, graft, fine-tune and evaluate: one job, or a sweep with -m"


def run(arguments: Sequence[str]) -> int:
    if any(item in ("-h", "--help") for item in arguments):
        print(run_help("run", ABOUT))
        return 0
    from graftlm import sweep
    from graftlm.commands.report import make_report
    from graftlm.compose import compose_jobs, compose_search, sweep_overrides
    from graftlm.console import progress_for_terminal
    from graftlm.record import ENDED_WELL
    from graftlm.tracking.verdict import track_report

    words = parse_words(arguments)
    command = "graftlm run " + " ".join(shlex.quote(item) for item in arguments)
    # Hydra reads flags before overrides only
    flags = [*(f"--config-dir={folder}" for folder in words.config_dirs), *words.shown]
    if words.shown:
        if "--hydra-help" in words.shown:
            sweep.hand_over(["--hydra-help"], 0, command)  # of no configuration: nothing was looked at
            return 0
        check_shown(words, compose_jobs(words))  # a mistake is told in our words
        fixed = [item for item in words.overrides if not (words.multirun and "," in item)]
        sweep.hand_over([*flags, *fixed], 0, command)
        return 0
    from graftlm.engines import check_launch
    from graftlm.errors import ReportError
    from graftlm.inputs import check_inputs

    search = compose_search(words)
    jobs = search.corners if search else compose_jobs(words)
    check_launch(jobs, words.multirun)
    check_inputs(jobs, to_run=True)
    overrides = ["--multirun", *sweep_overrides(words)] if words.multirun else list(words.overrides)
    if search:
        overrides.append(f"search.study={open_study(search)}")
    swept = jobs[0].settings if words.multirun else None
    with sweep.under_way():
        outcomes, folders = sweep.hand_over(
            [*flags, *overrides], None if search else len(jobs), command, swept, _planned(jobs) if swept else ()
        )
        for folder in folders:
            if search:
                ended_well = end_search(folder)
                track_report(folder, jobs[0].settings.logger, progress_for_terminal().say)
                if not ended_well:
                    return 1
                continue
            try:
                make_report([folder], folder)
            except ReportError as error:  # no job came to an end: what became of each was told
                tell(f"no report: {error}")
                continue
            track_report(folder, jobs[0].settings.logger, progress_for_terminal().say)
    return 0 if all(outcome.status in ENDED_WELL for outcome in outcomes) else 1


def _planned(jobs: Sequence[Job]) -> list[str]:
    """Keys of all that jobs are going to use, as far as they can be told beforehand."""
    from graftlm.errors import GraftlmError
    from graftlm.plan import Fingerprints, stage_keys

    fingerprints, found = Fingerprints(), set()
    for job in jobs:
        with suppress(GraftlmError):  # told when the job begins
            found |= {key.key for key in stage_keys(job.settings, fingerprints)}
    return sorted(found)


def open_study(search: Search) -> str:
    """The name of a search's study, which is made where it is missing; says what it holds."""
    from graftlm.console import progress_for_terminal
    from graftlm.search.study import Study

    study = Study.prepare(search)
    counts = ", ".join(f"{count} {state}" for state, count in study.counts().items())
    progress_for_terminal().say(f"study {study.name}: {counts or 'new'}; {study.settings.trials} trials in all")
    return study.name


def end_search(folder: Path) -> bool:
    """The report of a search and what it found; whether all its jobs came to an end and any gave a value."""
    from graftlm.commands.report import make_report
    from graftlm.errors import ReportError
    from graftlm.search.summary import read_summary, tell_summary

    try:
        make_report([folder], folder)
    except ReportError as error:  # no trial left a record, or those of earlier sweeps were removed
        tell(f"no report: {error}")
    found = read_summary(folder)
    for line in tell_summary(found):
        tell(line)
    return bool(found["best"]) and not found["unended"]
