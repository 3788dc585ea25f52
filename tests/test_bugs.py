"""What nobody foresaw: one line, a file that can be sent, and nothing in it that is nobody's business."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graftlm import bugs
from graftlm.cli import main
from graftlm.commands import data

Raise = Callable[[BaseException], None]


@pytest.fixture
def raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Raise:
    """Makes `graftlm data` meet an error."""
    monkeypatch.chdir(tmp_path)

    def set_up(error: BaseException) -> None:
        def run(arguments: object) -> int:
            raise error

        monkeypatch.setattr(data, "run", run)

    return set_up


def test_a_mistake_of_ours_is_one_line_and_a_file(
    raises: Raise, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raises(KeyError("a\nb"))
    assert main(["data", "data=files", "data.train=[my file.jsonl]"]) == 3
    (file,) = tmp_path.iterdir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"graftlm: a mistake of graftlm: KeyError: 'a\\nb'; send {file} to its maintainers"
    told = file.read_text()
    for part in (
        "command   graftlm data data=files 'data.train=[my file.jsonl]'",
        "graftlm   0.1",
        "Traceback",
        "raise",
    ):
        assert part in told
    assert "\npython    3." in told
    assert "\ntorch  " in told


def test_no_secret_and_nothing_of_the_environment(
    raises: Raise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    monkeypatch.setenv("SOME_PASSWORD", "correct horse")
    monkeypatch.setenv("GRAFTLM_UNTOLD", "a value of the environment")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hub = "hf_" + "a" * 30
    raises(
        RuntimeError(
            f"401 for https://me:correcthorse@example.org with {hub}, 0123456789secret, correct horse, "
            f"Authorization: Bearer12345 in {tmp_path}/home/runs"
        )
    )
    assert main(["data", "+logger.api_key=abcdefgh12", "model.token='xyzxyz99'"]) == 3
    (file,) = tmp_path.glob("graftlm-bug-*.txt")
    told = file.read_text() + capsys.readouterr().err
    for secret in (
        "0123456789secret", "correct horse", "correcthorse", hub, "Bearer12345", "abcdefgh12", "xyzxyz99",
        "a value of the environment", f"{tmp_path}/home",
    ):  # fmt: skip
        assert secret not in told
    assert "https://***@example.org" in told
    assert "~/runs" in told


def test_half_a_secret_is_not_left_where_a_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    told = str(bugs.told(ValueError("x" * 175 + "0123456789secret and more"), "send it"))
    assert "0123" not in told
    assert told.endswith("; send it")


def test_a_traceback_for_a_log_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", "correct horse")
    try:
        raise ValueError("correct horse refused")
    except ValueError as error:
        told = bugs.trace(error)
    assert told.startswith("Traceback")
    assert told.endswith("ValueError: *** refused\n")


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    raises: Raise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    raises(RecursionError("deep"))
    monkeypatch.chdir(gone)
    monkeypatch.setattr(bugs.tempfile, "gettempdir", lambda: str(tmp_path))
    gone.rmdir()
    assert main(["data"]) == 3
    (file,) = tmp_path.glob("graftlm-bug-*.txt")
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), "x/y: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: Permission denied; change its permissions"),
        (OSError(errno.EMFILE, "Too many open files"), "data: Too many open files; allow more open files"),
        (MemoryError(), "memory: is exhausted; give it more"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory: is exhausted; give it more"),
        (ValueError("Error while serializing: I/O error: No space left on device (os error 28)"), "data: No space"),
    ],
)
def test_what_a_machine_lacks_is_no_mistake_of_ours(
    error: Exception, line: str, raises: Raise, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raises(error)
    assert main(["data"]) == 2
    assert capsys.readouterr().err.startswith(f"graftlm: {line}")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_does_not_know_every_letter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def run(arguments: object) -> int:
        print("de → en \udcff")
        return 0

    monkeypatch.setattr(data, "run", run)
    for encoding, printed in (("ascii", b"de \\u2192 en \\udcff\n"), ("utf-8", "de → en \\udcff\n".encode())):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert main(["data"]) == 0
        sys.stdout.flush()
        assert written.getvalue() == printed
