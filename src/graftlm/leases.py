"""Leases: the cores or GPUs of this machine that a job takes while it runs, so that jobs share none by accident.

A lease is a lock on one file for each core or GPU, in a folder of this user on this machine. All sweeps of the user
lease from the same folder; the kernel frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from graftlm.console import Progress
from graftlm.environment import environment
from graftlm.errors import Problem, SettingsError
from graftlm.running import LaunchSettings, TrainerSettings

FOLDER = "GRAFTLM_LEASES"  # the environment variable that names another folder
_ON_GPUS = ("auto", "gpu", "cuda")  # accelerators; auto where there is one
_WAIT = 0.2  # seconds between two looks at what is free
_USABLE: list[int] = []  # the cores this process may use, before any lease narrowed them
# GPUs this process has used: CUDA reads which it may see once, so that a worker's next job must take the same ones
_bound: tuple[str, ...] = ()


@contextlib.contextmanager
def leased(launch: LaunchSettings, trainer: TrainerSettings, progress: Progress) -> Iterator[None]:
    """Within it the job has GPUs or cores of its own and as many threads as cores; waits until they are free.

    Raises:
        SettingsError: the machine has fewer than the job takes.
    """
    if not launch.lease:
        granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
        with _threads(int(granted)) if granted.isdigit() and trainer.threads is None else contextlib.nullcontext():
            _check_visible(trainer)
            yield
        return
    global _bound
    places, devices = cores(), gpus(launch)
    wanted = gpus_of_job(launch, trainer)
    with contextlib.ExitStack() as stack:
        if wanted:
            if wanted > len(devices):
                raise SettingsError.at(
                    "launch.gpus", wanted, f"only {len(devices)} are given out", "set launch.devices"
                )
            names = _bound if len(_bound) == wanted else devices
            _bound = tuple(stack.enter_context(_take("gpu", names, wanted, progress)))
            stack.enter_context(environment(CUDA_VISIBLE_DEVICES=",".join(_bound)))
            share = max(1, len(places) * wanted // len(devices))
        else:
            share = cores_of_job(launch, trainer)
            if share > len(places):
                raise SettingsError.at("launch.cores", share, f"this machine has {len(places)}", "lower it")
            taken = stack.enter_context(_take("core", [str(core) for core in places], share, progress))
            stack.enter_context(_affinity([int(core) for core in taken]))
        if trainer.threads is None:
            stack.enter_context(_threads(launch.cores or share))
        _check_visible(trainer)
        yield


def check_devices(launch: LaunchSettings, trainer: TrainerSettings) -> list[Problem]:
    """Fewer GPUs for a job than its trainer takes, as far as settings and, for jobs of this machine, the driver tell.

    On the CPU the devices are processes, of which any number will do.
    """
    problem: list[Problem] = []
    if trainer.devices > 1 and trainer.accelerator in _ON_GPUS:
        given, there = launch.gpus or 0, len(gpus(launch)) if driver_gpus() else 0
        if given and (launch.lease or launch.name not in ("local", "joblib")) and given < trainer.devices:
            remedy = f"lower it, or set launch.gpus={trainer.devices}"
            problem = [Problem("trainer.devices", trainer.devices, f"a job gets launch.gpus={given}", remedy)]
        elif launch.name in ("local", "joblib", "submitit_local") and 0 < there < trainer.devices:
            problem = [_too_few(trainer, there)]
    return problem


def _check_visible(trainer: TrainerSettings) -> None:
    """The same where the job runs, which may be another machine, by what torch sees of the GPUs that it got.

    Raises:
        SettingsError: there are fewer.
    """
    if trainer.devices > 1 and trainer.accelerator in _ON_GPUS:
        import torch

        there = torch.cuda.device_count()
        if there < trainer.devices and (there or trainer.accelerator != "auto"):
            raise SettingsError([_too_few(trainer, there)])


def _too_few(trainer: TrainerSettings, there: int) -> Problem:
    reason = f"there are {there} GPUs for it" if there > 1 else f"there is {('no', 'one')[there]} GPU for it"
    return Problem("trainer.devices", trainer.devices, reason, "lower it, or take trainer=cpu")


def workers(launch: LaunchSettings, trainer: TrainerSettings) -> int:
    """How many jobs run at a time: as set, or one for each share of the GPUs, or two where the job uses none."""
    if launch.workers is not None:
        return launch.workers
    wanted = gpus_of_job(launch, trainer)
    return max(1, len(gpus(launch)) // wanted) if wanted else min(2, len(cores()))


def cores_of_job(launch: LaunchSettings, trainer: TrainerSettings) -> int:
    """Cores of a job that uses no GPU: as set, or the machine's divided by the jobs at a time."""
    return launch.cores or max(1, len(cores()) // workers(launch, trainer))


def gpus_of_job(launch: LaunchSettings, trainer: TrainerSettings) -> int:
    """GPUs of a job: as set, or those its trainer takes where there are any."""
    if launch.gpus is not None:
        return launch.gpus
    if trainer.accelerator not in _ON_GPUS:
        return 0
    found = len(gpus(launch))
    devices = str(trainer.devices)
    return min(found, int(devices)) if devices.isdigit() else found


def gpus(launch: LaunchSettings) -> list[str]:
    """The GPUs that are given out: as set, those that `CUDA_VISIBLE_DEVICES` names, or all that the driver shows."""
    if launch.devices is not None:
        return launch.devices
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # outside of a lease, what the user set
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    return driver_gpus()


@cache
def driver_gpus() -> list[str]:
    """The GPUs of this machine, by the driver's folder or its tool; torch is not asked, which takes seconds to load."""
    listed, tool = Path("/proc/driver/nvidia/gpus"), shutil.which("nvidia-smi")
    count = 0
    if listed.is_dir():
        count = len(list(listed.iterdir()))
    elif tool:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20).stdout
            count = sum(line.startswith("GPU ") for line in shown.splitlines())
    return [str(index) for index in range(count)]


