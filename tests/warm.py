"""Commands in processes of their own that begin where the packages of others are loaded already.

Loading torch, Lightning and transformers takes four seconds of a processor, more than most commands of a test need
after it. One process a test session loads them, and nothing of graftlm, and forks a child for each command, which runs
`python -m graftlm` with its own folder, environment, standard streams and random numbers. What such a child cannot
show: that everything is imported where it is needed, and another hash seed than its siblings have. Tests of kills,
signals, launchers, several devices and the wheel start an interpreter each.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = (
    "hydra", "numpy", "omegaconf", "pytorch_lightning", "rouge_score.rouge_scorer", "sacrebleu", "scipy.stats",
    "tokenizers", "torch", "transformers", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.mbart.modeling_mbart",
    "transformers.models.xlm_roberta.modeling_xlm_roberta",
)  # fmt: skip


def graftlm(folder: Path, *words: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -m graftlm WORDS` in a folder, in a child of the warm process: its exit code and what it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, socket.socket(socket.AF_UNIX) as line:
        line.connect(_warm()[0])
        request = json.dumps({"folder": str(folder), "words": words, "environment": {**os.environ}}).encode()
        socket.send_fds(line, [len(request).to_bytes(8)], [out.fileno(), err.fileno()])
        line.sendall(request)
        pid = int.from_bytes(_read(line, 8))
        line.settimeout(timeout)
        try:
            status = int.from_bytes(_read(line, 8))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise
        for file in (out, err):
            file.seek(0)
        told = (out.read().decode(), err.read().decode())
        return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status), *told)


@cache
def _warm() -> tuple[str, subprocess.Popen[bytes]]:
    """The warm process, and where it listens. It ends with this one: its standard input does."""
    address = tempfile.mkdtemp(prefix="warm-") + "/socket"  # the address of a socket has 108 bytes at most
    process = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "the warm process did not begin"
    return address, process


def _read(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = line.recv(count - len(data))
        if not more:
            raise EOFError("the other side is gone")
        data += more
    return data


def _serve(address: str) -> dict[str, Any] | None:
    """Fork a child for each request, and tell how it ended. Returns the request in a child, None at the end."""
    lines: dict[int, socket.socket] = {}
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    while 0 not in (ready := select.select([0, listener, woken], [], [])[0]):
        if woken in ready:
            woken.recv(4096)
            while lines and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with lines.pop(ended[0]) as line, contextlib.suppress(OSError):  # who asked has given up
                    line.sendall(ended[1].to_bytes(8))
        if listener in ready:
            line, _ = listener.accept()
            size, streams, _, _ = socket.recv_fds(line, 8, 2)
            asked: dict[str, Any] = json.loads(_read(line, int.from_bytes(size)))
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in enumerate(streams, 1):
                    os.dup2(stream, number)
                for opened in (listener, woken, wakes, line, *lines.values()):
                    opened.close()
            for stream in streams:
                os.close(stream)
            if not pid:
                return asked
            lines[pid] = line
            line.sendall(pid.to_bytes(8))
    return None


def _run(folder: str, words: list[str], environment: dict[str, str]) -> None:
    """What `python -m graftlm` does in a folder."""
    import numpy as np
    import torch

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    np.random.seed()
    torch.seed()
    sys.path[0] = folder
    sys.argv = ["graftlm", *words]
    runpy.run_module("graftlm", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in PACKAGES:
        import_module(name)
    # a child has only the thread that forks
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a package has started a thread"
    assert not any(name.partition(".")[0] == "graftlm" for name in sys.modules)
    gc.freeze()
    request = _serve(sys.argv[1])
    if request is None:
        shutil.rmtree(Path(sys.argv[1]).parent)
    else:
        _run(**request)
