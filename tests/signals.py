"""Signals that come at a moment of the test's choice."""

from __future__ import annotations

import linecache
import os
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from graftlm import interrupt


@dataclass
class Sent:
    """Whether the moment came, and whether our handler was there to hear of it."""

    reached: bool = False
    heard: bool = False


def _stops_at(frame: FrameType) -> bool:
    """Python hears of signals at calls and jumps: not where a `try` begins, which is no instruction at all."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "try:"


@contextmanager
def interrupted_at(number: int, files: Collection[str]) -> Iterator[Sent]:
    """SIGTERM before the line of this number (from 1) that runs in the source files, where our handler is installed."""
    sent, seen = Sent(), 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and _stops_at(frame):
            seen += 1
            if seen == number:
                sent.reached = True
                if signal.getsignal(signal.SIGTERM) is interrupt._handle:
                    sent.heard = True
                    os.kill(os.getpid(), signal.SIGTERM)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield sent
    finally:
        sys.settrace(before)
