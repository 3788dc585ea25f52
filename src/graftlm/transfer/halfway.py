"""A step that trains keeps how far it is, so that a graft which was interrupted goes on from there.

The steps in front of it are made again; they take no long training and give the same bits.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm import interrupt

if TYPE_CHECKING:
    from graftlm.transfer.graft import Graft

EVERY = 300.0  # seconds between two files: one holds the weights and twice as much of the optimiser


class Halfway:
    """The file of one step. Without a folder to keep it in, nothing is kept and a signal ends the graft at once."""

    def __init__(self, graft: Graft):
        self._graft = graft
        self._path = None if graft.scratch is None else Path(graft.scratch) / f"{graft.step}.pt"
        self._kept = self._begun = time.monotonic()

    def found(self) -> dict[str, Any] | None:
        """What an earlier attempt kept; what it cost then counts with the step. Said and removed if it is damaged."""
        import torch

        if self._path is None or not self._path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, weights_only=True, map_location="cpu")
            done, flops, seconds = int(state["done"]), int(state["flops"]), float(state["seconds"])
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self._graft.progress.say(f"{self._path}: cannot be used and is left out ({reason[:200]})")
            self._path.unlink(missing_ok=True)
            return None
        self._graft.spent.flops, self._graft.spent.seconds = flops, seconds
        self._graft.progress.say(f"{self._graft.step}: going on from step {done}")
        return state

    def after(self, done: int, state: Callable[[], dict[str, Any]], last: bool = False) -> None:
        """Keep `state()` after so many steps where it is time to, where it is the `last`, or where a signal came.

        Raises:
            Interrupted: it came.
        """
        if self._path is not None and (last or interrupt.pending() or time.monotonic() - self._kept > EVERY):
            self._write({**state(), "done": done})
            self._kept = time.monotonic()
        interrupt.check()  # without a folder too: what a handler raised within a finaliser was lost

    def _write(self, state: dict[str, Any]) -> None:
        import torch

        assert self._path is not None
        state["flops"] = self._graft.spent.flops
        state["seconds"] = self._graft.spent.seconds + time.monotonic() - self._begun
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("wb") as handle:
            torch.save(state, handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self._path)


@contextlib.contextmanager
def halfway(graft: Graft) -> Iterator[Halfway]:
    """Within it a signal waits for the end of the training step that is under way."""
    with interrupt.saves() if graft.scratch is not None else contextlib.nullcontext():
        yield Halfway(graft)
