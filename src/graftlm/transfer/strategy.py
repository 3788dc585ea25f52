"""A strategy is a list of steps: finding and checking them, without torch. `graftlm.transfer.apply` runs them.

A step is a module of `graftlm.transfer.steps` that defines `STEP`, a frozen dataclass derived from `Step`. A new step
needs that one file; a strategy names it in its YAML by the name of the module.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from graftlm.errors import Problem
from graftlm.fields import build
from graftlm.schema import TransferSettings
from graftlm.transfer.anatomy import HOST_WORDS
from graftlm.transfer.graft import Step


def step_names() -> list[str]:
    """Names of all steps there are."""
    from graftlm.transfer import steps

    return sorted(module.name for module in pkgutil.iter_modules(steps.__path__) if not module.name.startswith("_"))


def step_class(name: str) -> type[Step]:
    """The class of a step, by its module's name."""
    found: type[Step] = importlib.import_module(f"graftlm.transfer.steps.{name}").STEP
    return found


def build_steps(steps: Sequence[Mapping[str, Any]], path: str, problems: list[Problem]) -> list[tuple[str, Step]]:
    """The steps of a strategy with their names; what is wrong with them is added to `problems`."""
    built: list[tuple[str, Step]] = []
    known = step_names()
    for index, item in enumerate(steps):
        where = f"{path}[{index}]"
        if not isinstance(item, Mapping):
            problems.append(Problem(where, item, "must be a mapping", "for example {step: embeddings}"))
            continue
        name = item.get("step")
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else "known are " + ", ".join(known)
            problems.append(Problem(f"{where}.step", name, "is no step of a graft", hint))
            continue
        parameters = {key: value for key, value in item.items() if key != "step"}
        step = build(step_class(name), parameters, where, problems)
        if step is not None:
            built.append((name, step))
    return built


def check_steps(steps: Sequence[Mapping[str, Any]], path: str) -> Iterator[Problem]:
    """What is wrong with a strategy's steps: unknown names and parameters, order, two writers of one tensor."""
    problems: list[Problem] = []
    built = build_steps(steps, path, problems)
    yield from problems
    if problems:
        return
    for index, (name, step) in enumerate(built):
        where = f"{path}[{index}].step"
        before = [other for other, _ in built[:index]]
        if name in before:
            yield Problem(where, name, "stands twice", "leave one of the two out")
        carrying = next((other for other, earlier in built[:index] if earlier.needs_base), None)
        if step.needs_base and carrying is not None and carrying != name:
            yield Problem(where, name, f"carries the change that {carrying} carries too", "leave one of the two out")
        later = [other for other, _ in built[index + 1 :]]
        for needed in step.needs:
            if needed not in before:
                yield Problem(where, name, f"needs {needed} before it", f"put {{step: {needed}}} in front")
        for other in step.after:
            if other in later:
                yield Problem(where, name, f"must come after {other}", f"put {{step: {name}}} behind it")
        wanted = step.builds_on()
        changed = [pattern for _, earlier in built[:index] for pattern in (*earlier.writes(), *earlier.refines())]
        if wanted and not _overlap(wanted, changed):
            yield Problem(where, name, f"needs a step before it that writes {wanted[0]}", "put it behind the graft")
        yield from step.check_behind(built[:index], f"{path}[{index}]")
        for other, earlier in built[:index]:
            shared = _overlap(step.writes(), earlier.writes())
            if shared:
                yield Problem(where, name, f"writes {shared}, which {other} writes too", "leave one of the two out")
            undone = "" if shared else _overlap(step.writes(), earlier.refines())
            if undone:
                yield Problem(where, name, f"writes {undone}, which {other} has refined", f"put {other} behind it")


def _overlap(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """A name that patterns of both sides match, or an empty string."""
    for one in ours:
        for other in theirs:
            if fnmatchcase(one.replace("*", "0"), other) or fnmatchcase(other.replace("*", "0"), one):
                return one if "*" not in one else other
    return ""


def resolved_steps(settings: TransferSettings) -> list[tuple[str, Step]]:
    """The steps of a valid strategy with all their parameters."""
    return build_steps(settings.steps, "transfer.steps", [])


def any_step(settings: TransferSettings, quality: str) -> str:
    """The first step of a valid strategy of which a class attribute (`needs_base`, …) holds, or an empty string."""
    return next((item["step"] for item in settings.steps if getattr(step_class(item["step"]), quality)), "")


def unfit_for_random(steps: Sequence[tuple[str, Step]]) -> tuple[str, str] | None:
    """Why a strategy makes no sense on a host of random weights: the first step that does not, and the reason.

    That is one with `needs_pretrained`, or one that copies, or adds a change to, tensors that no step before it has
    written.
    """
    for index, (name, step) in enumerate(steps):
        if step.needs_pretrained:
            return name, "needs a pretrained host"
        before = [pattern for _, earlier in steps[:index] for pattern in (*earlier.writes(), *earlier.refines())]
        # the words are one tensor of several names in a host that ties them
        changed = [HOST_WORDS if pattern in HOST_WORDS else (pattern,) for pattern in step.refines()]
        if step.needs_base and not all(_overlap(names, before) for names in changed):
            return name, "needs a pretrained host, or a step before it that carries what it changes"
        if step.reads() and not _overlap(step.reads(), before):
            return name, "needs a pretrained host, or a step before it that writes what it copies"
    return None


def check_compatible(
    settings: TransferSettings, donor: Mapping[str, Any], host: Mapping[str, Any], path: str = "transfer"
) -> list[Problem]:
    """Why a strategy cannot carry this donor into this host, from their configurations (`config.to_dict()` or JSON)."""
    problems: list[Problem] = []
    calibrated = False
    for index, (name, step) in enumerate(build_steps(settings.steps, f"{path}.steps", problems)):
        where = f"{path}.steps[{index}]"
        problems.extend(step.check_shapes(donor, host, where))
        calibrated = calibrated or name == "encoder"
        if step.needs_base and calibrated and donor["num_hidden_layers"] != host["encoder_layers"]:
            # the encoder step has its own choice of layers, and extra ones are to add nothing
            reason = f"goes behind encoder only where donor and host have as many layers ({donor['num_hidden_layers']})"
            problems.append(Problem(f"{where}.step", name, reason, "set model.host.encoder_layers=null"))
    # two steps that need the same setting say so once
    return list({problem.path: problem for problem in reversed(problems)}.values())[::-1]
