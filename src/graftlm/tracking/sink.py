"""What a tracker of metrics has to be able to do, whichever `logger=` chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class LateError(Exception):
    """W&B's server did not take all of a run in time; all of it is on the disk, and can be sent later."""


class Sink(Protocol):
    """A tracker of metrics besides the JSON Lines."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...

    def summary(self, values: Mapping[str, Any]) -> None: ...

    def done(self) -> None:
        """The stage has come to its end: all its files are in its folder."""

    def finish(self, exit_code: int) -> None: ...
