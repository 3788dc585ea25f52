"""Huge pages: when a command begins again for them, and that it is the same command then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm.pages import MODE, environment


@pytest.mark.parametrize(
    ("mode", "present", "wanted"),
    [
        ("always [madvise] never", {}, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", {"GLIBC_TUNABLES": "glibc.malloc.perturb=1"},
         "glibc.malloc.perturb=1:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, None),
        ("[always] madvise never", {}, None),
        ("always madvise [never]", {}, None),
        (None, {}, None),
    ],
)  # fmt: skip
def test_when(tmp_path: Path, mode: str | None, present: dict[str, str], wanted: str | None) -> None:
    file = tmp_path / "enabled"
    if mode:
        file.write_text(mode + "\n")
    found = environment({"A": "b", **present}, file)
    assert (found and found["GLIBC_TUNABLES"]) == wanted
    assert found is None or found["A"] == "b"


def test_the_command_is_the_same_after_it_began_again(tmp_path: Path) -> None:
    """As a module and as a script, with the options of the interpreter; what it answers, and with which exit code."""
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    seen = tmp_path / "seen"
    # an interpreter says what it was begun with, before anything else
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"with open({str(seen)!r}, 'a') as file:\n"
        "    print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.flags.optimize, *sys.argv[1:], file=file)\n"
    )
    words = ["run", "experiment=smoke", "transfer=a b"]
    for begin in (["-O", "-m", "graftlm"], ["-O", str(Path(sys.executable).with_name("graftlm"))]):
        seen.write_text("")
        process = subprocess.Popen(
            [sys.executable, *begin, *words],
            cwd=tmp_path,
            env={**plain, "PYTHONPATH": os.pathsep.join([str(tmp_path), plain.get("PYTHONPATH", "")])},
            stderr=subprocess.PIPE,
            text=True,
        )
        _, said = process.communicate(timeout=120)
        assert process.returncode == 2
        assert said.count("transfer=a b") == 1
        lines = [line.split(maxsplit=3) for line in seen.read_text().splitlines()]
        tunables = [None, "glibc.malloc.hugetlb=1"] if environment(plain, MODE) else [None]
        assert [line[:3] for line in lines] == [[str(process.pid), str(tunable), "1"] for tunable in tunables]
