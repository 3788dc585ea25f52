"""Offline W&B runs sent to the server, by W&B's own command, in an order that keeps their lineage.

That command ends with 0 whatever becomes of a run, repeats for as long as a server does not answer, and marks what is
done by a file `run-ID.wandb.synced`: here the mark says what became of a run, and silence has an end.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graftlm.errors import ReportError, first_line
from graftlm.store import MARKER
from graftlm.tracking.wandb import NOTE, read_note

State = Literal["new", "sent", "running"]
# who made an artifact is sent before those who use it: W&B takes the first who names one for its maker
_ORDER = ("corpus", "pretrain", "graft", "finetune", "evaluate", "report")
_PARALLEL = 5
_ANSWER = 10.0  # seconds for the server to say anything at all


@dataclass(frozen=True)
class OfflineRun:
    """A run that W&B's SDK wrote to the disk: an offline one, or one of ours that was online and may lack its end."""

    folder: Path
    file: Path
    note: dict[str, Any]

    @property
    def state(self) -> State:
        if self.sent:
            return "sent"
        return "running" if self.note and self.note.get("exit_code") is None and _alive(self.note) else "new"

    @property
    def sent(self) -> bool:
        return self.marked or bool(self.note.get("sent"))

    @property
    def marked(self) -> bool:
        """Whether W&B's own command has sent it."""
        return self.file.with_suffix(".wandb.synced").exists()

    @property
    def name(self) -> str:
        """What it is, in words: sweep and run, or the name of its folder where it is none of ours."""
        if not self.note.get("name"):
            return self.folder.name
        return f"{self.note.get('group')}/{self.note['name']}"

    @property
    def rank(self) -> tuple[int, str]:
        stage = self.note.get("stage")
        return (_ORDER.index(stage) if stage in _ORDER else len(_ORDER)), self.folder.name


def _alive(note: dict[str, Any]) -> bool:
    """Whether the process that wrote a run is there; of one on another machine nobody knows, and it counts as alive."""
    if note.get("host") != socket.gethostname() or not isinstance(note.get("pid"), int):
        return True
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def find(dirs: Sequence[Path]) -> list[OfflineRun]:
    """The runs below some folders that are, or were, to be sent, in that order.

    Raises:
        ReportError: a folder is not there.
    """
    found: dict[Path, OfflineRun] = {}
    for start in dirs:
        if not start.is_dir():
            raise ReportError.at("wandb sync", start, "is no folder", "name the one that logger.dir names")
        for name, inner, files in os.walk(start):
            folder = Path(name)
            if MARKER in files:
                inner.clear()  # an artifact of the store
            ours = folder.name.startswith("run-") and NOTE in files
            if ours or folder.name.startswith("offline-run-"):
                inner.clear()
                for file in sorted(folder.glob("run-*.wandb")):
                    found[file.resolve()] = OfflineRun(folder, file, read_note(folder))
    return sorted(found.values(), key=lambda run: run.rank)


def check_account() -> str:
    """The address of the server, once an account is set up and it answers.

    Raises:
        ReportError: neither.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    try:
        host: str = wandb.setup().settings.base_url
    except Exception as error:  # of its settings, by the library that looks at them
        told = " ".join(str(error).partition(" [")[0].split())
        raise ReportError.at("wandb", None, f"its settings cannot be read ({told})", "mend WANDB_...") from error
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            known = wbauth.authenticate_session(host=host, source="graftlm", no_offline=True, prompt=False)
        except Exception as error:
            raise ReportError.at(
                "wandb", host, f"refuses the account ({first_line(error)})", "`wandb login`"
            ) from error
    if known is None:
        raise ReportError.at("wandb", None, "no account is set up here", "`wandb login`, or set WANDB_API_KEY")
    try:
        with urllib.request.urlopen(host, timeout=_ANSWER):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = f"the server cannot be reached ({reason})"
        raise ReportError.at("wandb", host, why, "check the network, or WANDB_BASE_URL") from error
    return host


def send(
    runs: Sequence[OfflineRun], patience: float, tell: Callable[[OfflineRun, str | None], None], again: bool = False
) -> int:
    """Send the runs, stage by stage; tells of each why it could not be sent (None: it was), and counts those.

    `patience`: seconds without any news after which what is under way counts as failed. `again`: those sent before too.
    """
    failed = 0
    by_stage: dict[int, list[OfflineRun]] = {}
    for run in runs:
        by_stage.setdefault(run.rank[0], []).append(run)
    for _, batch in sorted(by_stage.items()):
        for run, reason in _send_batch(batch, patience, again):
            failed += reason is not None
            tell(run, reason)
    return failed


def _send_batch(batch: Sequence[OfflineRun], patience: float, again: bool) -> Iterator[tuple[OfflineRun, str | None]]:
    """Each run as it is done, then those that were not, with the reason."""
    if again:
        for run in batch:
            run.file.with_suffix(".wandb.synced").unlink(missing_ok=True)
    # a run that was online is left out unless that is asked for
    online = ["--no-skip-online"] if any(run.folder.name.startswith("run-") for run in batch) else []
    files = [str(run.file) for run in batch]
    command = [sys.executable, "-m", "wandb", "sync", "-n", str(_PARALLEL), *online, *files]
    environment = {**os.environ, "WANDB_SILENT": "false", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    waiting, said, silent = list(batch), list[str](), False
    last = time.monotonic()
    ended = False
    try:
        while waiting and not ended:
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=0.2)
                ended = line is None
                if line is not None:
                    said.append(line)
                    last = time.monotonic()
            if ended:
                process.wait()
            for run in [run for run in waiting if run.marked]:
                waiting.remove(run)
                last = time.monotonic()
                yield run, None
            if time.monotonic() - last > patience:
                silent = True
                break
    finally:
        if process.poll() is None and waiting:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
    for run in waiting:
        yield run, f"no answer for {patience:.0f} s" if silent else _reason(run, said)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _reason(run: OfflineRun, said: Sequence[str]) -> str:
    """W&B's own words on a run, or else its last error."""
    id_ = run.file.stem.removeprefix("run-")
    errors = [re.sub(r"^(wandb: )?(ERROR )?", "", line) for line in said if "ERROR" in line or "Error" in line]
    own = [line for line in errors if f"/{id_}]" in line]
    if own or errors:
        return (own or errors)[-1][:200]
    return (said[-1] if said else "W&B's command said nothing")[:200]
