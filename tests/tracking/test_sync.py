"""`graftlm wandb sync`: what it sends, in which order, and what it says where it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_server import served

from graftlm.cli import main
from graftlm.console import Silent
from graftlm.tracking import sync, tracker
from graftlm.tracking.wandb import NOTE

KEY = "a" * 40


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written") / "logs"


@pytest.fixture
def written(stage_context: Any, fill: Callable[[Path, str], None], tmp_path: Path, once: Path) -> Path:
    """A folder with the offline runs of two stages, the later stage's first; written once, and copied."""
    if not once.exists():
        for stage, inputs in (("finetune", ("corpus",)), ("corpus", ())):
            context = stage_context(stage, inputs)
            with tracker(context):
                fill(context.work, stage)
        wandb.teardown()  # its service may still write when a run has been finished
        shutil.copytree(tmp_path / "logs", once, symlinks=True)
        shutil.rmtree(tmp_path / "logs")
    return Path(shutil.copytree(once, tmp_path / "logs", symlinks=True))


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as W&B keeps an account for as long as a process lives."""
    return subprocess.run(
        [sys.executable, "-m", "graftlm", "wandb", "sync", str(folder), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(folder), "NETRC": str(folder / "none"), "WANDB_API_KEY": "", **environment},
    )


def test_runs_are_sent_in_the_order_of_their_stages_and_once(written: Path) -> None:
    with served() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        result = command(written, **account)
        assert result.returncode == 0, result.stderr
        said = result.stdout.splitlines()
        assert said[:2] == ["sweep-1/mine-corpus-1: sent", "sweep-1/mine-finetune-1: sent"]
        assert said[2] == f"2 sent to {server.url}"
        made = [item["input"]["artifactCollectionName"] for item in server.of("CreateArtifact")]
        assert made[0].startswith("corpus-")
        (used,) = server.of("UseArtifact")
        corpus = next(item["input"] for item in server.of("CreateArtifact"))
        assert used["input"]["artifactID"] == corpus["digest"], "the offline run's lineage reaches the server"
        groups = {item["groupName"] for item in server.of("UpsertBucket") if item.get("groupName")}
        assert groups == {"sweep-1"}
        count = len(server.asked)
        again = command(written, **account)
        assert (again.returncode, again.stdout) == (0, "nothing to send; 2 sent before\n")
        assert len(server.asked) == count


def test_a_server_that_refuses_fails_each_run_with_its_words(written: Path) -> None:
    with served(refuses=403) as server:
        result = command(written, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "sweep-1/mine-corpus-1: NOT sent (permission denied)",
        "sweep-1/mine-finetune-1: NOT sent (permission denied)",
        f"0 sent to {server.url}, 2 not",
    ]
    assert "Traceback" not in result.stdout + result.stderr


def test_without_an_account_or_a_network_there_is_one_line(written: Path) -> None:
    result = command(written)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "graftlm: wandb: no account is set up here; `wandb login`, or set WANDB_API_KEY\n"
    with served() as server:
        gone = server.url
    result = command(written, WANDB_API_KEY=KEY, WANDB_BASE_URL=gone)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"graftlm: wandb={gone}: the server cannot be reached (")


def test_silence_has_an_end(written: Path) -> None:
    """A server that answers 500 is asked again and again by W&B."""
    with served(refuses=500) as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        result = command(written, "--patience", "3", **account)
    assert result.returncode == 1
    assert result.stdout.count("NOT sent (no answer for 3 s)") == 2


def test_a_dry_run_lists_and_leaves_out_what_is_still_written(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sync.find([written])
    note = json.loads((second.folder / NOTE).read_text())
    (second.folder / NOTE).write_text(json.dumps({**note, "exit_code": None}))  # this process lives
    assert main(["wandb", "sync", "--dry-run", str(written)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "sweep-1/mine-finetune-1: still running, left out",
        f"sweep-1/mine-corpus-1: {first.folder}",
        "1 to send",
    ]
    (second.folder / NOTE).write_text(json.dumps({**note, "exit_code": None, "pid": 2**22 + 1}))  # it was killed
    assert [run.state for run in sync.find([written])] == ["new", "new"]
    first.file.with_suffix(".wandb.synced").touch()
    assert [run.state for run in sync.find([written])] == ["sent", "new"]


def test_a_run_of_others_goes_last_and_a_folder_that_is_missing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("offline-run-20260101_000000-zzz", "offline-run-20260102_000000-ours"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / f"run-{name[-4:].strip('-')}.wandb").touch()
    (tmp_path / "wandb" / name / NOTE).write_text('{"stage": "evaluate", "group": "g", "name": "n"}')
    assert [run.name for run in sync.find([tmp_path])] == ["g/n", "offline-run-20260101_000000-zzz"]
    assert main(["wandb", "sync", str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["wandb", "sync", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == "nothing to send\n"


def test_a_run_online_tells_the_server_as_it_goes(
    stage_context: Any, fill: Callable[[Path, str], None], tmp_path: Path
) -> None:
    """As far as a double can show it: the run is opened with its names, and its inputs are used."""
    code = (
        "import dataclasses, pickle, sys; from pathlib import Path\n"
        "from graftlm.console import Silent; from graftlm.tracking import tracker\n"
        "class Said(Silent):\n"
        "    lines = []\n"
        "    def say(self, line): self.lines.append(line)\n"
        "context = dataclasses.replace(pickle.loads(Path(sys.argv[1]).read_bytes()), progress=Said())\n"
        "with tracker(context) as track: track.log({'val/loss': 2.0}, 1, {'flops': 1})\n"
        "print(Said.lines)"
    )
    context = stage_context("finetune", ("corpus",), mode="online", entity="me")
    context = dataclasses.replace(context, progress=Silent())  # what the process can read without this file
    fill(context.work, "finetune")
    (tmp_path / "context").write_bytes(pickle.dumps(context))
    with served() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url, "WANDB_MODE": "online", "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "context")],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            env={**os.environ, **account, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"},
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", (done.stdout, [name for name, _ in server.asked])
    opened = next(item for item in server.of("UpsertBucket") if item.get("groupName"))
    assert (opened["groupName"], opened["jobType"], opened["displayName"]) == ("sweep-1", "finetune", "mine-finetune-1")
    (used,) = server.of("UseArtifact")
    names = {item["input"]["digest"]: item["input"]["artifactCollectionName"] for item in server.of("CreateArtifact")}
    assert names[used["input"]["artifactID"]] == f"corpus-{context.inputs['corpus'].name}"
