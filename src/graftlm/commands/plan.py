"""`graftlm plan`: what a run or sweep would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftlm.commands.words import parse_words, run_help
from graftlm.console import tell

if TYPE_CHECKING:
    from graftlm.job import Job
    from graftlm.plan import PlannedStage

STATES = ("reuse", "resume", "run", "waiting")
ABOUT = "what a run or sweep would do: which stages run, which are reused, and about how long it takes"
MORE = """
what the states mean:
  reuse     it is in the store
  resume    an earlier run was interrupted in it, and is continued from its last checkpoint
  run       nothing of it is there
  waiting   an earlier job of the same sweep makes it

A time is an estimate from like stages in the store (other seeds, rates or mask ratios; scaled where only max_steps
differs), as they were measured when they were made. A stage to resume is counted whole."""


def run(arguments: Sequence[str]) -> int:
    if any(item in ("-h", "--help") for item in arguments):
        print(run_help("plan", ABOUT) + "\n" + MORE)
        return 0
    from graftlm.compose import compose_jobs, compose_search
    from graftlm.inputs import check_inputs
    from graftlm.plan import VERSIONS, plan

    words = parse_words(arguments)
    search = compose_search(words)
    jobs = search.corners if search else compose_jobs(words)
    check_inputs(jobs, to_run=False)
    if search:
        from graftlm.search.plan import plan_search

        for line in plan_search(search):
            tell(line)
        return 0
    planned = plan(jobs)
    counts: Counter[str] = Counter(stage.state for stages in planned for stage in stages)
    costs = _costs(jobs, planned) if counts["run"] or counts["resume"] else {}
    names = list(VERSIONS)
    table = [["job", *names]]
    shared = _shared(jobs)
    if shared:
        tell("all jobs: " + " ".join(shared))
    for job, stages in zip(jobs, planned, strict=True):
        cells = {stage.key.stage: _cell(stage, costs) for stage in stages}
        own = " ".join(word for word in job.overrides if word not in shared)
        table.append([own or "-", *(cells.get(name, "-") for name in names)])
    widths = [max(len(row[column]) for row in table) for column in range(len(names) + 1)]
    for row in table:
        tell("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    tell("stages: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    if costs:
        tell(_total(costs, planned))
    return 0


Costs = dict[str, float | None]  # by key: seconds, or None where nothing tells


def _costs(jobs: Sequence[Job], planned: Sequence[Sequence[PlannedStage]]) -> Costs:
    """What each stage that is to run will take, by key."""
    from graftlm.estimate import Costs as Known

    stores: dict[str, Known] = {}
    found: Costs = {}
    for job, stages in zip(jobs, planned, strict=True):
        folder = job.settings.store.dir
        known = stores.setdefault(folder, Known(Path(folder).expanduser()))
        for stage in stages:
            if stage.state in ("run", "resume"):
                estimate = known.estimate(stage, stages)
                found[stage.key.key] = None if estimate is None else estimate.seconds
    return found


def _shared(jobs: Sequence[Job]) -> list[str]:
    """The overrides that all of several jobs have: a row is to say what sets it apart."""
    if len(jobs) < 2:
        return []
    return [word for word in jobs[0].overrides if all(word in job.overrides for job in jobs)]


def _cell(stage: PlannedStage, costs: Costs) -> str:
    from graftlm.estimate import duration

    text = f"{stage.state} {stage.key.key[:8]}"
    seconds = costs.get(stage.key.key) if stage.state in ("run", "resume") else None
    return text if seconds is None else f"{text} ~{duration(seconds)}"


def _total(costs: Costs, planned: Sequence[Sequence[PlannedStage]]) -> str:
    """The sum over what is to run, a stage at a time, and what it leaves out."""
    from graftlm.estimate import duration

    stage_of = {stage.key.key: stage.key.stage for stages in planned for stage in stages}
    known: dict[str, list[float]] = {}
    unknown: Counter[str] = Counter()
    for key, seconds in costs.items():
        if seconds is None:
            unknown[stage_of[key]] += 1
        else:
            known.setdefault(stage_of[key], []).append(seconds)
    left = ", ".join(f"{count} {stage}" for stage, count in unknown.items())
    if not known:
        return f"time: not known: no like stage in the store tells what these cost ({left})"
    parts = ", ".join(f"{len(some)} {stage} ~{duration(sum(some))}" for stage, some in known.items())
    total = duration(sum(sum(some) for some in known.values()))
    least = "at least " if left else ""
    line = f"time: {least}~{total} one after the other, as like stages in the store took ({parts})"
    return line + (f"; not counted, since no like stage has run: {left}" if left else "")
