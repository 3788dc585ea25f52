"""Progress and messages: a live bar on a terminal, a plain line now and then elsewhere.

Everything goes to standard error, so that standard output carries results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from graftlm.errors import printable

Advance = Callable[[int], None]


class Progress(Protocol):
    """What a long task tells the person who waits."""

    def task(self, label: str, total: int | None) -> AbstractContextManager[Advance]:
        """A task of `total` units (None: not known); the context gives a function that counts units done."""
        ...

    def say(self, line: str) -> None:
        """One line."""
        ...


class Silent:
    """No output at all."""

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Advance]:
        yield lambda units: None

    def say(self, line: str) -> None:
        pass


class Lines:
    """For logs and pipes: a line when a task starts to take long, every `interval` seconds, and at its end."""

    def __init__(self, interval: float = 10.0, prefix: str = ""):
        self._interval = interval
        self._prefix = prefix

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Advance]:
        begun = last = time.monotonic()
        done = 0
        shown = False

        def advance(units: int) -> None:
            nonlocal done, last, shown
            done += units
            now = time.monotonic()
            if now - last >= self._interval:
                last, shown = now, True
                self.say(f"{label}: {_share(done, total)}, {now - begun:.0f} s")

        yield advance
        if shown or time.monotonic() - begun >= 1:
            self.say(_end(label, done, total, time.monotonic() - begun))

    def say(self, line: str) -> None:
        print(printable(self._prefix + line), file=sys.stderr, flush=True)


class Bars:
    """For a terminal: a bar for each task under way, gone when the task ends."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._live: Any = None  # rich allows one live display at a time: tasks inside tasks share it
        self._tasks = 0

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Advance]:
        begun = time.monotonic()
        if self._live is None:
            self._live = self._display()
            self._live.start()
        live = self._live
        self._tasks += 1
        identity = live.add_task(printable(label), total=total)
        done = 0

        def advance(units: int) -> None:
            nonlocal done
            done += units
            live.advance(identity, units)

        try:
            yield advance
        finally:
            live.remove_task(identity)
            self._tasks -= 1
            if not self._tasks:
                live.stop()
                self._live = None
        if time.monotonic() - begun >= 1:
            self.say(_end(label, done, total, time.monotonic() - begun))

    def _display(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        return RichProgress(*columns, console=self._console, transient=True)

    def say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


class Watched:
    """A progress that others can look at, from a thread, and stop.

    Attributes:
        now: the innermost task under way: label, units done, total; an empty label between tasks.
        stop: raised at the next unit that is counted, or None.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self.now: tuple[str, int, int | None] = ("", 0, None)
        self.stop: Exception | None = None

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Advance]:
        outer, done = self.now, 0
        self.now = (label, 0, total)
        try:
            with self._progress.task(label, total) as advance:

                def count(units: int) -> None:
                    nonlocal done
                    if self.stop is not None:
                        raise self.stop
                    done += units
                    self.now = (label, done, total)
                    advance(units)

                yield count
        finally:
            self.now = outer

    def say(self, line: str) -> None:
        self._progress.say(line)


def progress_for_terminal() -> Progress:
    """Bars where standard error is a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


def tell(line: str) -> None:
    """A result, on standard output: names in it steer no terminal."""
    print(printable(line), flush=True)


def _end(label: str, done: int, total: int | None, seconds: float) -> str:
    """The last line of a task; one that is left halfway, as waiting for a process that dies, is not done."""
    word = "done" if total is None or done >= total else f"left at {_share(done, total)}"
    return f"{label}: {word}, {seconds:.1f} s"


def _share(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done} of {total} ({100 * done / max(total, 1):.0f}%)"
