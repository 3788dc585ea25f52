"""TensorBoard: a run a stage, below `logger.dir`/tensorboard. The extra `graftlm[tensorboard]` brings the package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.tracking import cells

if TYPE_CHECKING:
    from graftlm.context import StageContext

_ROWS = 50  # of a table, which TensorBoard shows as a text


class TensorboardSink:
    """Scalars by optimiser step, final figures at the last one, tables and settings as texts."""

    def __init__(self, context: StageContext):
        import dataclasses

        from torch.utils.tensorboard import SummaryWriter

        labels, stage = context.labels, context.work.parent.name
        seed = context.settings.finetune.seed
        name = f"{labels.job}-{labels.arm}-{stage}-{seed}".replace("/", "-")
        group = context.settings.logger.group or labels.sweep
        folder = Path(context.settings.logger.dir).expanduser() / "tensorboard" / Path(group).name / name
        self._writer = SummaryWriter(str(folder))
        self._step = 0
        told = json.dumps(dataclasses.asdict(context.settings), indent=1, ensure_ascii=False, default=str)
        self._writer.add_text("settings", "".join(f"    {line}\n" for line in told.splitlines()))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._writer.add_text(name, cells.markdown(columns, rows[:_ROWS]), self._step)

    def summary(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"summary/{name}", value, self._step)

    def done(self) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        self._writer.close()
