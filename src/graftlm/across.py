"""Mistakes between the groups of the settings, which no single group can see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graftlm.data.languages import CODES, nearest, to_code
from graftlm.data.settings import constant_codes
from graftlm.errors import Problem

if TYPE_CHECKING:
    from graftlm.schema import Settings


def across(settings: Settings) -> Iterator[Problem]:
    """Every such mistake."""
    model, pretrain, finetune = settings.model, settings.pretrain, settings.finetune
    yield from _across_transfer(settings)
    if model.donor.checkpoint is None:
        if pretrain.max_length > model.donor.max_positions:
            yield Problem(
                "pretrain.max_length",
                pretrain.max_length,
                f"is longer than the donor's {model.donor.max_positions} positions",
                "lower it or raise model.donor.max_positions",
            )
        if settings.transfer.needs_donor and pretrain.max_steps == 0:
            yield Problem(
                "pretrain.max_steps",
                0,
                "a donor built from scratch must be trained",
                "set it, or name model.donor.checkpoint",
            )
    if model.host.checkpoint is None:
        for name in ("max_source_length", "max_target_length"):
            if getattr(finetune, name) > model.host.max_positions:
                yield Problem(
                    f"finetune.{name}",
                    getattr(finetune, name),
                    f"is longer than the host's {model.host.max_positions} positions",
                    "lower it or raise model.host.max_positions",
                )
    for name, stage, longest in (
        ("pretrain", pretrain, pretrain.max_length),
        ("finetune", finetune, max(finetune.max_source_length, finetune.max_target_length)),
    ):
        if stage.batch_tokens < longest:
            yield Problem(
                f"{name}.batch_tokens", stage.batch_tokens, f"does not hold one row of {longest} tokens", "raise it"
            )
    codes = CODES[model.format]
    for path, code in constant_codes(settings.data):
        known = to_code(code)
        if known is not None and known not in codes:
            yield Problem(path, code, f"is no language of model.format={model.format}", nearest(code, codes))


def _across_transfer(settings: Settings) -> Iterator[Problem]:
    """What a strategy demands of the pair and of the pretrain stage."""
    from graftlm.transfer.strategy import any_step, resolved_steps, unfit_for_random

    model, transfer = settings.model, settings.transfer
    name = "name an XLM-R folder or hub name"
    change = any_step(transfer, "needs_base")
    if model.donor.checkpoint is None and change:
        yield Problem(
            "model.donor.checkpoint", "null", f"the step {change} carries what pretraining changed in one", name
        )
    elif model.donor.checkpoint is None and transfer.adapter.rank and transfer.needs_donor:
        path, reason = "transfer.adapter.rank", "adapts a donor of random weights"
        yield Problem(path, transfer.adapter.rank, reason, "set it to 0, or name model.donor.checkpoint")
    if settings.pretrain.max_steps == 0 and (change or (transfer.adapter.rank and transfer.needs_donor)):
        what = f"the step {change} carries what pretraining changed" if change else "an adapter is to be trained"
        yield Problem("pretrain.max_steps", 0, what, "set it")
    if model.host.checkpoint is None and (unfit := unfit_for_random(resolved_steps(transfer))):
        step, reason = unfit
        if step != change or model.donor.checkpoint is not None:  # the donor comes first: a host needs one beside it
            reason = f"the step {step} {reason}"
            yield Problem("model.host.checkpoint", "null", reason, "name an mBART folder or hub name")
