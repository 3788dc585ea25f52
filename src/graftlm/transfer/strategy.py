"""A strategy is a list of steps. Finding and checking them needs no torch; applying them does.

A step is a module of `graftlm.transfer.steps` that defines `STEP`, a frozen dataclass derived from `Step`. A new step
needs that one file; a strategy names it in its YAML by the name of the module.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from graftlm.console import Progress, Silent
from graftlm.errors import Problem, TransferError
from graftlm.fields import build
from graftlm.schema import TransferSettings
from graftlm.transfer.graft import Graft, Step

if TYPE_CHECKING:
    from graftlm.transfer.graft import Texts
    from graftlm.transfer.report import TransferReport

# a graft of the encoder must raise one of the two figures by this much without lowering the other, or reach both of
# these (a host that worked like the donor before has nothing to gain)
CLEARLY_BETTER = {"cosine": 0.1, "cka": 0.05}
ALIKE = {"cosine": 0.9, "cka": 0.8}


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
        for needed in step.after:
            if needed not in before:
                yield Problem(where, name, f"needs {needed} before it", f"put {{step: {needed}}} in front")
        for other, earlier in built[:index]:
            shared = _overlap(step.writes, earlier.writes)
            if shared:
                yield Problem(where, name, f"writes {shared}, which {other} writes too", "leave one of the two out")


def _overlap(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """A name that patterns of both sides match, or an empty string."""
    for one in ours:
        for other in theirs:
            if fnmatchcase(one.replace("*", "0"), other) or fnmatchcase(other.replace("*", "0"), one):
                return one if "*" not in one else other
    return ""


def check_compatible(
    settings: TransferSettings, donor: Mapping[str, Any], host: Mapping[str, Any], path: str = "transfer"
) -> list[Problem]:
    """Why a strategy cannot carry this donor into this host, from their configurations (`config.to_dict()` or JSON)."""
    problems: list[Problem] = []
    for index, (_, step) in enumerate(build_steps(settings.steps, f"{path}.steps", problems)):
        problems.extend(step.check_shapes(donor, host, f"{path}.steps[{index}]"))
    # two steps that need the same setting say so once
    return list({problem.path: problem for problem in reversed(problems)}.values())[::-1]


def apply_strategy(
    strategy: TransferSettings,
    donor: Any,
    host: Any,
    donor_tokenizer: Any,
    host_tokenizer: Any,
    calibration: Texts,
    held_out: Texts,
    host_pretrained: bool,
    progress: Progress | None = None,
) -> TransferReport:
    """Apply a strategy to `host` in place and report what was done. Leaves all global random states as they were.

    Args:
        strategy: the steps.
        donor: `XLMRobertaForMaskedLM`, or None for a strategy without steps.
        host: `MBartForConditionalGeneration`.
        donor_tokenizer, host_tokenizer: the tokenizers of both (the donor's may be None without a donor).
        calibration: texts to fit on, donor ids without special tokens.
        held_out: texts to measure on, likewise.
        host_pretrained: whether the host came from a checkpoint (its untouched tensors are `kept`).

    Raises:
        TransferError: if donor and host do not fit, or the encoder that was carried over does not work as the donor's.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from graftlm.transfer.report import Ledger, StepRecord, TransferReport, describe, parameters_of

    progress = progress or Silent()
    begun = time.perf_counter()
    problems: list[Problem] = []
    steps = build_steps(strategy.steps, "transfer.steps", problems)
    if steps and donor is None:
        problems.append(
            Problem("transfer", strategy.name, "needs a donor", "train one, or name model.donor.checkpoint")
        )
    if not problems and donor is not None:
        problems.extend(check_compatible(strategy, donor.config.to_dict(), host.config.to_dict()))
    if problems:
        raise TransferError(problems)

    ledger = Ledger(donor, host, host_pretrained)
    records: list[StepRecord] = []
    warnings: list[str] = []
    vocabulary = None
    fidelity = None
    flops = 0
    with torch.random.fork_rng(devices=_devices(host)):
        if donor is not None:
            from graftlm.transfer.vocabulary import align

            vocabulary = align(donor_tokenizer, host_tokenizer)
            held_out = held_out[: strategy.fidelity_texts]
            before = _measure(donor, host, vocabulary, held_out, progress, "before the graft")
            graft = Graft(donor, host, vocabulary, calibration, ledger, progress)
            for index, (name, step) in enumerate(steps):
                started = time.perf_counter()
                graft.path, graft.step = f"transfer.steps[{index}]", name
                with FlopCounterMode(display=False) as counter:
                    step.apply(graft)
                flops += counter.get_total_flops()
                records.append(StepRecord(name, time.perf_counter() - started, dict(parameters_of(step))))
            after = _measure(donor, host, vocabulary, held_out, progress, "after the graft") if steps else before
            fidelity = _joined(before, after)
    if fidelity and any(step.encodes for _, step in steps):
        warning = _nothing_transplanted(strategy, fidelity)
        if warning and not strategy.control:
            raise TransferError(warning)
        if warning:
            warnings.append(f"{warning.reason} (expected of a control)")
            progress.say(f"transfer={strategy.name}: {warnings[-1]}")
    ledger.explain(bool(steps))
    report = TransferReport(
        strategy=strategy.name,
        control=strategy.control,
        seconds=time.perf_counter() - begun,
        donor=describe(donor) if donor is not None else None,
        host=describe(host),
        vocabulary=vocabulary.as_dict() if vocabulary else None,
        host_tensors=list(ledger.host.values()),
        donor_tensors=list(ledger.donor.values()),
        counts=ledger.counts(),
        fidelity=fidelity,
        steps=records,
        warnings=warnings,
        flops=flops,
    )
    progress.say(report.summary())
    return report


def _devices(host: Any) -> list[int]:
    device = next(host.parameters()).device
    return [device.index or 0] if device.type == "cuda" else []


def _measure(
    donor: Any, host: Any, vocabulary: Any, texts: Texts, progress: Progress, label: str
) -> dict[str, Any] | None:
    from graftlm.transfer.fidelity import compare

    if not len(texts):
        return None
    with progress.task(f"fidelity {label}", None):
        return compare(donor, host, vocabulary, texts)


def _joined(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {
        "texts": after["texts"],
        "tokens": after["tokens"],
        "before": before["last"],
        "after": after["last"],
        "layers": [
            {"layer": old["layer"], "before": _without_layer(old), "after": _without_layer(new)}
            for old, new in zip(before["layers"], after["layers"], strict=True)
        ],
    }


def _without_layer(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "layer"}


def _nothing_transplanted(strategy: TransferSettings, fidelity: Mapping[str, Any]) -> Problem | None:
    """The problem, if the encoder's output is no closer to the donor's than that of the host before the graft."""
    if all((fidelity["after"][name] or 0.0) >= least for name, least in ALIKE.items()):
        return None
    gains = {}
    for name in CLEARLY_BETTER:
        old, new = fidelity["before"][name], fidelity["after"][name]
        if new is None:
            gains[name] = float("-inf")
        else:
            gains[name] = new - (old if old is not None else 0.0)
    if min(gains.values()) >= -0.02 and any(gains[name] >= least for name, least in CLEARLY_BETTER.items()):
        return None
    figures = ", ".join(
        f"{name} {_shown(fidelity['before'][name])} → {_shown(fidelity['after'][name])}" for name in CLEARLY_BETTER
    )
    return Problem(
        "transfer",
        strategy.name,
        f"the encoder works no more like the donor's than before the graft ({figures})",
        "give it more calibration text, train the donor longer, or declare it a control (transfer.control=true)",
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
