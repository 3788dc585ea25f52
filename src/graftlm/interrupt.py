"""Signals that end a job: training saves first, everything else ends at once; the same command goes on from there.

A handler only notes the signal. Training looks at the note after each optimiser step (`graftlm.stages.saving`), writes
its checkpoint and leaves; where nothing is to be saved the handler itself raises `Interrupted`. A second Ctrl-C ends at
once in any case.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

# what a scheduler or a user sends; SIGUSR2 is submitit's default before a preemption or the end of the time
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
# the name (without SIG) by which submitit is told of another one
_PREEMPTION = "SUBMITIT_PREEMPT_SIGNAL"


class Interrupted(KeyboardInterrupt):
    """A signal ended the job. A KeyboardInterrupt, so that whatever mends errors of one job lets it pass."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.signum,)  # a worker of joblib hands it to the command

    @property
    def code(self) -> int:
        """The exit code that shells give such an end: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class _State:
    """What this process has heard and installed; signal handlers are of a process, and so is this."""

    def __init__(self) -> None:
        self.pending: int | None = None
        self.saving = 0  # depth of `saves`: there the handler leaves it to the training
        self.leaving = False  # Interrupted is on its way: further signals change nothing
        self.earlier: dict[int, Any] = {}


_state = _State()


@contextlib.contextmanager
def handled(names: Sequence[str] = SIGNALS) -> Iterator[None]:
    """Signals of these names and SIGINT end what is within it by `Interrupted`.

    The earlier handlers are back afterwards. One of them that is a function (submitit's, which has the job requeued) is
    called at the end, when everything is saved and recorded; what it raises takes the place of `Interrupted`. A signal
    that the process was told to ignore stays ignored. Does nothing outside the main thread, and within another one.
    """
    if threading.current_thread() is not threading.main_thread() or _state.earlier:
        yield
        return
    _state.__init__()  # type: ignore[misc]
    try:
        _install(names)
        yield
        check()  # a signal that came too late to stop anything still ends what would follow
    except Interrupted as interrupted:
        _state.leaving = True
        earlier = _state.earlier.get(interrupted.signum)
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(interrupted.signum, None)
        raise
    finally:
        try:
            _restore()
        finally:
            _restore()  # a signal that came meanwhile has cut the first one short; it is the last


def _restore() -> None:
    """The earlier handlers, and nothing heard: what was is told, and a later training must not end by it."""
    for signum, handler in _state.earlier.items():
        signal.signal(signum, handler)
    _state.__init__()  # type: ignore[misc]


def _install(names: Sequence[str]) -> None:
    for signum in _signals(("SIGINT", *names)):
        handler = signal.getsignal(signum)
        # None: installed by a library that is not Python's, and could not be put back
        if handler is not None and handler != signal.SIG_IGN:
            _state.earlier[signum] = handler
            signal.signal(signum, _handle)


def _signals(names: Sequence[str]) -> list[signal.Signals]:
    """The signals of these names that the platform has, and the one that submitit was told of."""
    told = os.environ.get(_PREEMPTION)
    found = [getattr(signal, name, None) for name in dict.fromkeys([*names, *([f"SIG{told}"] if told else [])])]
    return [signum for signum in found if isinstance(signum, signal.Signals)]


def reinstall() -> None:
    """Put the handlers back over those that Lightning installs when it begins to train: its SIGTERM raises mid-step."""
    if threading.current_thread() is threading.main_thread():
        for signum in _state.earlier:
            signal.signal(signum, _handle)


def _handle(signum: int, frame: FrameType | None) -> None:
    again = _state.pending is not None
    if not again:
        _state.pending = signum
    if signum == signal.SIGINT and again:
        _state.leaving = True
        raise Interrupted(signum)
    if _state.leaving or again:
        return
    if not _state.saving:
        _state.leaving = True
        raise Interrupted(signum)
    more = "; Ctrl-C again ends at once" if signum == signal.SIGINT else ""
    # not print: the handler may have come in the midst of one
    with contextlib.suppress(OSError):
        os.write(2, f"graftlm: {signal.Signals(signum).name}: saving after this step{more}\n".encode())


def ask() -> None:
    """From another thread: as if a signal had come that asks to save and end. Does nothing outside `handled`."""
    known = list(_state.earlier)
    if known and _state.pending is None:
        _thread.interrupt_main(signal.SIGTERM if signal.SIGTERM in known else signal.Signals(known[0]))


@contextlib.contextmanager
def saves() -> Iterator[None]:
    """Within it a signal is only noted: the code asks `pending` and saves."""
    _state.saving += 1
    try:
        yield
    finally:
        _state.saving -= 1


def pending() -> bool:
    """Whether a signal came that asks to save and end."""
    return _state.pending is not None


def check() -> None:
    """End here if a signal came: one raised within a finaliser is lost, and one noted by a training may be left over.

    Raises:
        Interrupted: then.
    """
    if _state.pending is not None:
        raise Interrupted(_state.pending)


def in_worker(worker: int) -> None:
    """Settings of a data loader's worker: a signal to the whole process group must not take the batches away.

    Training needs them until its step is done. SIGTERM is how the loader ends a worker that hangs: the second one does.
    Where training ends by an error, a worker that is handing a tensor over does not add a traceback of its own.
    """
    for signum in _signals(("SIGINT", *SIGNALS)):
        signal.signal(signum, _second_ends if signum == signal.SIGTERM else signal.SIG_IGN)
    sys.excepthook = _unless_hung_up


def _unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What multiprocessing's resource sharer calls: the thread that hands open files over."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _second_ends(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)
