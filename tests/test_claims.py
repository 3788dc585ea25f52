"""Several processes want one artifact: one builds it, the others wait; the dead are noticed, the slow do no damage.

Another machine is played by another name for this one (`GRAFTLM_MACHINE`): locks are then not believed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graftlm.claims import Observer, busy, heartbeat_file, held, locked, parse, read, reserved
from graftlm.console import Silent, Watched
from graftlm.errors import StoreError
from graftlm.store import SCRATCH, StageKey, Store, damage, read_marker
from said import Said

KEY = StageKey("corpus", 1, {"rows": 3}, {})

# counts to `steps`, one each `pause`, keeping its place in the folder as a training does; tells each step to `log`
WORKER = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from graftlm.console import Lines, Watched
    from graftlm.store import StageKey, Store

    folder, log = sys.argv[1:3]
    steps, pause, lease = (float(word) for word in sys.argv[3:])
    steps = int(steps)
    watched = Watched(Lines(interval=0.0))

    def tell(line):
        with open(log, "a") as handle:
            handle.write(f"{os.getpid()} {line}\\n")

    def build(work):
        tell("begun")
        place = work / "scratch" / "place"
        place.parent.mkdir(exist_ok=True)
        (work / "trace").write_text("")
        done = int(place.read_text()) if place.exists() else 0
        with watched.task("counting", steps) as advance:
            advance(done)
            for step in range(done, steps):
                time.sleep(pause)
                with open(work / "trace", "a") as trace:
                    trace.write(f"{os.getpid()}\\n")
                place.with_suffix(".tmp").write_text(str(step + 1))
                place.with_suffix(".tmp").replace(place)
                tell(f"step {step}")
                advance(1)
        (work / "rows.txt").write_text("rows")

    path, reused = Store(Path(folder), lease).obtain(StageKey("corpus", 1, {"rows": 3}, {}), build, watched)
    tell("reused" if reused else "built")
    assert (path / "rows.txt").read_text() == "rows"
    """
)


class Group:
    """Worker processes on one store, and what they told."""

    def __init__(self, folder: Path):
        self.store, self.log = folder / "store", folder / "log"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, steps: int, pause: float, lease: float = 60.0, machine: str | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, **({"GRAFTLM_MACHINE": machine} if machine else {})}
        words = [sys.executable, "-c", WORKER, str(self.store), str(self.log), str(steps), str(pause), str(lease)]
        self.processes.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment))
        return self.processes[-1]

    def told(self, word: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.split(" ", 1)[1].startswith(word)]

    def wait(self, word: str, times: int = 1) -> None:
        deadline = time.monotonic() + 120
        while len(self.told(word)) < times:
            assert time.monotonic() < deadline, self.log.read_text() if self.log.exists() else "nothing was told"
            time.sleep(0.01)

    def end(self) -> list[str]:
        return [process.communicate(timeout=120)[1] for process in self.processes]

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in (self.store / "corpus").iterdir() if path.name != KEY.key)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    for process in group.processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_eight_processes_want_one_artifact(group: Group) -> None:
    for _ in range(8):
        group.start(steps=4, pause=0.2)
    said = group.end()
    assert [process.returncode for process in group.processes] == [0] * 8, said
    assert len(group.told("begun")) == len(group.told("built")) == 1
    assert len(group.told("reused")) == 7
    assert group.leftovers() == []


def test_those_who_wait_see_who_makes_it_and_how_far(group: Group) -> None:
    first = group.start(steps=30, pause=0.1, lease=1)  # beats each quarter of a second
    group.wait("step", 2)
    second = group.start(steps=30, pause=0.1, lease=1)
    _, said = second.communicate(timeout=120)
    first.communicate(timeout=120)
    who = f"process {first.pid} on {os.uname().nodename}"
    assert f"corpus {KEY.key[:8]}: another process makes it ({who}); waiting" in said
    shares = [line for line in said.splitlines() if line.startswith(f"waiting for {who}: counting: ")]
    assert any(" of 30 (" in line for line in shares), said


