"""`debug=profile`: where the time of a training step goes, as a table by part of the model and as a trace.

torch's profiler records each operation; hooks mark which part of the model called it. The backward pass is assigned by
autograd's own numbers: an operation there knows the forward operation whose gradient it computes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from graftlm.console import Progress
from graftlm.models.loss import unwrapped
from graftlm.stages.modes import layers

FOLDER = "profile"  # of the artifact: table.txt, trace.json
PARTS = ("embeddings", "attention", "ffn", "head + loss", "optimizer", "loop")
_MARK = "graftlm: "
_WARM = 2  # steps before: first allocations, code that is made at its first use
_ATTENTION = re.compile(r"(^|\.)(attention|self_attn|encoder_attn|self_attn_layer_norm|encoder_attn_layer_norm)$")
_EMBEDDINGS = re.compile(r"(^|\.)(embeddings|shared|embed_tokens|embed_positions|layernorm_embedding)$")
_HEAD = re.compile(r"(^|\.)lm_head$|(^|\.)lm_head\.(dense|layer_norm|decoder)$")
# operations that are called from no module
_BY_NAME = (
    (re.compile(r"^(autograd::engine::evaluate_function: )?_Blocked"), "head + loss"),
    (re.compile(r"^(autograd::engine::evaluate_function: )?_Lookup"), "embeddings"),
    (re.compile(r"^aten::_(fused|foreach)_|^aten::(linalg_vector_norm|_amp_)"), "optimizer"),
)


class ProfileSteps(Callback):
    """Profiles `steps` steps after the first ones, writes both files into `folder`, and says the table."""

    def __init__(self, steps: int, folder: Path, progress: Progress, label: str):
        self._steps, self._folder, self._progress, self._label = steps, folder, progress, label
        self._profiler: Any = None
        self._hooks: list[Any] = []
        self._seen = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self._seen == _WARM:
            self._hooks = mark(unwrapped(pl_module.model))
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(activities=activities)
            self._profiler.__enter__()
        self._seen += 1

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self._profiler is not None and self._seen == _WARM + self._steps:
            self._finish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._profiler is None:
            return
        self._profiler.__exit__(None, None, None)
        for hook in self._hooks:
            hook.remove()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(self._folder / "trace.json"))
        steps = self._seen - _WARM
        lines = table(by_part(self._profiler.events()), steps)
        (self._folder / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        trace = str(self._folder / "trace.json").replace(".partial", "")  # where it is when the stage is done
        self._progress.say(f"{self._label}: {steps} steps profiled; the trace will be {trace}")
        for line in lines:
            self._progress.say(line)
        self._profiler, self._seen = None, 10**9


def mark(model: Any) -> list[Any]:
    """Hooks that name the part of the model during its forward pass; a part inside another has its own name."""
    hooks: list[Any] = []

    def name(module: nn.Module, part: str) -> None:
        open_: list[Any] = []

        def before(module: nn.Module, *rest: Any) -> None:
            open_.append(record_function(_MARK + part))
            open_[-1].__enter__()

        def after(module: nn.Module, *rest: Any) -> None:
            open_.pop().__exit__(None, None, None)

        hooks.append(module.register_forward_pre_hook(before))
        hooks.append(module.register_forward_hook(after, always_call=True))

    for layer in layers(model):
        name(layer, "ffn")  # what is left of it: the two maps, their LayerNorm, the residual sums
    for path, module in model.named_modules():
        for pattern, part in ((_ATTENTION, "attention"), (_EMBEDDINGS, "embeddings"), (_HEAD, "head + loss")):
            if pattern.search(path):
                name(module, part)
    return hooks


def by_part(events: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """Milliseconds forward and backward of each part, from the profiler's events; what is in no part is the loop's.

    An operation's time is that without the operations it called.
    """
    events = [event for event in events if event.device_type == DeviceType.CPU]
    numbers: dict[int, str] = {}  # of autograd, by the part that called the forward operation
    for event in events:
        if event.scope != 1 and event.sequence_nr >= 0 and (part := _marked(event)):
            numbers[event.sequence_nr] = part
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        part, backward = _part(event, numbers)
        spent[part][backward] += event.self_cpu_time_total / 1000
    return {part: (spent[part][0], spent[part][1]) for part in PARTS}


def table(parts: Mapping[str, tuple[float, float]], steps: int) -> list[str]:
    """Lines: each part with its milliseconds a step, forward and backward, and its share of all."""
    total = sum(map(sum, parts.values())) or 1.0
    lines = [f"{'part':<14}{'forward':>12}{'backward':>12}{'ms a step':>12}{'share':>9}"]
    for part, (forward, backward) in parts.items():
        both = forward + backward
        cells = (forward / steps, backward / steps, both / steps)
        lines.append(f"{part:<14}" + "".join(f"{cell:>12.2f}" for cell in cells) + f"{both / total:>9.1%}")
    return [*lines, f"{'all':<14}{'':>24}{total / steps:>12.2f}"]


def _marked(event: Any) -> str | None:
    """The part that the nearest mark around an event names."""
    while event is not None:
        if event.name.startswith(_MARK):
            return str(event.name.removeprefix(_MARK))
        event = event.cpu_parent
    return None


def _part(event: Any, numbers: Mapping[int, str]) -> tuple[str, bool]:
    """The part of an event, and whether it belongs to the backward pass."""
    backward, found = False, None
    while event is not None:
        named = next((part for pattern, part in _BY_NAME if pattern.search(event.name)), None)
        mine = event.name.removeprefix(_MARK) if event.name.startswith(_MARK) else named
        found = found or mine
        if event.scope == 1 or event.name.startswith("autograd::engine"):
            backward = True
            found = found or numbers.get(event.sequence_nr)
        event = event.cpu_parent
    return found or "loop", backward
