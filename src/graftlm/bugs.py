"""A mistake of ours: a file that can be sent and a line that names it, instead of a traceback.

The file holds the command, versions and the traceback. What looks like a secret is taken out of all of them, the home
folder is written `~`, and of the environment nothing is told.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import graftlm
from graftlm.errors import Problem, first_line
from graftlm.guard import secrets

NAME = "graftlm-bug-{time}.txt"
PACKAGES = (
    "torch pytorch-lightning transformers tokenizers datasets pyarrow hydra-core omegaconf numpy peft optuna wandb"
).split()
HIDDEN = "***"
LONGEST = 200_000  # characters of a traceback: an endless recursion has many

_SECRET = r"(?:api[_-]?key|access[_-]?key|token|secret|passw\w*|credentials?|auth\w*)"
_NAMED = re.compile(rf"(?i)([\w.-]*{_SECRET}['\"]?)(\s*[=:]\s*|\s+(?=\S*\d))(['\"]?)([^\s'\",;]{{6,}})")
_ADDRESS = re.compile(r"(\w+://)[^/\s@]+@")
_SHAPED = re.compile(r"\b(?:hf_\w{10,}|wandb_v\d_\w+|gh[pousr]_\w{10,}|sk-[\w-]{16,}|[0-9a-f]{40})\b")
_LEAST = 6  # characters: a shorter value is no secret, and may be part of any word


def clean(text: str) -> str:
    """The text without what looks like a secret, and with `~` for the home folder."""
    for value in sorted(secrets(_LEAST), key=len, reverse=True):  # one may be part of another
        text = text.replace(value, HIDDEN)
    text = _ADDRESS.sub(rf"\1{HIDDEN}@", text)
    # not in lines of code, as a traceback shows them: they are indented, and hold none
    lines = [line if line.startswith("    ") else _NAMED.sub(rf"\1\2\3{HIDDEN}", line) for line in text.split("\n")]
    text = "\n".join(lines)
    text = _SHAPED.sub(HIDDEN, text)
    home = str(Path.home()) if os.environ.get("HOME") else ""
    return text.replace(home, "~") if len(home) > 1 else text


def told(error: BaseException, remedy: str) -> Problem:
    """The line of a mistake of ours, on the command line and in the record of a job."""
    text = clean(f"{type(error).__name__}: {str(error).strip()}")  # before it is cut: half a secret is none to find
    return Problem("a mistake of graftlm", None, first_line(ValueError(text)), remedy)


def trace(error: BaseException) -> str:
    """The traceback, without what looks like a secret; an endless recursion's is shortened."""
    text = "".join(traceback.format_exception(error))
    return clean(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}\n...\n{text[-LONGEST // 2 :]}")


def report(error: BaseException, words: Sequence[str]) -> Path | None:
    """Write the file into this folder, or where temporary files go; None where neither can be written."""
    content = "\n".join(
        [
            "A mistake of graftlm. Please read this file, and send it to its maintainers.",
            "",
            "command   graftlm " + " ".join(map(shlex.quote, _told(words))),
            f"time      {datetime.now().astimezone().isoformat(timespec='seconds')}",
            f"graftlm   {graftlm.__version__}",
            f"python    {platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}",
            *(f"{name:<17} {version}" for name, version in _versions()),
            "",
            trace(error),
        ]
    )
    name = NAME.format(time=datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):
            file = folder() / name
            file.write_text(clean(content), encoding="utf-8", errors="backslashreplace")
            return file
    return None


def _told(words: Sequence[str]) -> list[str]:
    """The words of a command without values that a name says are secret: `name=value`, or `--name value`."""
    told: list[str] = []
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        before = words[place - 1] if place else ""
        if equals and re.search(rf"(?i){_SECRET}", name):
            word = f"{name}={HIDDEN}"
        elif before.startswith("-") and "=" not in before and re.search(rf"(?i){_SECRET}", before):
            word = HIDDEN
        told.append(word)
    return told


def _versions() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    return found
