"""Signals: what is installed, what is put back, and what of others' is called at the end."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from graftlm import interrupt
from graftlm.interrupt import Interrupted, handled, saves
from signals import interrupted_at


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGUSR2", 140)])
def test_where_nothing_is_to_be_saved_a_signal_ends_at_once(name: str, code: int) -> None:
    with pytest.raises(Interrupted) as stopped, handled():  # noqa: PT012 - signals come in the midst
        send(name)
        raise AssertionError("went on")
    assert stopped.value.code == code
    assert str(stopped.value) == name


def test_a_training_is_left_to_save(capfd: pytest.CaptureFixture[str]) -> None:
    steps = []
    with pytest.raises(Interrupted), handled():  # noqa: PT012 - signals come in the midst
        with saves():
            assert not interrupt.pending()
            for step in range(4):
                if step == 1:
                    send("SIGTERM")
                    send("SIGTERM")  # an impatient scheduler changes nothing
                steps.append(step)
            assert interrupt.pending()
        interrupt.check()
    assert steps == [0, 1, 2, 3]
    assert capfd.readouterr().err == "graftlm: SIGTERM: saving after this step\n"


def test_a_signal_that_was_noted_too_late_still_ends_what_would_follow() -> None:
    with pytest.raises(Interrupted), handled(), saves():
        send("SIGTERM")
    assert not interrupt.pending(), "the next training of this process is not to end by it"


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    def mine(signum: int, frame: object) -> None:
        raise AssertionError("not called")

    signal.signal(signal.SIGUSR1, mine)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGINT)
    with handled():
        assert signal.getsignal(signal.SIGUSR1) is not mine
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        with handled():  # a second one within is the first
            pass
        assert signal.getsignal(signal.SIGUSR1) is not mine
    assert signal.getsignal(signal.SIGUSR1) is mine
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_at_any_line_of_it_finds_the_earlier_handlers_put_back() -> None:
    """While they are installed and while they are put back, too: a loaded machine stops a process anywhere."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    ended = []
    for line in itertools.count(1):
        with interrupted_at(line, {interrupt.__file__}) as sent:
            try:
                with handled():
                    pass
                ended.append("well")
            except Interrupted:
                ended.append("by the signal")
        assert {signum: signal.getsignal(signum) for signum in before} == before, f"line {line}"
        assert not interrupt.pending()
        if not sent.reached:
            break
    assert ended.count("by the signal") > 10


def test_only_the_signals_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    with handled(["SIGTERM"]):
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    with pytest.raises(Interrupted), handled(["SIGTERM"]):
        send("SIGUSR2")


def test_the_handler_of_a_scheduler_is_called_when_all_is_saved() -> None:
    """As submitit's does: it has the job requeued, and leaves; meanwhile other signals come."""
    order: list[str] = []

    def requeue(signum: int, frame: object) -> None:
        order.append(f"requeue {signal.Signals(signum).name}")
        send("SIGTERM")
        raise SystemExit(-1)

    signal.signal(signal.SIGUSR2, requeue)
    with pytest.raises(SystemExit) as left, handled():  # noqa: PT012 - signals come in the midst
        try:
            with saves():
                send("SIGUSR2")
                order.append("step")
            order.append("saved")
            interrupt.check()
        finally:
            order.append("recorded")
    assert order == ["step", "saved", "recorded", "requeue SIGUSR2"]
    assert left.value.code == -1
    assert signal.getsignal(signal.SIGUSR2) is requeue


def test_a_handler_that_only_looks_on_does_not_keep_the_job_alive() -> None:
    """submitit's for SIGTERM."""
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
    with pytest.raises(Interrupted), handled():
        send("SIGTERM")
    assert seen == [signal.SIGTERM]


def test_other_threads_install_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with handled():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_a_worker_of_a_loader_outlives_a_signal_to_its_group() -> None:
    child = os.fork()
    if not child:
        interrupt.in_worker(0)
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
            send(name)
        send("SIGTERM")  # the loader's own
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_a_worker_that_hands_a_tensor_over_to_nobody_says_nothing() -> None:
    code = (
        "import os, sys; from multiprocessing import connection, current_process, resource_sharer as sharer\n"
        "from graftlm import interrupt\n"
        "interrupt.in_worker(0)\n"
        "for _ in range(50):\n"
        "    address, key = sharer.DupFd(0)._id\n"
        "    line = connection.Client(address, authkey=current_process().authkey)\n"
        "    line.send((key, os.getpid()))\n"
        "    line.close()\n"
        "sharer.stop(timeout=10)\n"
        "sys.excepthook(KeyError, KeyError('mine'), None)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert "Error" not in ended.stderr.replace("KeyError: 'mine'", ""), ended.stderr
    assert ended.stderr.count("KeyError: 'mine'") == 1  # of other errors it tells
