"""Trackio: a run a stage in a local SQLite file (`trackio show` reads it). `graftlm[trackio]` brings the package."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.tracking import cells

if TYPE_CHECKING:
    from graftlm.context import StageContext


class TrackioSink:
    """Metrics by optimiser step; final figures are its last line, as Trackio has no summary."""

    def __init__(self, context: StageContext):
        import dataclasses

        settings, labels = context.settings, context.labels
        place = Path(settings.logger.dir).expanduser().absolute() / "trackio"
        place.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TRACKIO_DIR", str(place))  # read when the package is imported
        import trackio

        self._trackio = trackio
        stage, arm, seed = context.work.parent.name, labels.arm, settings.finetune.seed
        self._step = 0
        with contextlib.redirect_stdout(io.StringIO()):  # standard output is for results
            self._run = trackio.init(
                project=settings.logger.project,
                name="-".join(dict.fromkeys((labels.sweep, labels.job, arm, stage, str(seed)))),
                group=settings.logger.group or labels.sweep,
                config={**dataclasses.asdict(settings), "choices": dict(labels.choices), "arm": arm, "stage": stage},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = step
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import pandas

        frame = pandas.DataFrame(cells.table(columns, rows), columns=list(columns))
        self._run.log({name: self._trackio.Table(dataframe=frame)}, step=self._step)

    def summary(self, values: Mapping[str, Any]) -> None:
        figures = {f"summary/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        self._run.log(figures, step=self._step)

    def done(self) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()
