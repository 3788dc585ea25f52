"""Progress on a real terminal and through a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from graftlm.console import Lines

NESTED = (
    "from graftlm.console import progress_for_terminal\n"
    "progress = progress_for_terminal()\n"
    "print(type(progress).__name__)\n"
    "with progress.task('[outer]', 3) as outer:\n"
    "    for _ in range(3):\n"
    "        with progress.task('inner', None) as inner:\n"
    "            inner(5)\n"
    "        progress.say('[said]')\n"
    "        outer(1)\n"
)


def test_tasks_inside_tasks_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", NESTED], stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    output, _ = process.communicate(timeout=200)
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.returncode == 0, text
    assert output.strip() == b"Bars"
    assert text.count("[said]") == 3
    assert "[outer]" in text
    assert "Traceback" not in text


def test_a_pipe_gets_plain_lines() -> None:
    result = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "Lines"
    assert result.stderr.splitlines() == ["[said]"] * 3


@pytest.mark.parametrize(("counted", "word"), [(3, "done"), (1, "left at 1 of 3 (33%)")])
def test_a_task_left_halfway_is_not_called_done(counted: int, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As that of who waits for a process which is killed."""
    with Lines(interval=0).task("waiting", 3) as advance:
        advance(counted)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"waiting: {word}, ")
