"""Who builds an artifact: one process at a time, among several machines on one folder.

A claim is a numbered file beside the artifact, `KEY.claim-N`, which can be created only once; the highest number is in
force. Its holder keeps a lock on it (flock), which the kernel releases however the process ends, and every few seconds
writes `KEY.holder`: who it is and how far. So others learn of its death
- on the same machine by the lock;
- on another one, where the file system may not carry locks and the whole machine may be gone, by a heartbeat that does
  not change for the length of a lease, as they see it themselves: clocks of different machines are not compared.
They then claim the next number. A holder that was only slow finds a higher number when it wakes up, and has lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no such locks on this platform
    fcntl = None  # type: ignore[assignment]

_MACHINE = "GRAFTLM_MACHINE"  # another name for this machine: for tests, and for containers that share a kernel's id
_descriptors: set[int] = set()  # of claims held by this process


def _forget_in_child() -> None:
    # a forked child (a worker of a data loader) shares its parent's locks, and would keep them beyond its death
    for descriptor in list(_descriptors):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def machine() -> str:
    """What tells this machine, and this boot of it, from others: names are not unique everywhere."""
    if told := os.environ.get(_MACHINE):
        return told
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = f"{uuid.getnode():x}"
    return f"{socket.gethostname()}/{boot}"


class LostError(Exception):
    """A claim was taken over while its holder gave no sign of life. Not for users: the store waits for the heir."""


@dataclass
class Claim:
    """A claim that this process holds.

    Attributes:
        path: of the artifact: the claim's files stand beside it.
        work: the folder of the unfinished artifact, which no other claim uses while its holder may be alive.
        source: the folder of a holder that may come back; what it left is copied from there.
        dead: who held it before, where that one did not release it.
    """

    path: Path
    number: int
    work: Path
    descriptor: int
    source: Path | None = None
    dead: str = ""
    lost: bool = False

    def in_force(self) -> bool:
        """Whether no other process has taken it over. What is lost stays lost."""
        if not self.lost:
            try:
                numbers = _claims(self.path)
            except FileNotFoundError:
                numbers = {}
            except OSError:  # the network is away for a moment: nothing can be told
                return True
            self.lost = not numbers or max(numbers) != self.number
        return not self.lost

    def prepare(self) -> None:
        """Make the folder, with what an earlier holder left."""
        if self.source is not None and self.source.is_dir() and not self.work.exists():
            copy = self.work.with_name(f"{self.work.name.removesuffix('.partial')}.copy.partial")
            with contextlib.suppress(OSError, shutil.Error):  # its owner may be at work in it again
                shutil.copytree(self.source, copy, ignore=shutil.ignore_patterns("*.tmp"))
                copy.replace(self.work)
        self.work.mkdir(exist_ok=True)

    def release(self, published: bool) -> None:
        """Let others have it. Files of a claim that is lost are left to its heirs."""
        try:
            if self.in_force():
                if published:
                    others = self.path.parent.glob(f"{self.path.name}.*.tmp")
                    # the heartbeat goes last: where it is left, a kill came in between (`left_over`)
                    for leftover in (*others, *_claims(self.path).values(), heartbeat_file(self.path)):
                        leftover.unlink(missing_ok=True)
                else:
                    # the number is not used again: a slow observer of an earlier claim must not find it free
                    content = json.dumps({**identity(), "work": self.work.name, "released": True}).encode()
                    # over what stands there: emptied first, a disk that is full might not take it
                    os.pwrite(self.descriptor, content.ljust(os.fstat(self.descriptor).st_size), 0)
        except OSError:
            pass  # the folder is gone or full: the lock below is what counts
        finally:
            _close(self.descriptor)


class Observer:
    """One process' look at the claims on an artifact, again and again."""

    def __init__(self, path: Path, lease: float):
        self._path = path
        self._lease = lease
        self._seen: tuple[Any, ...] = ()
        self._since = 0.0
        self._holder: dict[str, Any] = {}

    def attempt(self, removes: bool = False) -> Claim | None:
        """Claim the artifact if nobody alive does. `removes`: not to build it but to delete it, as others can see.

        Raises:
            OSError: the folder cannot be written.
        """
        claims = _claims(self._path)
        if not claims:
            return _create(self._path, 1, removes=removes)
        newest = max(claims)
        raw, heartbeat = read(claims[newest]), read(heartbeat_file(self._path))
        content, told, now = parse(raw), parse(heartbeat), time.monotonic()
        self._holder = {**content, **(told if told.get("claim") == newest else {})}
        if (newest, raw, heartbeat) != self._seen:
            self._seen, self._since = (newest, raw, heartbeat), now
        if content.get("released"):
            return _create(self._path, newest + 1, raw, removes=removes)
        alive = locked(claims[newest]) if content.get("machine") == machine() else None
        if alive is False:
            return _create(self._path, newest + 1, raw, dead=self.who, removes=removes)
        if alive is None and now - self._since >= self._lease:
            return _create(self._path, newest + 1, raw, dead=self.who, may_return=True, removes=removes)
        return None

    @property
    def who(self) -> str:
        """The holder, in words."""
        host, pid = self._holder.get("host"), self._holder.get("pid")
        return f"process {pid} on {host}" if host else "another process"

    @property
    def does(self) -> str:
        """What the holder is about, in words."""
        return "may delete it" if self._holder.get("removes") else "makes it"

    @property
    def progress(self) -> tuple[str, int, int | None]:
        """What the holder last told: label, units done, total (None: not known)."""
        label, done, total = (self._holder.get(name) for name in ("label", "done", "total"))
        return str(label or ""), done if isinstance(done, int) else 0, total if isinstance(total, int) else None


