"""Faults of the machine, told apart from mistakes of ours: a full disk, a lost folder, no memory, a killed worker.

Libraries hand them on in words of their own (`SafetensorError: … (os error 28)`, `OSError: 8 requested and 0 written`),
and raise others while they clean up: so the whole chain of an error is looked at, its texts besides types and numbers.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from graftlm.errors import MachineError, Problem, first_line

_AGAIN = "the same command goes on from here"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LIMITS = (errno.EMFILE, errno.ENFILE)
_LOST = (errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO)
_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "Unable to allocate",
    "bad_alloc",
    "can't start new thread",
    os.strerror(errno.ENOMEM),
)
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed by signal: (\w+))")
_CUT = re.compile(r"\d+ requested and \d+ written")  # NumPy's words, without a number
# what may be in the way of a single file or folder, and what to do
_REMEDIES = {
    errno.ENOSPC: "make room, and give the command again",
    errno.EDQUOT: "make room, and give the command again",
    errno.EROFS: "name another folder",
    errno.ENOTDIR: "name another folder",
    errno.EACCES: "change its permissions, or name another folder",
    errno.EPERM: "change its permissions, or name another folder",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "mend the link",
    errno.EIO: "look after the disk",
    errno.ENOMEM: "give it more memory",
}
_LITTLE = 2**20  # bytes: less is called full


def machine_error(
    error: BaseException, store: Path, folders: Sequence[Path] = (), doing: str = ""
) -> MachineError | None:
    """What a user is told of a fault of the machine; None where the error is something else.

    `store`: the folder of artifacts; `folders`: other ones that are written to; `doing`: what it came upon.
    """
    chain = list(_chain(error))
    during = f" while {doing}" if doing else ""
    for link in chain:
        if told := _WORKER.search(str(link)):
            return _worker(f" (process {told[1].strip()})", told[2], during)
        if _is_hung_up(link):
            return _worker("", None, during)
    for link in chain:
        if _is_memory(link):
            return _memory(link, during)
    for link in chain:
        for number in (*_LIMITS, *_FULL, *_LOST):
            if _tells(link, number):
                return _of_files(number, link, (store, *folders), during)
    for link in chain:
        if isinstance(link, OSError) and link.filename is not None:
            return _of_a_path(link, store, during)
    return None


def in_the_way(error: BaseException, where: str) -> Problem | None:
    """What a command that makes no artifact, or has not begun to, says of a fault; None where the error is none.

    `where`: what to name where the error names no file.
    """
    if isinstance(error, OSError) and error.errno in _REMEDIES and error.errno != errno.ENOMEM:
        reason = error.strerror or type(error).__name__
        return Problem(str(error.filename or where), None, reason, _REMEDIES[error.errno])
    for link in _chain(error):
        if _is_memory(link):
            return Problem("memory", None, "is exhausted", _REMEDIES[errno.ENOMEM])
        for number in (*_FULL, *_LIMITS):
            if _tells(link, number):
                named = getattr(link, "filename", None)
                remedy = _REMEDIES.get(number, "raise `ulimit -f`")
                return Problem(str(named or where), None, os.strerror(number), remedy)
    return None


def limit_reached(error: BaseException, store: Path, doing: str = "") -> MachineError | None:
    """What lies behind an error that blames a file, where no file would have done: no memory, no file handle."""
    for link in list(_chain(error))[1:]:
        if _is_memory(link) or any(_tells(link, number) for number in _LIMITS):
            return machine_error(link, store, doing=doing)
    return None


def _error(path: str, reason: str, remedy: str) -> MachineError:
    return MachineError(Problem(path, None, reason, remedy))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__]


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in _NO_MEMORY)


def _tells(error: BaseException, number: int) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == number
    text = str(error)
    if number == errno.ENOSPC and isinstance(error, OSError) and _CUT.search(text):
        return True
    return f"(os error {number})" in text or f"[Errno {number}]" in text or os.strerror(number) in text


def _is_hung_up(error: BaseException) -> bool:
    """Whether the data loader was waiting for a tensor of a worker that is gone: it hears no more of it than that."""
    if not isinstance(error, EOFError | ConnectionError | FileNotFoundError) or "in DataLoader worker" in str(error):
        return False
    trace = error.__traceback__
    names: set[str] = set()
    while trace is not None:
        names.add(str(trace.tb_frame.f_globals.get("__name__")))
        trace = trace.tb_next
    return {"torch.utils.data.dataloader", "torch.multiprocessing.reductions"} <= names


def _worker(pids: str, signal: str | None, during: str) -> MachineError:
    how = f"was killed (SIG{'BUS' if signal == 'Bus' else 'KILL'})" if signal in ("Killed", "Bus") else "ended"
    reason = f"a worker of the data loader{pids} {how}{during}"
    remedy = f"{_AGAIN}; with trainer.num_workers=0, if it was killed for its memory"
    if signal == "Bus":
        remedy = f"{_AGAIN}; with trainer.num_workers=0, or more shared memory (/dev/shm)"
    return _error("trainer.num_workers", reason, remedy)


def _memory(error: BaseException, during: str) -> MachineError:
    text = " ".join(str(error).split())
    asked = re.search(r"allocate (\d+) bytes", text) or re.search(r"[Aa]llocate ([\d.]+ [KMGT]i?B)", text)
    size = f" ({_size(int(asked[1])) if asked[1].isdigit() else asked[1]} were asked for)" if asked else ""
    remedy = (
        "take a smaller model, fewer batch_tokens with a higher trainer.accumulate, or trainer.checkpointing=true; "
        "fewer jobs at a time (launch.workers)"
    )
    return _error("memory", f"is exhausted{during}{size}", remedy)


def _of_files(number: int, error: BaseException, folders: Sequence[Path], during: str) -> MachineError:
    words = (os.strerror(number) or "").lower()
    named = getattr(error, "filename", None)
    if number in _LIMITS:
        return _error("file handles", f"{words}{during}", f"raise `ulimit -n`; {_AGAIN}")
    if number in _FULL:
        shared = [Path("/dev/shm")] if "shared memory" in str(error) else []
        place, free = _fullest([Path(str(named)).parent] if named else [*shared, *folders, Path(tempfile.gettempdir())])
        left = f" ({_size(free)} free)" if number == errno.ENOSPC else ""
        remedy = "free some there (`graftlm store gc` shows what may go), or name another folder"
        remedy = {errno.EFBIG: "raise `ulimit -f`", errno.EDQUOT: "free some of your quota"}.get(number, remedy)
        return _error(str(place), f"{words}{left}{during}", f"{remedy}; {_AGAIN}")
    place = Path(str(named)) if named else folders[0]
    return _error(str(place), f"{words}{during}", f"see to that disk, then {_AGAIN}")


def _of_a_path(error: OSError, store: Path, during: str) -> MachineError | None:
    """A file of the store that was there before, or may not be touched any more."""
    path = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename))
    if not path.is_absolute() or not path.is_relative_to(store):
        return None
    if isinstance(error, FileNotFoundError):
        artifact = store.joinpath(*path.relative_to(store).parts[:2])
        if artifact.exists():
            return None
        lost = next(folder for folder in (*reversed(artifact.parents), artifact) if not folder.exists())
        return _error(str(lost), f"has vanished{during}", "the same command makes what is missing again")
    if isinstance(error, PermissionError):
        return _error(str(path), f"{first_line(error)}{during}", f"give yourself the right; {_AGAIN}")
    return None


def _fullest(folders: Sequence[Path]) -> tuple[Path, int]:
    """The folder with the least space, and its free bytes: an error of a write does not tell which file it was."""
    found: list[tuple[int, int, Path]] = []
    for place, folder in enumerate(folders):
        there = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path("/"))
        try:
            found.append((shutil.disk_usage(there).free, place, folder))
        except OSError:
            continue
    if not found:
        return folders[0], 0
    free, place, folder = min(found)
    return (folder, free) if free < _LITTLE else (found[0][2], found[0][0])


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count //= 1000
    return f"{count} GB"
