"""What a search would do, in lines: its space, what its study holds, and which stages its trials share."""

from __future__ import annotations

from collections.abc import Iterator

from graftlm.plan import VERSIONS, plan
from graftlm.search.settings import OBJECTIVES
from graftlm.search.space import Search


def plan_search(search: Search) -> Iterator[str]:
    settings = search.settings.search
    aims = ", ".join(f"{'low' if OBJECTIVES[name] else 'high'} {name}" for name in settings.objectives)
    yield f"search: {settings.trials} trials by {settings.sampler} (seed {settings.seed}) for {aims}"
    width = max(len(item.key) for item in search.space)
    for item in search.space:
        yield f"  {item.key:<{width}}  {item.describe()}"
    pruner = settings.pruner
    if settings.prunes:
        steps = search.settings.finetune.max_steps
        first = max(1, round(pruner.after * steps))
        yield f"pruning: {pruner.kind}, from step {first} of {steps} of the fine-tuning on"
    else:
        yield "pruning: none; every trial is trained to its end"
    yield _study(search)
    yield "stages, from trials at the corners of the space:"
    planned = plan(search.corners)
    for name in VERSIONS:
        stages = [stage for job in planned for stage in job if stage.key.stage == name]
        keys: dict[str, str] = {}
        for stage in stages:
            keys.setdefault(stage.key.key, stage.state)  # the first makes it, the others wait for that
        if not keys:
            continue
        (key, state), *others = keys.items()
        said = "differs from trial to trial" if others else f"one for all trials: {state} {key[:8]}"
        some = "" if len(stages) == len(planned) else ", not in all trials"
        yield f"  {name:<8}  {said}{some}"


def _study(search: Search) -> str:
    from graftlm.search.study import Study

    study = Study.peek(search)
    if study is None:
        return "study: new"
    counts = study.counts()
    held = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trial yet"
    left = max(0, search.settings.search.trials - sum(counts.values()) + counts.get("again", 0))
    return f"study: {study.name} holds {held}; {left} to go"
