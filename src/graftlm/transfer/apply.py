"""Applying a strategy: its steps in order, the fidelity before and after, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.console import Progress, Silent
from graftlm.errors import Problem, TransferError
from graftlm.schema import TransferSettings
from graftlm.transfer.anatomy import DONOR_BIAS, DONOR_HEAD
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.judgement import nothing_transplanted
from graftlm.transfer.spent import Spent
from graftlm.transfer.strategy import build_steps, check_compatible, check_steps, unfit_for_random

if TYPE_CHECKING:
    from graftlm.transfer.graft import Texts
    from graftlm.transfer.report import Ledger, StepRecord, TransferReport
    from graftlm.transfer.vocabulary import Vocabulary


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
    *,
    languages: Sequence[str] = (),
    held_out_languages: Sequence[str] = (),
    fresh: Collection[str] = (),
    base: Any = None,
    adapter: Any = None,
    device: str = "cpu",
    precision: str = "32-true",
    scratch: Path | None = None,
) -> TransferReport:
    """Apply a strategy to `host` in place and report what was done. Leaves all global random states as they were.

    Args:
        strategy: the steps.
        donor: `XLMRobertaForMaskedLM`, or None for a strategy of which no step reads it.
        host: `MBartForConditionalGeneration`, or `BartForConditionalGeneration` (post-LN).
        donor_tokenizer, host_tokenizer: the tokenizers of both (the donor's may be None without steps).
        calibration: texts to fit on, donor ids without special tokens.
        held_out: texts to measure on, likewise.
        host_pretrained: whether the host came from a checkpoint (its untouched tensors are `kept`).
        fresh: names of the donor's tensors that its checkpoint lacks.
        languages, adapter, device, precision, scratch: see `Graft`.
        held_out_languages: of the held-out texts, as `languages` of the calibration.
        base: the donor before the pretrain stage, as a model or as its `Weights`.

    Raises:
        TransferError: if donor and host do not fit, or the encoder that was carried over does not work as the donor's.
    """
    import torch

    from graftlm.transfer.report import Ledger
    from graftlm.transfer.weights import ModelWeights, Weights

    progress = progress or Silent()
    begun = time.perf_counter()
    steps = checked_steps(strategy, donor.config if donor is not None else None, host.config)
    without_base = next((name for name, step in steps if step.needs_base and base is None), None)
    if without_base:
        reason = f"{without_base} needs the donor as it was before pretraining"
        raise TransferError.at("transfer", strategy.name, reason, "name model.donor.checkpoint")
    if not host_pretrained and (unfit := unfit_for_random(steps)):
        raise TransferError.at("transfer", strategy.name, " ".join(unfit), "name model.host.checkpoint")
    headless = next((index for index, (_, step) in enumerate(steps) if step.needs_head), None)
    if headless is not None and set(fresh) & {DONOR_BIAS, *DONOR_HEAD}:
        reason, remedy = "the donor's checkpoint has no MLM head", "set head=drop, or take a donor with its head"
        raise TransferError.at(f"transfer.steps[{headless}].head", "fold", reason, remedy)
    _check_finite({"model.donor": donor, "model.donor before pretraining": base, "model.host": host})
    ledger = Ledger(ModelWeights(donor) if donor is not None else None, ModelWeights(host), host_pretrained)
    ledger.lacking(fresh)
    records: list[StepRecord] = []
    warnings: list[str] = []
    vocabulary = None
    fidelity = None
    judged = False

    rescaled = any(step.rescales for _, step in steps)

    def judge(fidelity: dict[str, Any] | None, rescaled: bool) -> None:
        """Refuse a graft of the encoder that transplanted nothing; of a control or a mixture it is only told."""
        if not fidelity or not any(step.encodes for _, step in steps):
            return
        warning = nothing_transplanted(strategy, fidelity, rescaled)
        mixes = any(step.mixes for _, step in steps)
        if warning and not strategy.control and not mixes:
            raise TransferError(warning)
        if warning:
            warnings.append(f"{warning.reason} (expected of {'a mixture' if mixes else 'a control'})")
            progress.say(f"transfer={strategy.name}: {warnings[-1]}")

    with torch.random.fork_rng(devices=_devices(host)):
        if donor is not None or steps:
            from graftlm.transfer.vocabulary import align

            vocabulary = align(donor_tokenizer, host_tokenizer)
            held_out = held_out[: strategy.fidelity_texts]

            def measure(label: str) -> dict[str, Any] | None:
                return _measure(donor, host, vocabulary, held_out, held_out_languages, progress, label)

            before = measure("before the graft")
            without: dict[str, Any] | None = None

            def measure_without() -> None:
                nonlocal without
                without = measure("before the layers")

            def judge_carried(rescaled: bool) -> None:
                nonlocal judged
                carried = measure("of what was carried")
                if carried is not None:
                    judged = True
                    judge(_joined(before, carried, without), rescaled)

            graft = Graft.of_models(
                donor,
                host,
                vocabulary,
                ledger,
                calibration=calibration,
                languages=languages,
                base_weights=base if base is None or isinstance(base, Weights) else ModelWeights(base),
                base_model=None if isinstance(base, Weights) else base,
                fresh=frozenset(fresh),
                adapter=adapter,
                donor_tokenizer=donor_tokenizer,
                host_tokenizer=host_tokenizer,
                device=device,
                precision=precision,
                scratch=scratch,
                progress=progress,
            )
            records = run_steps(graft, steps, measure_without, judge_carried)
            begun -= graft.earlier
            after = measure("after the graft") if steps else before
            fidelity = _joined(before, after, without)
    if not judged:
        judge(fidelity, rescaled)
    elif fidelity and not strategy.control:
        moved = nothing_transplanted(strategy, fidelity, rescaled)
        if moved:
            warnings.append(f"with what followed its graft, {moved.reason}")
    if fidelity and rescaled:
        warnings.append("the encoder's output is rescaled on purpose: cosine and relative error say little, CKA counts")
    if steps and fidelity is None:
        lacking = "text to measure on" if donor is not None else "donor to compare with"
        warnings.append(f"fidelity was not measured: there is no {lacking}")
    report = account(strategy, donor, host, ledger, records, vocabulary, fidelity, warnings, begun)
    report.calibration = {"texts": len(calibration), "at_most": strategy.calibration_texts}
    progress.say(report.summary())
    return report


def _check_finite(models: Mapping[str, Any]) -> None:
    """Raises `TransferError` where a model, or the `Weights` of one, holds a tensor with values that are not finite."""
    from graftlm.transfer.weights import ModelWeights, Weights, finite

    for path, model in models.items():
        if model is None:
            continue
        weights = model if isinstance(model, Weights) else ModelWeights(model)
        for name in weights.shapes:
            if not finite(weights.read(name)):
                side, remedy = ("host", "take another") if path == "model.host" else ("donor", "train the donor again")
                raise TransferError.at(path, name, f"holds values of the {side} that are not finite", remedy)


def account(
    strategy: TransferSettings,
    donor: Any,
    host: Any,
    ledger: Ledger,
    records: list[StepRecord],
    vocabulary: Vocabulary | None,
    fidelity: dict[str, Any] | None,
    warnings: list[str],
    begun: float,
) -> TransferReport:
    """The report on a strategy that was applied; of the models only class and shapes are read."""
    from graftlm.transfer.report import TransferReport, describe

    ledger.explain(bool(records))
    return TransferReport(
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
        flops=sum(record.flops for record in records),
    )


def checked_steps(strategy: TransferSettings, donor_config: Any, host_config: Any) -> list[tuple[str, Step]]:
    """The steps of a strategy, which make sense together and fit these two models.

    Raises:
        TransferError: they do not, or there is no donor that a step reads.
    """
    problems: list[Problem] = []
    steps = build_steps(strategy.steps, "transfer.steps", problems)
    if not problems:
        problems.extend(check_steps(strategy.steps, "transfer.steps"))
    if donor_config is None and any(step.reads_donor for _, step in steps):
        problems.append(
            Problem("transfer", strategy.name, "needs a donor", "train one, or name model.donor.checkpoint")
        )
    if not problems and donor_config is not None:
        problems.extend(check_compatible(strategy, donor_config.to_dict(), host_config.to_dict()))
    if problems:
        raise TransferError(problems)
    return steps


def run_steps(
    graft: Graft,
    steps: Sequence[tuple[str, Step]],
    before_layers: Callable[[], None] | None = None,
    after_layers: Callable[[bool], None] | None = None,
) -> list[StepRecord]:
    """Apply the steps in order: what each took, in seconds and in operations of its matrix products.

    `before_layers` is called when all steps in front of the first one that `encodes` are done, if there are any;
    `after_layers` when the last one that does is done, in front of one that rescales the output or trains for something
    else; it is told whether the output has been rescaled by then.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from graftlm.transfer.report import StepRecord, parameters_of

    graft.keep = tuple(pattern for _, step in steps for pattern in step.originals())
    records: list[StepRecord] = []
    spent = [0.0] * len(steps)
    flops = [0] * len(steps)
    # what stands before a step that carries the change of pretraining carries the donor as it was before that
    changes = max((index for index, (_, step) in enumerate(steps) if step.needs_base), default=-1)
    layers = next((index for index, (_, step) in enumerate(steps) if step.encodes), 0)
    carried = max((index for index, (_, step) in enumerate(steps) if step.encodes), default=len(steps))
    judged = next((at for at, (_, step) in enumerate(steps) if at > carried and (step.trains or step.rescales)), 0)
    for phase in ("prepare", "apply"):
        for index, (name, step) in enumerate(steps):
            if before_layers is not None and phase == "apply" and 0 < index == layers:
                before_layers()
            if after_layers is not None and phase == "apply" and 0 < index == judged:
                after_layers(any(earlier.rescales for _, earlier in steps[:index]))
            started = time.perf_counter()
            graft.path, graft.step = f"transfer.steps[{index}]", name
            graft.spent = Spent()
            with nullcontext() if step.trains else FlopCounterMode(display=False) as counter:
                getattr(step, phase)(graft.on_base() if index < changes and not step.needs_base else graft)
            flops[index] += graft.spent.flops + (counter.get_total_flops() if counter is not None else 0)
            spent[index] += time.perf_counter() - started + graft.spent.seconds
            graft.earlier += graft.spent.seconds
    for index, (name, step) in enumerate(steps):
        records.append(StepRecord(name, spent[index], dict(parameters_of(step)), step.reference, flops[index]))
    return records


def _devices(host: Any) -> list[int]:
    device = next(host.parameters()).device
    return [device.index or 0] if device.type == "cuda" else []


def _measure(
    donor: Any,
    host: Any,
    vocabulary: Any,
    texts: Texts,
    languages: Sequence[str],
    progress: Progress,
    label: str,
) -> dict[str, Any] | None:
    from graftlm.transfer.fidelity import compare

    if donor is None or not len(texts):
        return None
    with progress.task(f"fidelity {label}", None):
        return compare(donor, host, vocabulary, texts, languages=languages)


def _joined(
    before: dict[str, Any] | None, after: dict[str, Any] | None, without: dict[str, Any] | None
) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    return {
        "texts": after["texts"],
        "tokens": after["tokens"],
        "before": before["last"],
        "before_layers": without["last"] if without else None,
        "after": after["last"],
        "layers": [
            {"layer": old["layer"], "before": _without_layer(old), "after": _without_layer(new)}
            for old, new in zip(before["layers"], after["layers"], strict=True)
        ],
        "norms": after["norms"],
    }


def _without_layer(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "layer"}
