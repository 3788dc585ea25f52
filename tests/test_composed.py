"""Kept compositions: the same as composing, and never of files, words or variables that have changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graftlm import compose, composed
from graftlm.compose import compose_jobs
from graftlm.errors import SettingsError
from graftlm.job import Words

SWEEP = Words(("experiment=smoke", "transfer=none,naive", "finetune.seed=1,2"), multirun=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFTLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "composed"


@pytest.fixture
def composing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time Hydra is asked for a composition from the start."""
    calls: list[int] = []
    hydra = compose._hydra

    def counting(words: Words) -> object:
        calls.append(1)
        return hydra(words)

    monkeypatch.setattr(compose, "_hydra", counting)
    return calls


def test_a_kept_sweep_is_the_composed_one(cache: Path, composing: list[int]) -> None:
    first = compose_jobs(SWEEP)
    assert compose_jobs(SWEEP) == first
    assert repr(compose_jobs(SWEEP)) == repr(first)
    assert len(composing) == 1
    assert compose_jobs(Words(SWEEP.overrides[:1])) != first
    assert len(composing) == 2


def test_files_of_the_user_are_looked_at(tmp_path: Path, composing: list[int]) -> None:
    own = tmp_path / "own" / "mask"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("ratio: 0.25\n")
    words = Words(("experiment=smoke", "mask=mine"), config_dirs=(str(tmp_path / "own"),))
    assert [compose_jobs(words)[0].settings.mask.ratio for _ in range(2)] == [0.25, 0.25]
    (own / "mine.yaml").write_text("ratio: 0.35\n")
    assert compose_jobs(words)[0].settings.mask.ratio == 0.35
    assert len(composing) == 2
    (own / "mine.yaml").unlink()
    with pytest.raises(SettingsError, match="mine: is no choice"):
        compose_jobs(words)


def test_packaged_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = composed.identity(SWEEP)
    assert before is not None, "the packaged configuration can be kept"
    assert composed.identity(SWEEP) == before
    for path in composed.config_folder().rglob("*.yaml"):
        copied = tmp_path / "conf" / path.relative_to(composed.config_folder())
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text())
    monkeypatch.setattr(composed, "config_folder", lambda: tmp_path / "conf")
    same = composed.identity(SWEEP)
    (tmp_path / "conf" / "transfer" / "none.yaml").write_text("name: none\n")
    assert composed.identity(SWEEP) not in (same, None)


@pytest.mark.parametrize("word", ["logger=wandb", "logger.group=${oc.env:MY_GROUP,a}"])
def test_variables_are_looked_at(word: str, composing: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words(("experiment=smoke", word))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    before = compose_jobs(words)[0].settings.logger
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("MY_GROUP", "b")
    after = compose_jobs(words)[0].settings.logger
    assert (before.mode, before.group) != (after.mode, after.group)
    assert len(composing) == 2
    monkeypatch.setenv("UNRELATED", "x")
    compose_jobs(words)
    assert len(composing) == 2


@pytest.mark.parametrize(
    "word",
    [
        "logger.group=${now:%S}",
        "logger.group='${oc.env:${logger.project},x}'",
        "hydra.searchpath=[]",
        "finetune.seed=shuffle(1,2)",
    ],
)
def test_what_does_not_follow_from_words_and_files_is_not_kept(word: str, composing: list[int], cache: Path) -> None:
    for _ in range(2):
        compose_jobs(Words(("experiment=smoke", word), multirun=True))
    assert len(composing) == 2
    assert not list(cache.glob("*"))


def test_a_default_that_time_chooses_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "daily.yaml"
    words = Words(("experiment=daily",), config_dirs=(str(tmp_path),))
    file.write_text("# @package _global_\ndefaults:\n  - override /mask: ${oc.env:MASK,r15}\n")
    assert composed.identity(words) is not None
    file.write_text("# @package _global_\ndefaults:\n  - override /mask: r${now:%d}\n")
    assert composed.identity(words) is None


def test_mistakes_are_not_kept(cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(SettingsError, match="did you mean naive"):
            compose_jobs(Words(("transfer=nave",)))
    assert not list(cache.glob("*"))


def test_a_kept_value_that_is_no_setting_any_more_is_composed_again(cache: Path, composing: list[int]) -> None:
    first = compose_jobs(SWEEP)
    (file,) = cache.glob("*.json")
    content = json.loads(file.read_text())
    for group, value in content["values"]:
        if group == "finetune":
            value["seed"] = "no number"
    file.write_text(json.dumps(content))
    assert compose_jobs(SWEEP) == first
    file.write_text("{")
    assert compose_jobs(SWEEP) == first
    assert len(composing) == 3
    assert compose_jobs(SWEEP) == first
    assert len(composing) == 3


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFTLM_CACHE", str(tmp_path / "file"))
    assert len(compose_jobs(SWEEP)) == 4


def test_the_oldest_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composed, "KEPT", 1)
    compose_jobs(SWEEP)
    (first,) = cache.glob("*.json")
    os.utime(first, (1, 1))
    compose_jobs(Words(("experiment=smoke",)))
    (second,) = cache.glob("*.json")
    assert second != first


PLAN = """
import sys
from graftlm.cli import main
code = main(sys.argv[1:])
heavy = {"hydra", "omegaconf", "yaml", "numpy", "torch", "rich", "datasets", "transformers", "pytorch_lightning"}
print("loaded:", *sorted(heavy & set(sys.modules)))
raise SystemExit(code)
"""


def plan(folder: Path, *words: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PLAN, "plan", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_plan_that_is_kept_loads_nothing_heavy_and_sees_changed_data(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"a text of number {index}", "summary": f"number {index}"}) for index in range(40)]
    (tmp_path / "my.jsonl").write_text("\n".join(rows))
    words = ("-m", "experiment=smoke", "data=files", "data.train=[my.jsonl]", "data.source_lang=en_XX", "mask=r15,r30")
    *first, loaded = plan(tmp_path, *words)
    assert "hydra" in loaded
    *second, loaded = plan(tmp_path, *words)
    assert loaded == "loaded:"
    assert second == first
    (tmp_path / "my.jsonl").write_text("\n".join(rows).replace("number 7", "number 8"))
    *third, loaded = plan(tmp_path, *words)
    assert loaded == "loaded:"
    assert third != first
    assert len(third) == len(first)
