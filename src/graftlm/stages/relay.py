"""How far a stage on several devices is, told by the process that trains to the one that holds its claim, and back the
word that the claim was lost. Both only look at a file now and then; neither waits for the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from graftlm.claims import parse, read
from graftlm.console import Watched
from graftlm.store import write_json

_EVERY = 0.5  # seconds


@contextlib.contextmanager
def told(file: Path, watched: Watched) -> Iterator[None]:
    """In the process that trains: what `watched` is at stands in the file, with the process' id."""
    last: tuple[str, int, int | None] | None = None

    def tell() -> None:
        nonlocal last
        now = watched.now
        if now != last:
            with contextlib.suppress(OSError):
                write_json(file, {"pid": os.getpid(), "now": now})
                last = now

    with _now_and_then(tell):
        yield


@contextlib.contextmanager
def followed(file: Path, watched: Watched) -> Iterator[None]:
    """In the process that waits: `watched` is where the file says; where it is to stop, the other saves and ends.

    Raises:
        Exception: what `watched` was told to stop by, in place of how the other ended.
    """
    asked = False

    def follow() -> None:
        nonlocal asked
        found = parse(read(file))
        if found:
            label, done, total = found["now"]
            watched.now = (str(label), int(done), total)
            if watched.stop is not None and not asked:
                asked = True
                with contextlib.suppress(OSError):
                    os.kill(int(found["pid"]), signal.SIGINT)  # the one signal that a training always saves by

    file.unlink(missing_ok=True)  # of an earlier attempt, whose process is another one's by now
    outer = watched.now
    try:
        with _now_and_then(follow):
            yield
    except Exception:
        if watched.stop is not None:
            raise watched.stop from None
        raise
    finally:
        watched.now = outer


@contextlib.contextmanager
def _now_and_then(act: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def loop() -> None:
        while not over.wait(_EVERY):
            act()

    thread = threading.Thread(target=loop, name="graftlm-relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
