"""`graftlm store` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm.cli import main
from graftlm.store import StageKey, Store
from test_inventory import CHAIN, CORPUS, EVALUATE, FINETUNE, PRETRAIN, make, record

LATER = StageKey(
    "finetune", 1, {"transfer": {"name": "naive"}, "finetune": {"seed": 3, "lr": 0.1}}, dict(FINETUNE.inputs)
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "multirun" / "store", *CHAIN, LATER)
    record(tmp_path / "multirun" / "a" / "0", *CHAIN, command="graftlm run -m x", overrides=["finetune.seed=2"])
    return tmp_path / "multirun" / "store"


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["store", *words]) == code
    return capsys.readouterr().out


def test_ls(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "pretrain" / "ab12cd34.partial").mkdir()
    lines = told(capsys, "ls").splitlines()
    assert lines[0].split() == ["stage", "key", "size", "age", "took", "jobs", "made", "for"]
    assert [line.split()[:2] for line in lines[1:3]] == [["corpus", CORPUS.key[:8]], ["pretrain", PRETRAIN.key[:8]]]
    assert "naive · token 0.3 · seed 4+2 · pico · files" in lines[-2]
    assert any("ab12cd34" in line and "unfinished" in line for line in lines)
    assert lines[-1].startswith("5 artifacts, ")
    assert lines[-1].endswith("; 1 unfinished, 0 B")
    assert told(capsys, "ls", "--stage", "evaluate").count("\n") == 3
    make(store, StageKey("corpus", 1, {}, {}), size=50_000)
    found = json.loads(told(capsys, "ls", "--json", "--sort", "size"))
    assert found[0]["stage"] == "corpus"
    assert found[0]["size"] > 50_000
    assert [item["jobs"] for item in found if item["key"] == EVALUATE.key] == [["multirun/a/0/job.json"]]


def test_show_and_diff(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "show", FINETUNE.key[:6])
    assert f"finetune/{FINETUNE.key}" in text
    assert "graftlm run -m x (multirun/a/0)" in text
    assert f"  pretrain/{PRETRAIN.key[:8]}  token 0.3 · seed 4 · pico · files\n    corpus/{CORPUS.key[:8]}" in text
    assert "  finetune.seed  2\n" in text
    assert "data.bin  1.0 kB" in text
    assert "used by 1 jobs\n  multirun/a/0  finetune.seed=2" in text
    apart = told(capsys, "show", FINETUNE.key, "--diff", LATER.key).splitlines()
    assert [line.split() for line in apart[1:]] == [["finetune.lr", "absent", "0.1"], ["finetune.seed", "2", "3"]]
    assert told(capsys, "show", LATER.key, "--diff", LATER.key) == "their settings and inputs are the same\n"


def test_verify_tells_what_is_damaged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "verify").endswith("5 artifacts of multirun/store checked, all whole\n")
    with (Store(store).path(PRETRAIN) / "data.bin").open("r+b") as handle:
        handle.write(b"y")
    lines = told(capsys, "verify", code=1).splitlines()
    assert lines[0] == f"pretrain/{PRETRAIN.key}: data.bin has another content"
    assert "1 damaged" in lines[1]
    assert told(capsys, "verify", CORPUS.key, EVALUATE.key).startswith("2 artifacts")


def test_gc_deletes_only_when_told_to(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "gc", "--unreachable")
    assert LATER.key[:8] in text
    assert "would delete 1 of 5 artifacts" in text
    assert Store(store).holds(LATER)
    assert "deleted 1 artifacts" in told(capsys, "gc", "--unreachable", "--yes")
    assert not Store(store).path(LATER).exists()
    assert all(Store(store).holds(key) for key in CHAIN)
    assert told(capsys, "gc", "--unreachable", "--yes").startswith("nothing to delete: no rule lets any of 4 artifacts")
    assert "too large" not in told(capsys, "gc", "--max-size", "0")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gc"], "graftlm store gc: was given no rule; --unreachable, "),
        (["ls", "--stage", "tune"], "--stage=tune: is no stage; one of corpus, "),
        (["show", "zz"], "key=zz: no artifact has this key; graftlm store ls lists them"),
        (["ls", "--store", "nowhere"], "--store=nowhere: no such folder; "),
        (["ls", "--runs", "nowhere"], "--runs=nowhere: no such folder; "),
    ],
)
def test_mistakes_are_a_line(store: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    assert main(["store", *words]) == 2
    assert capsys.readouterr().err.startswith(f"graftlm: {line}")


def test_no_torch_and_no_numpy_are_loaded(store: Path) -> None:
    code = (
        "import sys; from graftlm.cli import main; main(['store', 'ls']); main(['store', 'verify']);"
        "main(['store', 'gc', '--unreachable']); print(*{'torch', 'numpy', 'hydra', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == ""
