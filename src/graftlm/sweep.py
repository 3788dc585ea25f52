"""The one Hydra callback: it knows where a sweep was written, so that the command can report on it at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

# folders of the sweeps that ended in this process
ended: list[Path] = []


class SweepCallback(Callback):
    """Notes the sweep's folder; everything else is the command's work."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        ended.append(Path(str(config.hydra.sweep.dir)))
