"""The table over all strategies: whether it has them all, and what it says of those that ran and of the rest."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import marks, strategies
from graftlm.cli import main
from graftlm.commands.words import parse_words
from graftlm.compose import compose_jobs

STRATEGIES = {path.stem for path in (Path(__file__).parents[2] / "conf" / "transfer").glob("*.yaml")}


def test_every_strategy_has_its_part_and_every_part_composes(tmp_path: Path) -> None:
    known = strategies.parts(tmp_path / "stand_in")
    assert {arm for part in known.values() for arm in part.arms} == STRATEGIES
    for part in known.values():
        words = ["-m", "experiment=strategies", f"transfer={','.join(part.arms)}", "finetune.seed=1", *part.words]
        assert [job.choices["transfer"] for job in compose_jobs(parse_words(words))] == list(part.arms)


def test_a_part_runs_each_job_by_itself_and_then_the_sweep_that_finds_them_done(tmp_path: Path) -> None:
    def keys(words: list[str]) -> list[Any]:
        jobs = [job.settings for job in compose_jobs(parse_words(words[1:]))]
        return [(each.model, each.data, each.transfer, each.finetune, each.trainer, each.store) for each in jobs]

    options = argparse.Namespace(texts=tmp_path, seeds=2, workers=1)
    part = replace(strategies.parts(tmp_path)["leading"], arms=("none", "naive"))
    *alone, sweep = strategies.commands(tmp_path, part, options)
    assert [key for words in alone for key in keys(words)] == keys(sweep)
    assert len(alone) == 4
    (workers,) = strategies.commands(tmp_path, part, argparse.Namespace(**{**vars(options), "workers": 3}))
    assert "launch.workers=3" in workers
    assert keys(workers) == keys(sweep)


def test_what_would_end_hours_of_work_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["strategies", str(tmp_path), str(tmp_path / "new")]
    monkeypatch.setattr("sys.argv", [*words, "--docs", str(tmp_path / "no")])
    assert strategies.main() == 2
    told = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told[:6]] == ["no such file"] * 6
    assert len(told) == 7
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("sys.argv", [*words, "--only", "bilt"])
    with pytest.raises(SystemExit):
        strategies.main()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with the files that the benchmark looks for, with nothing in them."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for lang in strategies.LANGUAGES:
        for split in ("train", "validation", "test"):
            (folder / f"{lang}.{split}.jsonl").touch()
    return folder


def test_a_part_onto_the_stand_in_waits_for_it(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["strategies", str(texts), str(tmp_path / "new"), "--only", "delta"])
    assert strategies.main() == 1
    assert "delta: left out" in capfd.readouterr().err
    model = tmp_path / "new" / "store" / "graft" / "abc" / "model"
    model.mkdir(parents=True)
    for name, status in (("1", "interrupted"), ("2", "done")):
        job = tmp_path / "new" / "sweeps" / "host" / "multirun" / "2026-01-01" / name
        job.mkdir(parents=True)
        stages = [{"stage": "graft", "path": "../../../../../store/graft/abc"}] if status == "done" else []
        record = {"status": status, "choices": {"transfer": "denoising"}, "stages": stages}
        (job / "job.json").write_text(json.dumps(record), encoding="utf-8")
    (job.parent / "sweep.json").touch()
    link = tmp_path / "new" / "stand_in"
    assert strategies._link(link, tmp_path / "new" / "sweeps" / "host")
    assert link.resolve() == model.resolve()


def test_a_page_is_not_emptied_by_a_folder_in_which_nothing_has_run(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- strategies -->\n| `full` |\n<!-- /strategies -->\n", encoding="utf-8")
    before = page.read_bytes()
    words = ["strategies", str(texts), str(tmp_path / "mistyped"), "--only", "table", "--docs", str(page)]
    monkeypatch.setattr("sys.argv", words)
    assert strategies.main() == 2
    assert "nothing has been run" in capfd.readouterr().err
    monkeypatch.setattr("sys.argv", [*words, "--seeds", "0", "--workers", "-1"])
    assert strategies.main() == 2
    told = capfd.readouterr().err
    assert "--seeds: 0" in told
    assert "--workers: -1" in told
    assert page.read_bytes() == before


def test_a_share_has_no_interval_below_zero_and_none_where_a_seed_has_not_come_there() -> None:
    reached = [{"steps_share": share, "steps_share_above": None} for share in (0.0, 0.02, 0.1)]
    assert re.fullmatch(r"0\.04 \[0\.00, 0\.1\d\]", strategies._share(reached, "steps_share"))
    not_yet = {"steps_share": None, "steps_share_above": 0.25}
    assert strategies._share([*reached[1:], not_yet], "steps_share") == "0.02, 0.10, > 0.25"
    assert strategies._interval([-0.3, 0.1]).startswith("-0.10 [-")


def test_the_table_has_means_of_what_ran_and_names_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = strategies.parts(tmp_path / "stand_in")
    assert set(re.findall(r"`(\w+)`", strategies.table(tmp_path, known))) == STRATEGIES

    (tmp_path / "sweeps" / "leading").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "sweeps" / "leading")
    small = ["trainer=cpu", "trainer.threads=1", "pretrain.max_steps=4", "finetune.max_steps=4", "evaluate.max_pairs=4"]
    sweep = ["transfer=none,naive", "finetune.seed=1,2"]
    assert main(["run", "-m", "experiment=smoke", *small, *sweep]) == 0
    (tmp_path / "sweeps" / "long").mkdir()
    monkeypatch.chdir(tmp_path / "sweeps" / "long")
    longer = ["finetune.max_steps=8", "transfer=none", "finetune.seed=2,3"]
    assert main(["run", "-m", "experiment=smoke", *small, *longer]) == 0
    monkeypatch.setattr(strategies, "LEADING", ("none", "naive"))
    monkeypatch.setattr(strategies, "COMPARED", (("none", "naive"), ("naive", "full")))
    shown, _, against = strategies.table(tmp_path, known).partition("\n\n")
    rows = {cells[1]: cells for line in shown.splitlines() if (cells := [cell.strip() for cell in line.split("|")])[1:]}
    assert rows["`none`"][2:5] == ["built", "2", "–"]
    assert rows["`naive` (control)"][3] == "2"
    assert re.fullmatch(r"-?\d\.\d\d, -?\d\.\d\d", rows["`naive` (control)"][4])
    losses = [float(cells[7]) for name, cells in rows.items() if name.startswith("`")]
    assert losses == sorted(losses)
    pairs, _, missing = against.partition("\n\nNot run: ")
    beside = {
        cells[2]: cells for line in pairs.splitlines()[2:] if (cells := [cell.strip() for cell in line.split("|")])
    }
    short, long = "`none`, built", f"`none`, {strategies.LONG}"
    assert {other: cells[3] for other, cells in beside.items()} == {short: "2", long: "1", "`naive`": "2"}
    assert re.fullmatch(r"-?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\]", beside[short][4])
    assert re.fullmatch(r"-?\d+\.\d\d", beside[long][4])  # of one pair there is no interval
    first, best = (float(rows[name][column]) for name, column in (("`naive` (control)", 5), ("`none`", 6)))
    assert float(beside[short][4].split()[0]) == pytest.approx(first - best, abs=0.02)
    # the same fine-tuning by name is about half of twice the steps
    assert float(beside[long][11]) == pytest.approx(float(beside[short][11].split()[0]) / 2, rel=0.2)
    assert "`full` (built)" in missing
    assert "`none` (built)" not in missing

    file = tmp_path / "page.md"
    file.write_text("a\n<!-- strategies -->\nold\n<!-- /strategies -->\nb\n", encoding="utf-8")
    marks.put(file, "strategies", shown)
    assert file.read_text(encoding="utf-8") == f"a\n<!-- strategies -->\n{shown}\n<!-- /strategies -->\nb\n"
    with pytest.raises(ValueError, match="bench"):
        marks.put(file, "bench", shown)
