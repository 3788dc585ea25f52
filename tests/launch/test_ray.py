"""Sweeps on Ray: started on this machine, and on a cluster of two nodes over the loopback; skipped where Ray is not."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="pip install 'graftlm[ray]'")
pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'graftlm[ray]'")
SMOKE = ("run", "-m", "experiment=smoke", "transfer=none")


def environment(folder: Path) -> dict[str, str]:
    """Of nodes and command alike: Ray asks who joins a cluster for a token, here one of this test alone."""
    token = folder / "token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Two nodes of one core each, started in another folder: their address, and the environment to join them."""
    folder = tmp_path_factory.mktemp("nodes")
    port = free_port()
    common = ("-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--object-store-memory=80000000")
    head = ("--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false")
    others = (f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.2")
    temporary = Path("/tmp") / f"graftlm-ray-{os.getpid()}"  # Ray's sockets need a short path
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for number, words in enumerate(((*head, f"--temp-dir={temporary}"), others)):
            nodes.append(
                subprocess.Popen(
                    [sys.executable, *common, *words],
                    cwd=folder,
                    env=environment(folder),
                    stdout=(folder / f"{number}.log").open("wb"),
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
            deadline = time.monotonic() + 90
            while b"Ray runtime started" not in (folder / f"{number}.log").read_bytes():
                assert nodes[-1].poll() is None, (folder / f"{number}.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"127.0.0.1:{port}", environment(folder)
    finally:
        for node in reversed(nodes):
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            try:
                node.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("multirun/2*/*/job.json"))]


def test_a_sweep_runs_on_both_nodes_of_a_cluster(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, joins = cluster
    words = (*SMOKE, "launch=ray_cluster", f"launch.address={address}", "finetune.seed=1,2")
    result = subprocess.run(
        [sys.executable, "-m", "graftlm", *words],
        cwd=tmp_path,
        env=joins,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    assert [record["status"] for record in records(tmp_path)] == ["done", "done"]
    assert "2 done" in result.stderr
    (page,) = tmp_path.glob("multirun/*/report.html")
    assert result.stdout.rstrip().endswith(f"report: {page.relative_to(tmp_path)}")
    made = [stage["stage"] for record in records(tmp_path) for stage in record["stages"] if not stage["reused"]]
    assert sorted(made) == ["corpus", "evaluate", "evaluate", "finetune", "finetune"]
    # a node has one core and a job takes one: two jobs at the same time are on the two nodes, whose logs, on one
    # machine, Ray shows twice
    told = (result.stdout + result.stderr).splitlines()
    waited = {line.rpartition("job ")[2] for line in told if "another process makes it" in line}
    assert len(waited) == 1, "both ran at once: one waited for the other's corpus"
