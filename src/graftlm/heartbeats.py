"""The holder of a claim tells others every few seconds who it is, how far, and how long it has taken so far."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from graftlm.claims import Claim, LostError, heartbeat_file, identity, parse, read
from graftlm.console import Watched

BEAT = 3.0  # seconds between two heartbeats, at most; fewer under a short lease


@contextlib.contextmanager
def heartbeats(claim: Claim, stage: str, lease: float, watched: Watched) -> Iterator[Callable[[], float]]:
    """Tell others how far it is, from a thread: also in phases that count nothing.

    Gives the seconds spent on the artifact, by earlier attempts too whose work it goes on with; of one that was killed
    the last heartbeat tells. Where the claim was lost, the next count of `watched` raises `LostError`.
    """
    end = threading.Event()
    every = min(BEAT, lease / 4)
    token = uuid.uuid4().hex
    earlier, begun = _spent(claim), time.monotonic()

    def seconds() -> float:
        return earlier + time.monotonic() - begun

    def beat(number: int) -> None:
        label, done, total = watched.now
        content = {**identity(), "claim": claim.number, "stage": stage, "label": label, "done": done}
        content |= {"total": total, "time": round(time.time(), 1), "beat": f"{token[:8]}-{number}"}
        content |= {"seconds": round(seconds(), 3)}
        target = heartbeat_file(claim.path)
        temporary = target.with_name(f"{target.name}.{token[:8]}.tmp")
        with contextlib.suppress(OSError):
            try:
                temporary.write_text(json.dumps(content), encoding="utf-8")
                temporary.replace(target)
            except OSError:
                temporary.unlink(missing_ok=True)

    def beats() -> None:
        number = 0
        while claim.in_force():
            beat(number)
            number += 1
            if end.wait(every):
                if claim.in_force():
                    beat(number)  # for who goes on with it
                return
        watched.stop = LostError()

    thread = threading.Thread(target=beats, name="graftlm-heartbeat", daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        end.set()
        thread.join(timeout=10 * BEAT)  # a network folder may keep it


def _spent(claim: Claim) -> float:
    """Seconds that went into what an earlier holder has left."""
    if not any(folder is not None and folder.is_dir() for folder in (claim.work, claim.source)):
        return 0.0
    seconds = parse(read(heartbeat_file(claim.path))).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0
