"""What a user gets wrong, as rows of a table, and the one test of them all: one clear line, and nothing left behind.

A row runs the real command in an empty folder. `{data}` in it is a folder beside that, with the files that the row
writes. To add a mistake, add a row to the table of its area.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from graftlm.cli import main
from graftlm.hub import reachable

SMOKE = ("run", "experiment=smoke")
FILES = (*SMOKE, "data=files")
# what a job leaves that fails over what only the whole text can tell: its record, what Hydra composed, the log; and who
# began to build
LEFT = re.compile(
    r"multirun/[^/]+/(job\.json|environment\.json|(graftlm|launcher)\.log|\.hydra/.*)"
    r"|multirun/store/corpus/\w+\.(claim-\d+|holder)"
)


@dataclass(frozen=True)
class Mistake:
    """A command, and what its line must say: where (`path`) and what (`words`).

    Attributes:
        files: written into `{data}` by name.
        make: makes what no text can, in `{data}`.
        pair: `{data}` holds a donor and a host that are in order (`donor`, `host`), for `make` to spoil.
        environment: variables; None takes one away.
        late: only the whole text can tell: the job fails when it reads it, with the same kind of line.
        user: permissions are what it is about, which root does not have to obey.
    """

    name: str
    command: tuple[str, ...]
    path: str
    words: tuple[str, ...]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    make: Callable[[Path], Any] | None = None
    pair: bool = False
    environment: Mapping[str, str | None] = field(default_factory=dict)
    late: bool = False
    user: bool = False


def told(mistakes: Sequence[Mistake]) -> Callable[..., None]:
    """The test of a table."""

    @pytest.mark.timeout(60)  # a mistake that nobody notices would train
    @pytest.mark.parametrize("mistake", mistakes, ids=lambda mistake: mistake.name.replace(" ", "-"))
    def test(
        mistake: Mistake,
        request: pytest.FixtureRequest,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        if mistake.user and os.geteuid() == 0:
            pytest.skip("root may read everything")
        data, here = tmp_path / "data", tmp_path / "here"
        if mistake.pair:
            shutil.copytree(request.getfixturevalue("pair"), data)
        data.mkdir(exist_ok=True)
        for name, content in mistake.files.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if mistake.make is not None:
            mistake.make(data)
        there = listing(data)
        here.mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("GRAFTLM_CACHE", str(request.getfixturevalue("cache")))
        for name, value in mistake.environment.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        reachable.cache_clear()
        capfd.readouterr()
        code = main([word.replace("{data}", str(data)) for word in mistake.command])
        out, err = capfd.readouterr()
        reachable.cache_clear()
        lines = err.strip().splitlines()
        assert code == (1 if mistake.late else 2), err
        assert "Traceback" not in out + err
        if mistake.late:
            lines = [line for line in lines if "failed (" in line] or lines
        assert len(lines) == 1, lines
        assert mistake.path in lines[0], lines[0]
        for word in mistake.words:
            assert word in lines[0], lines[0]
        left = listing(here)
        assert [name for name in left if not (mistake.late and LEFT.fullmatch(name))] == [], "something was left behind"
        assert listing(data) == there

    return test


def told_together(mistakes: Sequence[Mistake]) -> Callable[..., None]:
    """The test of a table whose rows differ in their last word alone: one command with all of these words."""

    @pytest.mark.timeout(60)
    def test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(tmp_path)
        assert {mistake.command[:-1] for mistake in mistakes} == {mistakes[0].command[:-1]}
        assert main([*mistakes[0].command[:-1], *(mistake.command[-1] for mistake in mistakes)]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == len(mistakes), lines
        for mistake in mistakes:
            (line,) = [line for line in lines if line.startswith(f"graftlm: {mistake.path}")]
            for word in mistake.words:
                assert word in line, line
        assert list(tmp_path.iterdir()) == [], "something was left behind"

    return test


def listing(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def rows(count: int, **more: object) -> str:
    """Rows as JSON Lines."""
    return "".join(
        json.dumps({"text": f"a long text about number {n}", "summary": f"number {n}", "lang": "de", **more}) + "\n"
        for n in range(count)
    )
