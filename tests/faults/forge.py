"""A process that has loaded the libraries and forks: each command in a process of its own, without their seconds.

Reads requests as lines of JSON and answers each with one. `start`: a command in a folder, with limits and environment,
after some code of the test's; `wait`: its exit code, or null while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any

_LIMITS = {"files": resource.RLIMIT_NOFILE, "file_size": resource.RLIMIT_FSIZE, "memory": resource.RLIMIT_AS}


def load() -> None:
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in (
        "hydra", "pytorch_lightning", "sacrebleu", "rouge_score.rouge_scorer", "graftlm.report", "graftlm.sweep",
        "transformers.models.mbart.modeling_mbart", "transformers.models.xlm_roberta.modeling_xlm_roberta",
        "graftlm.stages.corpus", "graftlm.stages.pretrain", "graftlm.stages.graft", "graftlm.stages.finetune",
        "graftlm.stages.evaluate",
    ):  # fmt: skip
        importlib.import_module(name)


def start(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        os.chdir(asked["folder"])
        for name, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(asked["environment"])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
        exec(asked["code"], {})
        for name, value in asked["limits"].items():
            if name == "memory":  # what it has already is not counted
                value += int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")  # noqa: SIM115, PTH123
            resource.setrlimit(_LIMITS[name], (value, resource.getrlimit(_LIMITS[name])[1]))
        from graftlm.cli import main

        sys.argv = ["graftlm", *asked["words"]]
        code = main()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.01)


def serve() -> None:
    load()
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = start(asked) if asked["do"] == "start" else wait(asked["child"], asked["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
