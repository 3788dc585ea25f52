"""What Lightning's loop, with all that the stages hang on it, adds to a bare loop over the same steps."""

from __future__ import annotations

import time

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _mlm
from benchmarks.speed.cases._loops import Clock

# the shape of model=small
SHAPE = _mlm.Shape(16_000, 6, 384, 8, 128)
_WARM = 3


def _steps(run: Run) -> int:
    return _WARM + (10 if run.quick else 15)


def bare(run: Run) -> dict[str, float]:
    """The same layers, loss, clipping, optimiser and schedule, and nothing else."""
    import torch

    from graftlm.models.loss import mlm_loss
    from graftlm.models.optim import build_optimizer, clip_in_step, end_step, whole
    from graftlm.running import TrainerSettings
    from graftlm.schema import PretrainSettings
    from graftlm.stages.memory import kept_heap
    from graftlm.stages.modes import modes

    steps = _steps(run)
    model = SHAPE.model().train()
    made = build_optimizer(whole(model), PretrainSettings(max_steps=steps, lr=1e-4, warmup=0.0))
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    batches = [_mlm.our_batch(SHAPE, number) for number in range(steps)]
    precision = _mlm.mixed()
    begun = 0.0
    with kept_heap(), modes(model, TrainerSettings(accelerator="cpu")):
        for number, batch in enumerate(batches):
            if number == _WARM:
                begun = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true", cache_enabled=False):
                loss = mlm_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_in_step(optimizer, 1.0)
            optimizer.step()
            end_step(optimizer)
            scheduler.step()
        ended = time.perf_counter()
    return {"seconds": (ended - begun) / (steps - _WARM), "loss": float(loss.detach())}


def ours(run: Run) -> dict[str, float]:
    from graftlm.models.mlm import MlmModule
    from graftlm.schema import MaskSettings, PretrainSettings

    steps = _steps(run)
    settings = PretrainSettings(max_steps=steps, lr=1e-4, warmup=0.0, val_interval=10**6, checkpoint_interval=10**6)
    clock = Clock()
    module = MlmModule(SHAPE.model(), settings, MaskSettings())
    batches = [_mlm.our_batch(SHAPE, number) for number in range(steps)]
    _mlm.fit_mlm(module, settings, batches, _mlm.mixed(), [clock.of_lightning()])
    return {"seconds": clock.seconds(_WARM) / (steps - _WARM)}


CASE = Case(
    sides={"bare": bare, "ours": ours},
    rows=[Row("Lightning's loop over a bare loop, model=small, 8×128", peer="bare", ratio="share", goal=1.03)],
    seconds=200,
)
