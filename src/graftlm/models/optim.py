"""The optimiser: groups of parameters by part of the model, their own rates, and what is frozen until when.

The graft survives only where fine-tuning lets it: at the decoder's rate a grafted encoder is destroyed within the
first steps (docs/transfer.md). So each part has a factor on the rate and a step from which it is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from graftlm.schema import OptimSettings, TransferSettings

_ENCODER = re.compile(r"(^|\.)encoder\.")
_EMBEDDINGS = re.compile(r"(^|\.)(shared|embed_tokens|encoder\.embed_positions)\.")


@dataclass
class Part:
    """Some parameters, the factor on their learning rate, and the step from which they are trained (None: never)."""

    name: str
    parameters: list[tuple[str, nn.Parameter]]
    factor: float = 1.0
    start: int | None = 0

    def is_trained(self, step: int) -> bool:
        return self.start is not None and step >= self.start


def whole(model: nn.Module) -> list[Part]:
    """One part: all that can be trained."""
    return [Part("all", [item for item in model.named_parameters() if item[1].requires_grad])]


def host_parts(model: nn.Module, transfer: TransferSettings, max_steps: int) -> list[Part]:
    """The parts of an mBART: embeddings (shared ones, encoder positions), encoder, and the rest (the decoder).

    A parameter that does not require a gradient now (under an adapter) is in none of them.
    """
    found: dict[str, list[tuple[str, nn.Parameter]]] = {"rest": [], "encoder": [], "embeddings": []}
    for name, parameter in model.named_parameters():  # a tied one is met once, as `shared`
        if not parameter.requires_grad:
            continue
        part = "embeddings" if _EMBEDDINGS.search(name) else "encoder" if _ENCODER.search(name) else "rest"
        found[part].append((name, parameter))

    def start(share: float, factor: float) -> int | None:
        return None if share >= 1 or factor == 0 else round(share * max_steps)

    parts = [
        Part("rest", found["rest"]),
        Part("encoder", found["encoder"], transfer.encoder_lr, start(transfer.freeze_encoder, transfer.encoder_lr)),
        Part(
            "embeddings",
            found["embeddings"],
            transfer.embeddings_lr,
            start(transfer.freeze_embeddings, transfer.embeddings_lr),
        ),
    ]
    return [part for part in parts if part.parameters]


def freeze(parts: Iterable[Part], step: int) -> None:
    """Lets exactly those parts require a gradient that are trained at this step; right after a resume as well."""
    for part in parts:
        wanted = part.is_trained(step)
        for _, parameter in part.parameters:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
                if not wanted:
                    parameter.grad = None


def factor_at(step: int, start: int | None, settings: OptimSettings) -> float:
    """The share of a part's full rate at a step: 0 before `start`, a warm-up from there, then the schedule.

    The decay follows the step of the whole run, so a part that joins late is as far down as the others.
    """
    if start is None or step < start:
        return 0.0
    warmup = round(settings.warmup * settings.max_steps)
    rise = min(1.0, (step - start + 1) / (warmup + 1)) if warmup else 1.0
    left = min(max((settings.max_steps - step) / max(settings.max_steps - warmup, 1), 0.0), 1.0)
    if settings.schedule == "constant":
        return rise
    return rise * (left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def build_optimizer(parts: Sequence[Part], settings: OptimSettings, fused: bool = True) -> dict[str, Any]:
    """What `configure_optimizers` returns: AdamW (Loshchilov 2019) and a schedule by step.

    No weight decay on biases and LayerNorms (vectors). Each group names its part in `group["part"]`.
    """
    groups: list[dict[str, Any]] = []
    starts: list[int | None] = []
    for part in parts:
        for decay, some in _by_decay(part, settings.weight_decay):
            groups.append({"params": some, "lr": settings.lr * part.factor, "weight_decay": decay, "part": part.name})
            starts.append(part.start)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-6, fused=fused)
    shapes: list[Callable[[int], float]] = [partial(factor_at, start=start, settings=settings) for start in starts]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shapes)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1}}


def _by_decay(part: Part, weight_decay: float) -> Iterator[tuple[float, list[nn.Parameter]]]:
    matrices = [parameter for _, parameter in part.parameters if parameter.ndim > 1]
    vectors = [parameter for _, parameter in part.parameters if parameter.ndim <= 1]
    if matrices:
        yield weight_decay, matrices
    if vectors:
        yield 0.0, vectors