def test_a_killed_holder_is_taken_over_at_once(group: Group) -> None:
    first = group.start(steps=40, pause=0.05)
    group.wait("step", 3)
    second = group.start(steps=40, pause=0.0)
    first.kill()
    said = group.end()[1]
    assert second.returncode == 0, said
    assert f"process {first.pid} on {os.uname().nodename} is gone; going on with its work" in said
    steps = [line.split()[-1] for line in group.told("step")]
    assert len(steps) <= 41, "went on from the place that the first had left"
    assert group.leftovers() == []


def test_seconds_are_those_of_all_attempts(group: Group) -> None:
    """Of a killed one as the last heartbeat, here of each quarter of a second, told."""
    first = group.start(steps=300, pause=0.1, lease=1)
    path = Store(group.store).path(KEY)
    deadline = time.monotonic() + 120
    while parse(read(heartbeat_file(path))).get("seconds", 0.0) < 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.kill()
    group.start(steps=300, pause=0.0, lease=1)
    group.end()
    assert read_marker(path)["seconds"] >= 1.0


def test_seconds_of_a_failed_attempt_count_until_its_work_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(work: Path) -> None:
        time.sleep(0.3)
        raise ValueError("no")

    for key, removed in ((KEY, False), (StageKey("corpus", 1, {"rows": 4}, {}), True)):
        with pytest.raises(ValueError, match="no"):
            store.obtain(key, fail)
        if removed:
            store.path(key).with_suffix(".partial").rmdir()
        begun = time.monotonic()
        path, _ = store.obtain(key, rows)
        took = time.monotonic() - begun  # of this attempt alone: on a slow machine it may be long
        seconds = read_marker(path)["seconds"]
        assert seconds <= took + 0.001 if removed else seconds >= 0.3  # it is rounded


def test_a_machine_that_vanished_is_taken_over_after_a_lease(group: Group) -> None:
    first = group.start(steps=1000, pause=0.05, machine="another")
    group.wait("step", 3)
    first.kill()
    begun = time.monotonic()
    second = group.start(steps=5, pause=0.0, lease=2)
    said = group.end()[1]
    assert second.returncode == 0, said
    assert time.monotonic() - begun >= 2
    assert "is gone; going on with its work" in said
    assert group.leftovers() == []


def test_a_holder_that_wakes_up_does_no_damage(group: Group) -> None:
    """On a suspended laptop: taken for dead; what it still writes goes nowhere, and it uses what the other made."""
    first = group.start(steps=60, pause=0.05, lease=1, machine="another")
    group.wait("step", 3)
    os.kill(first.pid, signal.SIGSTOP)
    second = group.start(steps=60, pause=0.05, lease=1)
    group.wait("begun", 2)
    os.kill(first.pid, signal.SIGCONT)
    one, other = group.end()
    assert (first.returncode, second.returncode) == (0, 0), one + other
    assert "another process has taken it over" in one
    assert [line.split()[0] for line in group.told("built")] == [str(second.pid)]
    assert [line.split()[0] for line in group.told("reused")] == [str(first.pid)]
    mine = [line.split()[-1] for line in group.told("step") if line.startswith(str(second.pid))]
    assert 0 < len(mine) < 60, "went on from the place that the first had left"
    path = Store(group.store).path(KEY)
    assert list(damage(path, read_marker(path), sums=True)) == []
    assert set((path / "trace").read_text().split()) == {str(second.pid)}
    assert group.leftovers() == []