def cores() -> list[int]:
    """The cores that this process was given when it started."""
    if not _USABLE:
        has = getattr(os, "sched_getaffinity", None)
        _USABLE.extend(sorted(has(0)) if has else range(os.cpu_count() or 1))
    return _USABLE


def folder() -> Path:
    """Where the locks are: a folder that only this user can write.

    Raises:
        SettingsError: it cannot be made, or belongs to someone else.
    """
    named = os.environ.get(FOLDER)
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    place = Path(named) if named else Path(tempfile.gettempdir()) / f"graftlm-leases-{user}"
    try:
        place.mkdir(mode=0o700, parents=bool(named), exist_ok=True)
        owner = place.lstat().st_uid
    except OSError as error:
        raise SettingsError.at(FOLDER, place, f"cannot be made ({error.strerror})", "name another folder") from error
    if hasattr(os, "getuid") and (place.is_symlink() or owner != os.getuid()):
        raise SettingsError.at(FOLDER, place, "belongs to someone else", "name another folder")
    return place


@contextlib.contextmanager
def _take(kind: str, names: Sequence[str], count: int, progress: Progress) -> Iterator[list[str]]:
    """Locks on `count` of them: all at once or none, so that two who each hold a part never wait for each other."""
    place = folder()
    what = kind if count == 1 else f"{kind}s"
    told = False
    while True:
        with FileLock(place / "choosing.lock"):
            taken: dict[str, FileLock] = {}
            for name in names:
                lock = FileLock(place / f"{kind}-{name.replace(os.sep, '_')}.lock")
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    taken[name] = lock
                if len(taken) == count:
                    break
            else:
                _release(taken)
                taken.clear()
        if taken:
            break
        if not told:
            told = True
            progress.say(f"waiting for {count} free {what} of {len(names)}: other jobs have them")
        time.sleep(_WAIT * random.uniform(0.5, 1.5))
    if told:
        progress.say(f"{what} {', '.join(taken)}: free now")
    try:
        yield list(taken)
    finally:
        _release(taken)


def _release(locks: Mapping[str, FileLock]) -> None:
    for lock in locks.values():
        lock.release()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads: told by the environment where torch is yet to be imported, else to torch."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(count)
    try:
        with environment(OMP_NUM_THREADS=str(count), MKL_NUM_THREADS=str(count)):
            yield
    finally:
        if torch and before:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _affinity(taken: Sequence[int]) -> Iterator[None]:
    """All threads of this process on these cores, where the system lets one say so (Linux)."""
    _pin(taken)
    try:
        yield
    finally:
        _pin(cores())


def _pin(places: Sequence[int]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        return
    tasks = Path("/proc/self/task")
    # a thread that is there already, of a pool of an earlier job, would stay where it is
    for thread in [int(path.name) for path in tasks.iterdir()] if tasks.is_dir() else [0]:
        with contextlib.suppress(OSError):  # a thread that ends meanwhile
            os.sched_setaffinity(thread, places)
