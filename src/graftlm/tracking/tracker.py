"""What a stage tells its metrics to: the JSON Lines, and a sink for the tracker that `logger=` chooses."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graftlm.console import Progress
from graftlm.errors import first_line
from graftlm.tracking.lines import METRICS, read_metrics
from graftlm.tracking.sink import LateError, Sink

if TYPE_CHECKING:
    from graftlm.context import StageContext
    from graftlm.running import LoggerSettings

T = TypeVar("T")
_unreachable: list[str] = []  # why W&B's server was not reached, once this process has met it


class Tracker:
    """Metrics of one stage. `counters` tells examples, tokens and flops so far, which go with every line.

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
        """A table, for the sinks that show tables."""
        self._each(lambda sink: sink.table(name, columns, rows))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final figures of the stage."""
        self._each(lambda sink: sink.summary(values))

    def done(self) -> None:
        """Tell the sinks that the stage has made all its files."""
        self._each(lambda sink: sink.done())

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
                if isinstance(error, LateError):
                    _unreachable.append(str(error))
                    self._progress.say(f"W&B: {error}")
                    continue
                name = type(sink).__name__.removesuffix("Sink")
                self._progress.say(
                    f"{name}: failed and is left out from here on ({first_line(error)}); the run goes on"
                )


@contextlib.contextmanager
def tracker(context: StageContext) -> Iterator[Tracker]:
    """The tracker of a stage, around all that makes its files; closed with exit code 1 where the stage fails."""
    opened = Tracker(context.work, _sinks(context), context.progress, writes=context.leader)
    try:
        yield opened
    except BaseException as end:
        pruned = getattr(end, "step", None) if type(end).__name__ == "Pruned" else None
        if pruned is not None:
            opened.summary({"pruned_step": pruned})
        opened.finish(0 if pruned is not None else 1)
        raise
    opened.done()
    opened.finish(0)


def _sinks(context: StageContext) -> list[Sink]:
    logger = context.settings.logger
    if not context.leader or logger.kind == "none":
        return []
    if logger.kind == "wandb":
        return _start_wandb(context) if logger.mode != "disabled" else []
    try:
        if logger.kind == "tensorboard":
            from graftlm.tracking.tensorboard import TensorboardSink

            return [TensorboardSink(context)]
        from graftlm.tracking.trackio import TrackioSink

        return [TrackioSink(context)]
    except Exception as error:
        name = {"tensorboard": "TensorBoard"}.get(logger.kind, logger.kind)
        context.progress.say(f"{name}: could not start and is left out ({first_line(error)}); the run goes on")
        return []


def _start_wandb(context: StageContext) -> list[Sink]:
    from graftlm.tracking.wandb import WandbSink

    opened = start_wandb(context.settings.logger, lambda mode: WandbSink(context, mode), context.progress.say)
    return [opened] if opened is not None else []


def start_wandb(logger: LoggerSettings, start: Callable[[Any], T], say: Callable[[str], None]) -> T | None:
    """What `start` opens, online or offline; None, after a line, where neither goes.

    Where the server does not answer it is offline for the rest of this process.
    """
    if logger.mode == "online" and not _unreachable:
        try:
            return start("online")
        except Exception as error:
            _unreachable.append(first_line(error))
            say(
                f"W&B: could not start ({first_line(error)}); runs are written offline, "
                f"send them with `graftlm wandb sync {logger.dir}`"
            )
    try:
        return start("offline")
    except Exception as error:
        say(f"W&B: could not start and is left out ({first_line(error)}); the run goes on")
        return None