def test_a_holder_that_wakes_up_when_all_is_over(group: Group) -> None:
    first = group.start(steps=5, pause=0.2, lease=1, machine="another")
    group.wait("step", 4)
    os.kill(first.pid, signal.SIGSTOP)
    second = group.start(steps=5, pause=0.0, lease=1)
    second.communicate(timeout=120)
    path = Store(group.store).path(KEY)
    made = path.stat().st_ino
    os.kill(first.pid, signal.SIGCONT)
    _, said = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "another process has taken it over" in said
    assert path.stat().st_ino == made
    assert group.leftovers() == []


def test_what_another_published_is_not_overwritten(tmp_path: Path) -> None:
    """Even where the loss of the claim was not noticed: the name is taken."""
    other, _ = Store(tmp_path / "other").obtain(KEY, rows)
    store = Store(tmp_path / "store")

    def build(work: Path) -> None:
        rows(work)
        shutil.copytree(other, store.path(KEY))

    path, reused = store.obtain(KEY, build)
    assert reused
    assert store.holds(KEY)
    assert read_marker(path) == read_marker(other)
    assert [entry.name for entry in path.parent.iterdir()] == [KEY.key]


def rows(work: Path) -> None:
    (work / "rows.txt").write_text("rows")


def test_a_holder_that_lives_is_waited_for_beyond_the_lease(group: Group) -> None:
    """Its heartbeat goes on where nothing is counted."""
    first = group.start(steps=1, pause=4, lease=1, machine="another")
    group.wait("begun")
    second = group.start(steps=1, pause=0, lease=1)
    said = group.end()
    assert (first.returncode, second.returncode) == (0, 0), said
    assert len(group.told("begun")) == 1


def test_a_failed_build_hands_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            store.obtain(KEY, lambda work: int("no"))  # type: ignore[arg-type, return-value]
    _, reused = store.obtain(KEY, lambda work: (work / "rows.txt").write_text("rows"))  # type: ignore[arg-type, return-value]
    assert not reused
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == [KEY.key]


def test_what_a_kill_after_the_publication_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("graftlm.claims.Claim.release", lambda claim, published: os.close(claim.descriptor))
        path, _ = store.obtain(KEY, rows)
    (tmp_path / "corpus" / f"{KEY.key}.2.partial").mkdir()
    assert len(list(path.parent.iterdir())) == 4
    assert store.obtain(KEY, rows) == (path, True)
    assert list(path.parent.iterdir()) == [path]


def test_what_is_to_be_removed_is_reserved(group: Group) -> None:
    """By who cleans up: not what somebody builds; and what stays unfinished is still found by the next builder."""
    path = Store(group.store).path(KEY)
    assert not busy(path)
    first = group.start(steps=40, pause=0.05)
    group.wait("step", 3)
    assert busy(path)
    with reserved(path) as got:
        assert not got
    first.kill()
    first.wait()
    assert not busy(path)
    with reserved(path) as got:
        assert got
        assert busy(path)
    second = group.start(steps=40, pause=0.0)
    second.wait(timeout=120)
    assert len(group.told("step")) <= 41
    with reserved(path) as got:
        assert got
        shutil.rmtree(path)
    assert list(path.parent.iterdir()) == []


def test_who_builds_asks_for_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = StageKey("corpus", 1, {"rows": 4}, {})

    def build(work: Path) -> None:
        store.obtain(other, lambda work: None)

    with pytest.raises(RuntimeError, match="two such could wait for each other"):
        store.obtain(KEY, build)


