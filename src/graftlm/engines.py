"""What the launchers of Hydra's plugins need before a sweep begins: words for Hydra, and what a user got wrong.

The plugins do the launching; nothing here starts a process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from graftlm.composition import quoted
from graftlm.errors import SettingsError
from graftlm.interrupt import Interrupted, ask
from graftlm.job import Job
from graftlm.schema import Settings

STOPPED = "stopped"  # a file in a sweep's folder: its command was asked to end
_LISTEN = ("joblib", "ray", "ray_cluster")  # engines whose workers do not hear what the command hears
_LISTEN_EVERY = 0.5  # seconds
_heard: list[int] = []  # the signal that asked the command to end


def check_launch(jobs: Sequence[Job], multirun: bool) -> None:
    """Refuse what no single job's settings can tell.

    Raises:
        SettingsError: a single run with an engine for sweeps, engines that vary within a sweep, no SLURM here, or more
            cores or GPUs for a job than it gets or this machine has.
    """
    from graftlm import leases

    launch = jobs[0].settings.launch
    if not multirun and launch.name != "local":
        raise SettingsError.at("launch", launch.name, "is for sweeps, and this is a single run", "add -m")
    if any(job.settings.launch != launch for job in jobs):
        names = ",".join(dict.fromkeys(job.settings.launch.name for job in jobs))
        raise SettingsError.at("launch", names, "must be the same for all jobs of a sweep", "choose one")
    if launch.name == "slurm" and shutil.which("srun") is None:
        remedy = "launch=submitit_local runs the same without a scheduler"
        raise SettingsError.at("launch", "slurm", "srun is not on this machine's PATH", remedy)
    trainers = {(job.settings.trainer.accelerator, job.settings.trainer.devices): job.settings.trainer for job in jobs}
    if problems := [problem for trainer in trainers.values() for problem in leases.check_devices(launch, trainer)]:
        raise SettingsError(problems)
    if launch.lease:
        _check_leases(jobs)


def _check_leases(jobs: Sequence[Job]) -> None:
    from graftlm import leases

    launch = jobs[0].settings.launch
    shares = {leases.gpus_of_job(launch, job.settings.trainer) for job in jobs}
    given, usable = len(leases.gpus(launch)), len(leases.cores())
    if len(shares) > 1:
        what = ",".join(map(str, sorted(shares)))
        raise SettingsError.at("trainer.devices", what, "GPUs a job must not vary within a sweep", "set launch.gpus")
    if max(shares) > given:
        remedy = "lower it, or name more in launch.devices"
        raise SettingsError.at("launch.gpus", max(shares), f"there are {given} to give out", remedy)
    if launch.cores is not None and launch.cores > usable:
        raise SettingsError.at("launch.cores", launch.cores, f"this process may use {usable}", "lower it")


def words_for_hydra(settings: Settings, sweep_dir: Path) -> list[str]:
    """Overrides of Hydra's own settings that its launcher needs for these jobs.

    The folder of the sweep is a literal: a worker in another folder, without our environment, must find the same.
    """
    launch = settings.launch
    words = [f"hydra.sweep.dir={quoted(str(sweep_dir))}"]
    if launch.name == "joblib":
        from graftlm import leases

        words.append(f"hydra.launcher.n_jobs={leases.workers(launch, settings.trainer)}")
    elif launch.name.startswith("ray"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return words


def what_to_expect(settings: Settings, sweep_dir: Path) -> str | None:
    """One line on where the jobs run and where to look meanwhile; None where they run in this process."""
    launch = settings.launch
    if launch.name == "local":
        return None
    if launch.name == "joblib":
        from graftlm import leases

        count, given = leases.workers(launch, settings.trainer), len(leases.gpus(launch))
        share = leases.gpus_of_job(launch, settings.trainer)
        if not launch.lease:
            return f"{count} jobs at a time, which share this machine"
        if not share:
            each = leases.cores_of_job(launch, settings.trainer)
            fit, what = len(leases.cores()) // each, f"{each} of {len(leases.cores())} cores"
        else:
            fit, what = given // share, f"{share} of {given} GPUs"
        more = f"; only {fit} fit at once, the others wait" if count > fit else ""
        return f"{count} jobs at a time, each with {what} of its own{more}"
    if launch.name.startswith("ray"):
        return f"jobs go to Ray ({launch.address or 'started on this machine'})"
    return (
        f"jobs go to {'SLURM' if launch.name == 'slurm' else 'processes of this machine'}; logs: {sweep_dir}/.submitit"
    )


@contextlib.contextmanager
def stopping(settings: Settings, sweep_dir: Path) -> Iterator[None]:
    """Within it Ctrl-C or SIGTERM ends the jobs too, wherever they run.

    Joblib and Ray would kill their workers: so the command only leaves a word in the sweep's folder, waits until the
    jobs have saved (`listening`) and ends then; a second signal ends at once. SLURM signals the jobs that it cancels.
    What submitit started on this machine would outlive the command.

    Raises:
        Interrupted: then.
    """
    name = settings.launch.name
    _heard.clear()

    def note(signum: int, frame: object) -> None:
        if _heard:
            raise Interrupted(signum)
        _heard.append(signum)
        with contextlib.suppress(OSError):
            (sweep_dir / STOPPED).touch()
            told = f"graftlm: {signal.Signals(signum).name}: the jobs save and end; once more ends them at once\n"
            os.write(2, told.encode())

    handlers = {signal.SIGTERM: _interrupt}
    if name in _LISTEN:
        handlers = {signal.SIGTERM: note, signal.SIGINT: note}
    elif name == "local" or threading.current_thread() is not threading.main_thread():
        handlers = {}  # in this process a job hears the signal itself
    ignored = [number for number in handlers if signal.getsignal(number) == signal.SIG_IGN]
    before = {number: signal.signal(number, handlers[number]) for number in handlers if number not in ignored}
    try:
        yield
        end_if_asked()
    except KeyboardInterrupt:
        jobs = [path.name for path in (sweep_dir / ".submitit").glob("*") if path.is_dir()]
        if name == "slurm" and jobs:
            arrays = sorted({job.partition("_")[0] for job in jobs})
            subprocess.run(["scancel", *arrays], check=False, capture_output=True)
        elif name == "submitit_local":
            for job in jobs:
                with contextlib.suppress(OSError, ValueError):
                    if b"submitit" in Path(f"/proc/{job}/cmdline").read_bytes():
                        os.kill(int(job), signal.SIGINT)
        raise
    except Exception:
        end_if_asked()  # a worker that was killed meanwhile is no news
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_if_asked() -> None:
    """Between the batches of a sweep, whose jobs have ended early.

    Raises:
        Interrupted: the command was asked to end.
    """
    if _heard:
        raise Interrupted(_heard[0]) from None


def stopped(sweep_dir: Path) -> bool:
    """Whether the command of a sweep was asked to end: its jobs are not begun any more."""
    return (sweep_dir / STOPPED).exists()


@contextlib.contextmanager
def listening(settings: Settings, sweep_dir: Path) -> Iterator[None]:
    """In a worker process: its job saves and ends when the command was asked to end (`stopping`)."""
    if settings.launch.name not in _LISTEN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is heard by all: the command tells the jobs
    over = threading.Event()

    def listen() -> None:
        while not over.wait(_LISTEN_EVERY):
            if stopped(sweep_dir):
                ask()

    thread = threading.Thread(target=listen, name="graftlm-listen", daemon=True)
    thread.start()
    try:
        yield
    except Interrupted:
        pass  # its record tells it; raised, the launcher would kill the others before they have saved
    finally:
        over.set()
        thread.join()


def _interrupt(signum: int, frame: object) -> None:
    raise Interrupted(signum)
