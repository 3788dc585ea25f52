"""Huge pages for what glibc allocates: where a page of 4 kB costs much, as on a virtual machine, training gains most.

Linux gives them to a process that asks for them (where transparent huge pages are on `madvise`, the default of many
systems), and glibc asks from version 2.35 on if a tunable is set, which it reads when a process begins. So the command
begins once more, in the same process, with the tunable in its environment; processes that it starts inherit it.
Elsewhere nothing happens. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` leaves it out. docs/performance.md has the figures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(present: Mapping[str, str], mode: Path = MODE) -> dict[str, str] | None:
    """The environment with the tunable; None where it is set already or would change nothing."""
    others = present.get("GLIBC_TUNABLES", "")
    if TUNABLE in others:
        return None
    try:
        if "[madvise]" not in mode.read_text(encoding="ascii"):
            return None
    except (OSError, ValueError):
        return None
    return {**present, "GLIBC_TUNABLES": ":".join([*[others] * bool(others), f"{TUNABLE}=1"])}


def begin_again() -> None:
    """Begin this command once more with huge pages, where that makes a difference; does not return then."""
    wanted = environment(os.environ)
    if wanted is None:
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    except OSError:
        return  # it works without, only slower
