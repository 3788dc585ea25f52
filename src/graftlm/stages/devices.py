"""A stage on several devices: one process a device, started and watched by torch's elastic agent.

Each process runs the same stage on the same inputs; Lightning finds its place in the agent's environment, inside a
SLURM job too. The process of rank 0 writes, the others only compute. Started this way, and not by Lightning, no process
runs the command again: a sweep inside a sweep is what several devices under Hydra usually end in.

    python -m graftlm.stages.devices REQUEST.json        (what the agent starts)
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from graftlm import errors, interrupt
from graftlm.console import Silent, Watched, progress_for_terminal
from graftlm.context import Labels, Pruned, StageContext
from graftlm.environment import environment
from graftlm.loading import load
from graftlm.running import TrainerSettings
from graftlm.schema import Settings
from graftlm.stages import relay
from graftlm.store import SCRATCH, write_json

_PR_SET_PDEATHSIG = 1
_PRUNED = "pruned.json"
_PROGRESS = "progress.json"
_PATIENCE = 300  # seconds that a process has to end its step and save


def run_on_devices(stage: str, context: StageContext) -> None:
    """Run a stage on `trainer.devices` devices of this machine, and wait for it.

    Raises:
        GraftlmError: what the stage raised, of the lowest rank that failed.
        Pruned: the training was given up.
        Interrupted: a signal came; the others have heard it, saved and ended.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    scratch = context.work / SCRATCH
    scratch.mkdir(exist_ok=True)
    for old in [*scratch.glob("error.*.json"), *scratch.glob("trace.*.txt"), *scratch.glob(_PRUNED)]:
        old.unlink()
    request = scratch / "request.json"
    write_json(
        request,
        {
            "stage": stage,
            "settings": dataclasses.asdict(context.settings),
            "inputs": {name: str(path) for name, path in context.inputs.items()},
            "work": str(context.work),
            "labels": dataclasses.asdict(context.labels),
        },
    )
    trainer = context.settings.trainer
    progress = context.progress
    watched = progress if isinstance(progress, Watched) else Watched(progress)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(trainer.devices),
        run_id=context.work.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # a failed stage goes on from its checkpoint when the command is run again
        monitor_interval=0.2,
        signals_to_handle=",".join(("SIGINT", *trainer.signals)),
        shutdown_timeout=_PATIENCE,
    )
    try:
        with (
            relay.followed(scratch / _PROGRESS, watched),
            _signals_restored(trainer.signals),
            environment(OMP_NUM_THREADS=_threads(trainer), TORCH_CPP_LOG_LEVEL="ERROR"),
        ):
            elastic_launch(config, sys.executable)("-m", __name__, str(request))
    except SignalException as stopped:
        raise interrupt.Interrupted(int(stopped.sigval)) from stopped
    except ChildFailedError as failed:
        raise _told(scratch, failed.get_first_failure()[0]) from failed


@contextmanager
def _signals_restored(names: Sequence[str]) -> Iterator[None]:
    """The agent leaves its own signal handlers behind."""
    numbers = [getattr(signal, name) for name in ("SIGINT", *names) if hasattr(signal, name)]
    kept = {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _threads(trainer: TrainerSettings) -> str:
    """Threads of each process: on the CPU one unless set, or all would take all cores."""
    return str(trainer.threads or os.environ.get("OMP_NUM_THREADS", 1))


def _told(scratch: Path, rank: int) -> Exception:
    """What the processes left behind; `rank` is the one that the agent saw fail first."""
    if (scratch / _PRUNED).exists():
        return Pruned(**json.loads((scratch / _PRUNED).read_text(encoding="utf-8")))
    for path in sorted(scratch.glob("error.*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        problems = [errors.Problem(**problem) for problem in found["problems"]]
        kind: type[errors.GraftlmError] = getattr(errors, found["kind"])
        return kind(problems)
    traces = [path.read_text(encoding="utf-8") for path in sorted(scratch.glob("trace.*.txt"))]
    if traces:
        return RuntimeError(f"the process of rank {rank} failed\n" + "\n".join(traces))
    return errors.TrainingError.at(
        "trainer.devices", None, f"the process of rank {rank} was killed", "the same command goes on from here"
    )


def main(request: Path) -> int:
    """The stage of a request, as the rank that the agent gave this process."""
    if sys.platform == "linux":  # the agent cannot tell its children that it was killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    rank = int(os.environ["RANK"])
    progress = Watched(progress_for_terminal() if rank == 0 else Silent())
    asked: dict[str, Any] = json.loads(request.read_text(encoding="utf-8"))
    context = StageContext(
        Settings.from_mapping(asked["settings"]),
        {name: Path(path) for name, path in asked["inputs"].items()},
        Path(asked["work"]),
        progress,
        Labels(**asked["labels"]),
        leader=rank == 0,
    )
    try:
        watch = relay.told(request.with_name(_PROGRESS), progress) if rank == 0 else nullcontext()
        with interrupt.handled(context.settings.trainer.signals), watch:
            load(f"graftlm.stages.{asked['stage']}").run(context)
    except errors.GraftlmError as error:
        problems = [{**dataclasses.asdict(problem), "value": str(problem.value)} for problem in error.problems]
        write_json(request.with_name(f"error.{rank}.json"), {"kind": type(error).__name__, "problems": problems})
        return 2
    except Pruned as end:
        if rank:  # all end at the same step; the agent hears of it from the one that writes, when that is ready
            return 0
        write_json(request.with_name(_PRUNED), {"step": end.step, "of": end.of, "loss": end.loss})
        return 3
    except KeyboardInterrupt:
        return 130
    except Exception:  # often only the end of the connection to a process that failed before
        request.with_name(f"trace.{rank}.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
