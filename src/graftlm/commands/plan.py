"""`graftlm plan`: what a run or sweep would do."""

from __future__ import annotations

from collections.abc import Sequence

from graftlm.commands.words import parse_words, run_help

ABOUT = "what a run or sweep would do: which stages run, which are reused"


def run(arguments: Sequence[str]) -> int:
    if any(item in ("-h", "--help") for item in arguments):
        print(run_help("plan", ABOUT))
        return 0
    from graftlm.compose import compose_jobs, compose_search
    from graftlm.plan import VERSIONS, check_inputs, plan

    words = parse_words(arguments)
    search = compose_search(words)
    jobs = search.corners if search else compose_jobs(words)
    check_inputs(jobs, to_run=False)
    if search:
        from graftlm.search.plan import plan_search

        for line in plan_search(search):
            print(line)
        return 0
    planned = plan(jobs)
    width = max([3, *(len(" ".join(job.overrides)) for job in jobs)])
    names = list(VERSIONS)
    print(f"{'job':<{width}}  " + "  ".join(f"{name:<16}" for name in names).rstrip())
    counts: dict[str, int] = {}
    for job, stages in zip(jobs, planned, strict=True):
        cells = {stage.key.stage: f"{stage.state} {stage.key.key[:8]}" for stage in stages}
        print(
            f"{' '.join(job.overrides) or '-':<{width}}  "
            + "  ".join(f"{cells.get(name, '-'):<16}" for name in names).rstrip()
        )
        for stage in stages:
            counts[stage.state] = counts.get(stage.state, 0) + 1
    print(
        "stages: "
        + ", ".join(f"{counts[state]} {state}" for state in ("reuse", "resume", "run", "waiting") if state in counts)
    )
    return 0