def left_over(path: Path) -> bool:
    """Whether files of claims stand beside an artifact: somebody is at work, or was killed before removing them."""
    return heartbeat_file(path).exists()


def claimed(path: Path) -> bool:
    """Whether there is any claim on the artifact, of the living or the dead."""
    return path.parent.is_dir() and bool(_claims(path))


def busy(path: Path) -> bool:
    """Whether somebody may be building the artifact; claims of other machines count as alive. Writes nothing."""
    claims = _claims(path) if path.parent.is_dir() else {}
    if not claims:
        return False
    content = parse(read(newest := claims[max(claims)]))
    alive = content.get("machine") != machine() or locked(newest) is not False
    return alive and not content.get("released")


def removing(path: Path) -> bool:
    """Whether somebody may be deleting the artifact.

    A job writes down what it is going to use and then asks this; who deletes claims first and then reads what jobs have
    written: whatever the order, one of the two sees the other.
    """
    claims = _claims(path) if path.parent.is_dir() else {}
    content = parse(read(claims[max(claims)])) if claims else {}
    return bool(content.get("removes")) and not content.get("released")


@contextlib.contextmanager
def reserved(path: Path, lease: float = 60.0) -> Iterator[bool]:
    """Keeps others from building or taking the artifact `path`, to remove it or its leftovers; gives whether it could.

    Raises:
        OSError: the folder cannot be written.
    """
    claim = Observer(path, lease).attempt(removes=True)
    try:
        yield claim is not None
    finally:
        if claim is not None:
            # where an unfinished folder stays, its claim tells the next builder which one it is
            claim.release(published=not list(path.parent.glob(f"{path.name}*.partial")))


def identity() -> dict[str, Any]:
    """This process, as a claim and a heartbeat name it."""
    return {"machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}


def heartbeat_file(path: Path) -> Path:
    """Where the holder of an artifact's claim tells how far it is (`graftlm.heartbeats`)."""
    return path.with_name(path.name + ".holder")


def _claims(path: Path) -> dict[int, Path]:
    pattern = re.compile(re.escape(path.name) + r"\.claim-(\d+)")
    found: dict[int, Path] = {}
    for name in os.listdir(path.parent):  # noqa: PTH208 - names are enough, and asking for them has NFS look anew
        if match := pattern.fullmatch(name):
            found[int(match[1])] = path.parent / name
    return found


def _create(
    path: Path, number: int, before: bytes = b"", dead: str = "", may_return: bool = False, removes: bool = False
) -> Claim | None:
    """The claim of this number, after one with the content `before`; None where another process was quicker."""
    token = uuid.uuid4().hex[:8]
    file = path.with_name(f"{path.name}.claim-{number}")
    earlier = path.with_name(str(parse(before).get("work") or f"{path.name}.partial"))
    work = path.with_name(f"{path.name}.{number}.partial") if may_return else earlier
    told = {**identity(), "work": work.name, "token": token, **({"removes": True} if removes else {})}
    content = json.dumps(told).encode()
    temporary = path.with_name(f"{path.name}.{token}.tmp")
    descriptor = _open_new(temporary)
    try:
        _lock(descriptor)  # before it has its name: nobody ever sees it unlocked
        os.write(descriptor, content)
        try:
            os.link(temporary, file)
        except FileExistsError:
            _close(descriptor)
            return None
        except OSError:  # a file system without hard links: others see it empty for an instant, and then locked
            _close(descriptor)
            try:
                descriptor = _open_new(file)
            except FileExistsError:
                return None
            _lock(descriptor)
            os.write(descriptor, content)
    finally:
        temporary.unlink(missing_ok=True)
    claim = Claim(path, number, work, descriptor, earlier if may_return else None, dead)
    # whoever slept since it looked may have come too late
    if not claim.in_force() or (number > 1 and read(path.with_name(f"{path.name}.claim-{number - 1}")) != before):
        claim.lost = True
        file.unlink(missing_ok=True)
        claim.release(published=False)
        return None
    for old, leftover in _claims(path).items():
        if old < number:
            leftover.unlink(missing_ok=True)
    return claim


def _open_new(file: Path) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    _descriptors.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    with contextlib.suppress(OSError):
        os.close(descriptor)


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _lock(descriptor: int) -> None:
    """Where there are no locks, the heartbeat alone tells."""
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # free but for an instant in which another process looks


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """A lock on a file that is there, for as long as this lasts and this process lives (`locked`)."""
    # open for writing: else NFS gives no exclusive lock, and its holder would be taken for gone
    descriptor = os.open(file, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    _descriptors.add(descriptor)
    try:
        _lock(descriptor)
        yield
    finally:
        _close(descriptor)


def locked(file: Path) -> bool | None:
    """Whether a process of this machine holds the lock; None where the file system has none."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return True  # gone meanwhile: look again
    try:
        # shared: those who look do not take each other for the holder
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
