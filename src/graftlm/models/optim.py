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
from torch import Tensor, nn

from graftlm.models.blocked_loss import recycle
from graftlm.schema import OptimSettings, TransferSettings

# the first that matches decides
_PARTS = {
    "embeddings": re.compile(r"(^|\.)(shared|embed_tokens|encoder\.embed_positions)\."),
    "encoder": re.compile(r"(^|\.)encoder\."),
    "cross_attention": re.compile(r"(^|\.)decoder\..*\.encoder_attn"),
    "decoder": re.compile(r"(^|\.)decoder\.layers\."),
}
_LAYER = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")


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
    """The parts of a host as the strategy treats them: embeddings (shared ones, encoder positions), encoder (a part a
    layer where their rates differ), cross-attention, decoder layers, and the rest.

    A parameter that does not require a gradient now (under an adapter) is in none of them.
    """
    encoder_lr, freeze_encoder = transfer.encoder_rate()
    treatment = {
        "rest": (1.0, 0.0),
        "cross_attention": (transfer.cross_attention_lr, 0.0),
        "decoder": (transfer.decoder_lr, transfer.freeze_decoder),
        "encoder": (encoder_lr, freeze_encoder),
        "embeddings": (transfer.embeddings_lr, transfer.freeze_embeddings),
    }
    found: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in treatment}
    for name, parameter in model.named_parameters():  # a tied one is met once, as `shared`
        if parameter.requires_grad:
            part = next((part for part, pattern in _PARTS.items() if pattern.search(name)), "rest")
            found[part].append((name, parameter))
    parts: list[Part] = []
    for name, (factor, frozen) in treatment.items():
        start = None if frozen >= 1 or factor == 0 else round(frozen * max_steps)
        if name == "encoder" and transfer.encoder_layer_decay < 1:
            parts += _by_layer(Part(name, found[name], factor, start), transfer.encoder_layer_decay)
        else:
            parts.append(Part(name, found[name], factor, start))
    return [part for part in parts if part.parameters]


def _by_layer(encoder: Part, decay: float) -> Iterator[Part]:
    """A part for each layer, its rate lower the further down it is; what stands in no layer goes with the ends."""
    layers = [int(found[1]) if (found := _LAYER.search(name)) else None for name, _ in encoder.parameters]
    depth = max((layer for layer in layers if layer is not None), default=-1) + 1
    groups: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for item, layer in zip(encoder.parameters, layers, strict=True):
        if layer is None:  # the embeddings' LayerNorm below, the last LayerNorm above
            layer = 0 if "layernorm_embedding" in item[0] else depth - 1
        groups.setdefault(layer, []).append(item)
    for layer in sorted(groups):
        factor = encoder.factor * decay ** (depth - 1 - layer)
        yield Part(f"{encoder.name}.{layer}", groups[layer], factor, encoder.start)


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


def clip_in_step(optimizer: torch.optim.Optimizer, most: float) -> Tensor:
    """Clips the gradients to a norm over all of at most `most`, as `clip_grad_norm_` does, within the next step.

    The norm is read now; the division happens where a fused AdamW reads each gradient anyway, which has a scale for the
    loss scaling of float16. So that one is not to be used beside it. Returns the norm before clipping.
    """
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    norm: Tensor = nn.utils.get_total_norm(gradients)
    optimizer.grad_scale = ((norm.float() + 1e-6) / most).clamp(min=1.0)  # type: ignore[attr-defined]
    return norm


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))


def end_step(optimizer: torch.optim.Optimizer) -> None:
    """Frees the gradients as soon as they are used, not when the next ones come: the activations stand there first."""
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            recycle(parameter)


def _by_decay(part: Part, weight_decay: float) -> Iterator[tuple[float, list[nn.Parameter]]]:
    matrices = [parameter for _, parameter in part.parameters if parameter.ndim > 1]
    vectors = [parameter for _, parameter in part.parameters if parameter.ndim <= 1]
    if matrices:
        yield weight_decay, matrices
    if vectors:
        yield 0.0, vectors
