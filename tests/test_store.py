"""The store: made once, published whole, continued after a kill, waited for by others."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from graftlm.differences import differences
from graftlm.errors import StoreError
from graftlm.store import MARKER, SCRATCH, StageKey, Store, damage, read_marker

KEY = StageKey("corpus", 1, {"rows": 3}, {})


def build(work: Path) -> None:
    (work / "rows.txt").write_text("one\ntwo\n")


def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path, reused = store.obtain(KEY, build)
    assert not reused
    assert (path / "rows.txt").read_text() == "one\ntwo\n"

    def fail(work: Path) -> None:
        raise AssertionError("built twice")

    assert store.obtain(KEY, fail) == (path, True)
    marker = read_marker(path)
    assert marker["settings"] == {"rows": 3}
    assert list(damage(path, marker, sums=True)) == []


def test_who_may_read_one_file_may_read_all(tmp_path: Path) -> None:
    """safetensors writes for the owner alone; a store may be that of several people."""

    def private(work: Path) -> None:
        (work / "model").mkdir()
        (work / "model" / "weights").write_text("1")
        (work / "model" / "weights").chmod(0o600)

    before = os.umask(0o027)
    try:
        path, _ = Store(tmp_path).obtain(KEY, private)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((path / name).stat().st_mode) for name in (MARKER, "model/weights")} == {0o640}


def test_keys_tell_settings_versions_and_inputs_apart() -> None:
    others = [
        StageKey("corpus", 2, {"rows": 3}, {}),
        StageKey("corpus", 1, {"rows": 4}, {}),
        StageKey("corpus", 1, {"rows": 3}, {"corpus": "x"}),
        StageKey("pretrain", 1, {"rows": 3}, {}),
    ]
    assert len({KEY.key, *(other.key for other in others)}) == 5
    assert StageKey("corpus", 1, {"a": 1, "b": 2}, {}).key == StageKey("corpus", 1, {"b": 2, "a": 1}, {}).key


def test_a_failed_build_is_not_reused_and_is_continued(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def half(work: Path) -> None:
        (work / "first").write_text("done")
        raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        store.obtain(KEY, half)
    assert not store.holds(KEY)
    assert store.started(KEY)
    found: list[str] = []

    def rest(work: Path) -> None:
        found.extend(path.name for path in work.iterdir())
        build(work)

    path, reused = store.obtain(KEY, rest)
    assert (found, reused) == (["first"], False)
    assert sorted(read_marker(path)["files"]) == ["first", "rows.txt"]


def test_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path, _ = store.obtain(KEY, build)
    (path / "rows.txt").write_text("one\n")
    assert not store.holds(KEY)
    path, reused = store.obtain(KEY, build)
    assert not reused
    assert (path / "rows.txt").read_text() == "one\ntwo\n"
    (path / "rows.txt").write_text("TWO\none\n")  # same size
    assert list(damage(path, read_marker(path), sums=True)) == ["rows.txt has another content"]


def test_a_folder_with_other_settings_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path, _ = store.obtain(KEY, build)
    marker = json.loads((path / MARKER).read_text())
    marker["settings"] = {"rows": 5}
    (path / MARKER).write_text(json.dumps(marker))
    with pytest.raises(StoreError, match=r"holds other settings than its key stands for \(rows is 5 instead of 3\)"):
        store.holds(KEY)


WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from graftlm.console import Lines
    from graftlm.store import StageKey, Store

    def build(work):
        with open(sys.argv[2], "a") as log:
            log.write("begun\\n")
        time.sleep(float(sys.argv[3]))
        (work / "rows.txt").write_text("rows")

    Store(Path(sys.argv[1])).obtain(StageKey("corpus", 1, {"rows": 3}, {}), build, Lines())
    """
)


def worker(store: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(store), str(log), str(seconds)], stderr=subprocess.PIPE, text=True
    )


def wait_for(log: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_process_makes_it_and_the_other_waits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = worker(tmp_path / "store", log, 2)
    wait_for(log, 1)
    second = worker(tmp_path / "store", log, 2)
    _, waited = second.communicate(timeout=200)
    first.communicate(timeout=200)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another process makes it" in waited
    assert log.read_text() == "begun\n"


def test_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = worker(tmp_path / "store", log, 60)
    wait_for(log, 1)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=200)
    second = worker(tmp_path / "store", log, 0)
    second.communicate(timeout=200)
    assert second.returncode == 0
    assert Store(tmp_path / "store").holds(KEY)


@pytest.mark.parametrize("point", ["while hashing", "before the rename"])
def test_a_kill_while_publishing_loses_nothing(tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is published as it would have been, and the checkpoint outlives the hashing of a large model."""
    store = Store(tmp_path)

    def killed(path: Path, *arguments: object) -> Path:
        if point == "while hashing" or path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return replace(path, *arguments)  # type: ignore[arg-type]

    replace = Path.replace

    def train(work: Path) -> None:
        (work / SCRATCH).mkdir(exist_ok=True)
        (work / SCRATCH / "last.ckpt").write_text("weights")
        build(work)

    with monkeypatch.context() as patched:
        if point == "while hashing":
            patched.setattr("graftlm.store.file_digest", killed)
        else:
            patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.obtain(KEY, train)
    assert not store.holds(KEY)
    assert bool(list(tmp_path.rglob("last.ckpt"))) == (point == "while hashing")
    path, _ = store.obtain(KEY, build)
    assert store.holds(KEY)
    assert sorted(read_marker(path)["files"]) == ["rows.txt"]
    store.verify(KEY)
    (path / "rows.txt").write_text("TWO\none\n")
    with pytest.raises(StoreError, match="another content"):
        store.verify(KEY)


def test_differences_are_told_by_path() -> None:
    one = {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": None}
    other = {"a": {"b": 2, "c": [1, {"d": 3}]}, "f": [1]}
    assert list(map(str, differences(one, other))) == [
        "a.b is 1 instead of 2",
        "a.c[1].d is 2 instead of 3",
        "e is None instead of absent",
        "f is absent instead of [1]",
    ]
    assert list(differences(one, one)) == []
