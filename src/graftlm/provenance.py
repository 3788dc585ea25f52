"""What a job ran with: Python, installed packages, and the state of the source trees in git.

No variable of the environment, no name of a machine or user, no content of a file: what is changed in a tree is named,
and the change has a digest, by which two runs can be told apart.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import graftlm

FILE = "environment.json"  # in a job's folder
CHANGED = 100  # names of changed files that are listed
PATIENCE = 10  # seconds for git
_PACKAGE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)\.(?:dist|egg)-info")


@functools.cache
def provenance(folder: Path) -> dict[str, Any]:
    """Plain values for `environment.json`; `folder` is where the command was given."""
    return {
        "version": 1,
        "graftlm": graftlm.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "git": {"graftlm": git_state(Path(graftlm.__file__).parent), "command": git_state(folder)},
    }


def packages() -> dict[str, str]:
    """Installed packages and their versions, by the folders that installers make: the first on the path counts."""
    found: dict[str, str] = {}
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")  # noqa: PTH208 - an entry may be a zip file
        except OSError:
            continue
        for match in filter(None, map(_PACKAGE.fullmatch, names)):
            found.setdefault(match["name"].lower().replace("_", "-"), match["version"])
    return dict(sorted(found.items()))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and changes of the tree that a folder lies in; None where it lies in none, or there is no git."""
    folder = folder.absolute()
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain=v1", "-z")
    if status is None:
        return None
    changed = [entry[3:] for entry in status.decode(errors="replace").split("\0") if entry[2:3] == " "]
    state: dict[str, Any] = {"commit": commit.decode().strip() if commit else None, "dirty": bool(changed)}
    if changed:
        difference = _git(folder, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
        state["changed"] = sorted(changed)[:CHANGED]
        state["diff_sha256"] = hashlib.sha256(difference).hexdigest() if difference is not None else None
    return state


def _git(folder: Path, *words: str) -> bytes | None:
    """What git says, or None. It runs nothing that a tree configures, and takes no lock."""
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *words]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
