"""Names that records, links and command lines give: they steer no terminal and lead out of no folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from graftlm.cli import main
from graftlm.console import Bars, Lines, tell
from graftlm.errors import Problem, StoreError, first_line, printable
from graftlm.export import export
from graftlm.jobs import bug
from graftlm.report import build_report
from graftlm.store import MARKER, StageKey, Store, file_digest

ESCAPE = "\x1b]0;title\x07\x1b[31m[red]\u202e\x9b2J"
UNFIT = set("\x1b\x07\u202e\x9b\r")
KEY = StageKey("finetune", 3, {"a": ESCAPE}, {})


def steady(text: str) -> bool:
    return not UNFIT & set(text)


def test_lines_that_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    Lines(prefix="a: ").say(f"x\r{ESCAPE}")
    bars = Bars()
    bars.say(ESCAPE)
    with bars.task(ESCAPE, 3) as advance:
        advance(1)
    tell(f"  two  {ESCAPE}\n lines")
    said = capsys.readouterr()
    assert steady(said.out)
    assert r"x\r\x1b]0;title" in said.err
    assert "\u202e" not in said.err
    assert r"]0;title\x07\x1b[31m[red]" in said.err, "markup is text"
    assert said.out.startswith(r"  two  \x1b")
    assert said.out.endswith("\n lines\n")


def test_errors() -> None:
    assert steady(str(Problem("data.train", f"a{ESCAPE}.jsonl", f"no {ESCAPE}", ESCAPE)))
    assert steady(first_line(ValueError(ESCAPE)))
    told = first_line(OSError("cannot reach https://user:hunter2@files.example.org/rows"))
    assert told == "cannot reach https://***@files.example.org/rows"
    assert printable("as it was: a:b@c") == "as it was: a:b@c"


def test_a_mistake_of_ours_is_recorded_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words go into the job's record and from there into reports; they may be those of any library."""
    monkeypatch.setenv("HF_TOKEN", "hf_SecretSecretSecret")
    told = bug(ValueError("401 for https://me:hunter2@example.org with Bearer hf_SecretSecretSecret"), Path("x"))
    assert told.startswith("a mistake of graftlm: ValueError: 401 for https://***@example.org with ")
    assert "Secret" not in told
    assert told.endswith("; send x/graftlm.log to its maintainers")


def test_a_mistake_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["plan", f"experiment={ESCAPE}"],
        ["plan", "data=files", f"data.train=['{ESCAPE}.jsonl']"],
        ["report", ESCAPE],
        ["store", "ls", "--store", ESCAPE],
        ["export", ESCAPE, "--out", "x"],
        [ESCAPE],
    ):
        assert main(words) == 2
    said = capfd.readouterr()
    assert steady(said.out + said.err)
    assert said.err.count("graftlm: ") >= 6


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one model, and the record of a job that used it, which somebody else wrote."""
    monkeypatch.chdir(tmp_path)

    def build(work: Path) -> None:
        (work / "model").mkdir()
        (work / "model" / "config.json").write_text("{}")
        (work / "model" / "weights").write_text("ours")

    path, _ = Store(tmp_path / "multirun" / "store").obtain(KEY, build)
    job = tmp_path / "multirun" / f"sweep{ESCAPE[:12]}" / "0"
    job.mkdir(parents=True)
    record = {
        "choices": {"transfer": ESCAPE, "model": ESCAPE, "data": ESCAPE},
        "overrides": [ESCAPE],
        "command": ESCAPE,
        "settings": {},
        "stages": [{"stage": "finetune", "key": KEY.key, "path": os.path.relpath(path, job), "reused": False}],
    }
    (job / "job.json").write_text(json.dumps(record))
    return tmp_path / "multirun" / "store"


def test_records_in_listings(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "ls"]) == 0
    assert main(["store", "show", KEY.key]) == 0
    assert main(["store", "gc", "--unreachable"]) == 0
    assert main(["store", "ls", "--json"]) == 0
    said = capfd.readouterr()
    assert steady(said.out + said.err)
    assert "[red]" in said.out


def test_a_marker_that_names_files_elsewhere(store: Path, tmp_path: Path) -> None:
    path = Store(store).path(KEY)
    (tmp_path / "private").write_text("of the user")
    marker = json.loads((path / MARKER).read_text())
    entry = {"size": len("of the user"), "sha256": file_digest(tmp_path / "private")}
    for name in ("../../../../private", str(tmp_path / "private"), "model/link"):
        (path / "model" / "link").unlink(missing_ok=True)
        (path / "model" / "link").symlink_to(tmp_path / "private")
        (path / MARKER).write_text(json.dumps(marker | {"files": {**marker["files"], name: entry}}))
        assert not Store(store).holds(KEY)
        with pytest.raises(StoreError, match="leads out of the artifact"):
            Store(store).verify(KEY)
        with pytest.raises(StoreError, match="leads out of the artifact"):
            export(path, tmp_path / "mine")
        assert not (tmp_path / "mine").exists()


def test_what_nobody_listed_is_not_exported(store: Path, tmp_path: Path) -> None:
    """A link that was put beside the files of an artifact."""
    path = Store(store).path(KEY)
    (tmp_path / "private").write_text("of the user")
    (path / "model" / "README.md").symlink_to(tmp_path / "private")
    (path / "model" / "link").symlink_to(tmp_path)
    (path / "model" / "evil.py").write_text("...")
    out = export(path, tmp_path / "mine")
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "weights"]
    assert "of the user" not in (out / "README.md").read_text()


def test_links_in_a_store_are_deleted_and_not_what_they_lead_to(store: Path, tmp_path: Path) -> None:
    path = Store(store).path(KEY)
    kept = tmp_path / "elsewhere"
    shutil.move(path, kept)
    path.symlink_to(kept)
    (record,) = (tmp_path / "multirun").glob("*/0/job.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"stages": []}))
    (tmp_path / "home" / "documents").mkdir(parents=True)
    (store / ".trash").symlink_to(tmp_path / "home")
    assert main(["store", "gc", "--unreachable", "--yes"]) == 0
    assert not path.is_symlink()
    assert (kept / "model" / "weights").read_text() == "ours"
    assert (tmp_path / "home" / "documents").is_dir()


def test_names_of_studies_stay_below_the_store(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("../x", "/x", "..", "a/../../x"):
        assert (
            main(["plan", "-m", "sweep=random", "experiment=smoke", "finetune.seed=1,2", f"search.study={name}"]) == 2
        )
        assert "search.study" in capfd.readouterr().err


def test_a_record_whose_arm_is_a_path(fake_sweep: Any, fake_arm: Any, tmp_path: Path) -> None:
    """Names of arms are columns and anchors in a report, none is a file."""
    folder = fake_sweep().sweep([fake_arm("none"), fake_arm("../../../escaped")], (1, 2, 3))
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    build_report([folder], tmp_path / "out")
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert not [path for path in (tmp_path / "out").rglob("*") if "escaped" in path.name]
