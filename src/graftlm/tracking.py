"""Where metrics go: JSON Lines in the artifact, always, and W&B where it is wanted.

The JSON Lines are what everything of ours reads. A sink that fails is named once and left alone: it never stops a run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from graftlm.console import Progress

if TYPE_CHECKING:
    from graftlm.jobs import StageContext

METRICS = "metrics.jsonl"
_PATIENCE = 30.0  # seconds for the server to answer at the start of a run
_unreachable: list[str] = []  # why, once this process has met it
_STEP = "trainer/global_step"  # the axis of all curves, by the name that Lightning users know


class Sink(Protocol):
    """A tracker of metrics besides the JSON Lines."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...

    def summary(self, values: Mapping[str, Any]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


class Tracker:
    """Metrics of one stage. `counters` tells examples and tokens seen, which go with every line.

    `writes`: False in a process that only computes, beside the one that tells.
    """

    def __init__(self, folder: Path, sinks: Sequence[Sink], progress: Progress, writes: bool = True):
        self._path = folder / METRICS
        self._writes = writes
        self._sinks = list(sinks)
        self._progress = progress
        self._lines = 0

    @property
    def lines(self) -> int:
        """Lines written so far, those before a resume among them."""
        return self._lines

    def rewind(self, lines: int) -> None:
        """Keep the first lines, which the last checkpoint knows, of what a killed run has left."""
        if not self._writes:
            return
        kept = read_metrics(self._path)[:lines] if lines and self._path.exists() else []
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self._path)
        self._lines = len(kept)

    def sync(self) -> None:
        """Have what is written on the disk: a checkpoint must not outlive the lines that belong to it."""
        if self._path.exists():
            with self._path.open("rb") as handle:
                os.fsync(handle.fileno())

    def log(self, metrics: Mapping[str, float], step: int, counters: Mapping[str, float]) -> None:
        """One line: the step (optimiser steps done), the counters and the metrics. A NaN is written as null."""
        if not self._writes:
            return
        clean = {name: float(value) for name, value in metrics.items()}
        line = {"step": step, **counters, **{n: v if math.isfinite(v) else None for n, v in clean.items()}}
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        self._lines += 1
        self._each(lambda sink: sink.log({**counters, **clean}, step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of samples, for the sinks that show tables."""
        self._each(lambda sink: sink.table(name, columns, rows))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final figures of the stage."""
        self._each(lambda sink: sink.summary(values))

    def finish(self, exit_code: int) -> None:
        """Close the sinks."""
        self._each(lambda sink: sink.finish(exit_code))
        self._sinks.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:
                self._sinks.remove(sink)
                name = type(sink).__name__.removesuffix("Sink")
                self._progress.say(f"{name}: failed and is left out from here on ({_short(error)}); the run goes on")


class WandbSink:
    """A W&B run: group = sweep, job type = stage, tags = the choices."""

    def __init__(self, context: StageContext, mode: Literal["online", "offline"]):
        import wandb

        settings = context.settings
        logger, labels = settings.logger, context.labels
        seeds = {"pretrain_seed": settings.pretrain.seed, "finetune_seed": settings.finetune.seed}
        stage = context.work.parent.name
        os.environ.setdefault("WANDB_SILENT", "true")
        Path(logger.dir).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=logger.project,
            entity=logger.entity,
            group=logger.group or labels.sweep,
            job_type=stage,
            name=f"{labels.arm}-{stage}-{settings.finetune.seed}",
            tags=[*(f"{group}={choice}" for group, choice in labels.choices.items()), *logger.tags],
            dir=logger.dir,
            mode=mode,
            config={**_plain(settings), "choices": dict(labels.choices), "job": labels.job, "arm": labels.arm, **seeds},
            reinit="finish_previous",
            settings=wandb.Settings(console="off", init_timeout=_PATIENCE),
        )
        try:
            self._run.define_metric(_STEP)
            self._run.define_metric("*", step_metric=_STEP)
            for name, best in (("val/loss", "min"), ("val/gap", "max"), ("val/chrf", "max"), ("val/accuracy", "max")):
                self._run.define_metric(name, step_metric=_STEP, summary=best)
        except Exception:
            self._run.finish(exit_code=1)
            raise

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, _STEP: step})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def finish(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


@contextlib.contextmanager
def tracker(context: StageContext) -> Iterator[Tracker]:
    """The tracker of a stage; closed with exit code 1 where the stage fails."""
    sinks: list[Sink] = []
    logger = context.settings.logger
    if logger.kind == "wandb" and logger.mode != "disabled" and context.leader:
        sinks += _start_wandb(context)
    opened = Tracker(context.work, sinks, context.progress, writes=context.leader)
    try:
        yield opened
    except BaseException as end:
        pruned = getattr(end, "step", None) if type(end).__name__ == "Pruned" else None
        if pruned is not None:
            opened.summary({"pruned_step": pruned})
        opened.finish(0 if pruned is not None else 1)
        raise
    opened.finish(0)


def _start_wandb(context: StageContext) -> list[Sink]:
    """A W&B run; offline where the server does not answer, and for the rest of this process then."""
    if context.settings.logger.mode == "online" and not _unreachable:
        try:
            return [WandbSink(context, "online")]
        except Exception as error:
            _unreachable.append(_short(error))
            context.progress.say(
                f"W&B: could not start ({_short(error)}); runs are written offline, send them with `wandb sync`"
            )
    try:
        return [WandbSink(context, "offline")]
    except Exception as error:
        context.progress.say(f"W&B: could not start and is left out ({_short(error)}); the run goes on")
        return []


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def validation_losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of the validations that a stage has written down, nan where it was not a number."""
    path = folder / METRICS
    lines = [line for line in read_metrics(path) if "val/loss" in line] if path.is_file() else []
    return [(line["step"], math.nan if line["val/loss"] is None else float(line["val/loss"])) for line in lines]


def _plain(settings: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(settings)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