def test_fewer_workers_than_jobs_that_wait(tmp_path: Path) -> None:
    """Two threads, eight jobs over two inputs each: all end."""
    store, made, lock = Store(tmp_path), [], threading.Lock()
    inputs = [StageKey("corpus", 1, {"rows": rows}, {}) for rows in range(2)]
    jobs = [[*(inputs if number % 2 else inputs[::-1]), StageKey("t", 1, {"n": number}, {})] for number in range(8)]

    def build(work: Path) -> None:
        time.sleep(0.05)
        with lock:
            made.append(work.name)
        (work / "rows.txt").write_text("rows")

    def work() -> None:
        while True:
            with lock:
                if not jobs:
                    return
                keys = jobs.pop()
            for key in keys:
                store.obtain(key, build)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(made) == len(set(made)) == 10


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("size", [10, 2_000_000])
@pytest.mark.parametrize("hurt", ["a byte", "a cut", "its marker"])
def test_damage_is_noticed_and_made_again(hurt: str, size: int, tmp_path: Path) -> None:
    store, said = Store(tmp_path), Said()

    def build(work: Path) -> None:
        (work / "rows.txt").write_text("r" * size)

    path, _ = store.obtain(KEY, build)
    if hurt == "a byte":
        flip(path / "rows.txt", size // 2)
    elif hurt == "a cut":
        os.truncate(path / "rows.txt", size - 1)
    else:
        os.truncate(path / "artifact.json", 40)
    # large files are read where something is built on them
    _, reused = store.obtain(KEY, build, said, suspect=size > 10)
    assert not reused
    assert len(said.lines) == 1
    assert "the stored artifact is damaged" in said.lines[0]
    assert (path / "rows.txt").read_text() == "r" * size
    assert store.obtain(KEY, build, suspect=True) == (path, True)
    store.verify(KEY)
    assert [entry.name for entry in path.parent.iterdir()] == [KEY.key]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match=r"store.dir=.*cannot be written"):
        Store(tmp_path / "store").obtain(KEY, lambda work: None)


def test_without_locks_the_heartbeat_alone_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has neither locks nor hard links."""

    def refuse(*rest: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / KEY.key
    claim = Observer(path, 0.5).attempt()
    assert claim is not None
    other = Observer(path, 0.5)
    assert other.attempt() is None
    time.sleep(0.6)
    heir = other.attempt()
    assert heir is not None
    assert heir.work != claim.work
    assert not claim.in_force()
    claim.release(published=False)
    assert heir.in_force()


def test_a_slow_observer_takes_nothing_from_a_new_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw a dead claim, fell asleep, and wakes up when that was published, removed, and claimed anew."""
    from graftlm import claims

    path = tmp_path / KEY.key
    first = Observer(path, 60).attempt()
    assert first is not None
    os.close(first.descriptor)  # as a kill does
    slow = Observer(path, 60)
    real: Callable[..., object] = claims._create
    new: list[object] = []

    def late(*arguments: object, **more: object) -> object:
        monkeypatch.setattr(claims, "_create", real)
        for leftover in tmp_path.glob("*.claim-*"):
            leftover.unlink()
        new.append(Observer(path, 60).attempt())
        return real(*arguments, **more)

    monkeypatch.setattr(claims, "_create", late)
    assert slow.attempt() is None
    (claim,) = new
    assert isinstance(claim, claims.Claim)
    assert claim.in_force()


def test_a_heartbeat_tells_where_the_holder_is(tmp_path: Path) -> None:
    store, watched, seen = Store(tmp_path, lease=1), Watched(Silent()), []

    def build(work: Path) -> None:
        (work / SCRATCH).mkdir()
        with watched.task("training", 7) as advance:
            advance(3)
            deadline = time.monotonic() + 30
            while not seen and time.monotonic() < deadline:
                time.sleep(0.05)
                beat = json.loads((tmp_path / "corpus" / f"{KEY.key}.holder").read_text())
                if beat["done"] == 3:
                    seen.append(beat)

    store.obtain(KEY, build, watched)
    (beat,) = seen
    assert {name: beat[name] for name in ("pid", "stage", "label", "total")} == {
        "pid": os.getpid(),
        "stage": "corpus",
        "label": "training",
        "total": 7,
    }


def test_a_lock_holds_where_only_a_file_open_for_writing_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where the sweep under way had none, and what it was going to use could be cleaned up."""
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    file = tmp_path / "sweep.json"
    file.touch()
    with held(file):
        assert locked(file)
    assert locked(file) is False
