"""What is remembered of files and of what is installed, and when it is forgotten."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

from graftlm import memo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(memo.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache" / memo.FILE


def settle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass since the file was changed."""
    now = path.stat().st_ctime + memo.SETTLED + 1
    monkeypatch.setattr(time, "time", lambda: now)


def test_the_digest_of_a_large_file_is_remembered_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"a" * memo.LARGE)
    first = memo.digest(file)
    assert first == hashlib.sha256(b"a" * memo.LARGE).hexdigest()
    assert not cache.exists(), "just written: a second change could leave the same times"
    settle(file, monkeypatch)
    assert memo.digest(file) == first
    assert cache.exists()
    monkeypatch.setattr(hashlib, "file_digest", None)  # it is not read again
    assert memo.digest(file) == first
    monkeypatch.undo()
    monkeypatch.setenv(memo.CACHE, str(cache.parent))
    times = file.stat()
    with file.open("r+b") as handle:
        handle.write(b"b")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copying tool may set it back
    settle(file, monkeypatch)
    assert memo.digest(file) != first


def test_small_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(b"a")
    settle(file, monkeypatch)
    assert memo.digest(file) == hashlib.sha256(b"a").hexdigest()
    assert not cache.exists()


def test_values_hold_in_their_state_only() -> None:
    memo.remember("x", [1], {"a": 2})
    assert memo.recall("x", [1]) == {"a": 2}
    assert memo.recall("x", [2]) is None
    memo.remember("y", None, 3)
    assert memo.recall("y", None) is None


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "KEPT", 2)
    for name in ("a", "b", "c"):
        memo.remember(name, 1, name)
    assert [memo.recall(name, 1) for name in ("a", "b", "c")] == [None, "b", "c"]


def test_a_damaged_cache_is_an_empty_one(cache: Path) -> None:
    memo.remember("x", 1, 2)
    cache.write_text("[")
    assert memo.recall("x", 1) is None
    memo.remember("x", 1, 2)
    assert memo.recall("x", 1) == 2


def test_an_installed_package_changes_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site), str(tmp_path / "missing")])
    assert memo.installation() is None, "it changed just now"
    settle(site, monkeypatch)
    before = memo.installation()
    assert before == memo.installation()
    (site / "new-1.0.dist-info").mkdir()
    settle(site, monkeypatch)
    assert memo.installation() not in (before, None)
