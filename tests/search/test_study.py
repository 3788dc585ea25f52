"""The study alone: jobs are records written by hand, all else is real, other processes too."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftlm.record import RECORD
from graftlm.search.outcome import Told
from graftlm.search.settings import SearchSettings
from graftlm.search.space import Dimension
from graftlm.search.study import JOURNAL, Study

SPACE = (
    Dimension("finetune.lr", low=1e-4, high=1e-1, log=True),
    Dimension("finetune.warmup", low=0.0, high=0.5),
    Dimension("mask", ("r15", "r30")),
)


def settings(sampler: Any = "random", trials: int = 8, **more: Any) -> SearchSettings:
    return SearchSettings(sampler=sampler, trials=trials, startup_trials=3, **more)


def value(params: dict[str, Any]) -> float:
    return abs(params["finetune.lr"] - 1e-2) + params["finetune.warmup"]


def work(store: Path, chosen: SearchSettings, stop: int | None = None) -> list[dict[str, Any]]:
    """Take and tell trials until there are none, or leave one running after `stop`; the parameters in order."""
    study = Study("a", chosen, store)
    done = 0
    with study.working():
        while trials := study.take(1, SPACE, store / "sweep"):
            if done == stop:
                break
            study.tell(trials[0], Told("complete", [value(trials[0].params)] * len(chosen.objectives)))
            done += 1
    return [trial.params for trial in study.trials if trial.state.is_finished()]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsga2"])
def test_a_study_that_was_left_goes_on_as_it_would_have(tmp_path: Path, sampler: str) -> None:
    objectives = ["val_loss", "flops"] if sampler == "nsga2" else ["val_loss"]
    chosen = settings(sampler, objectives=objectives, population=3)
    calm = work(tmp_path / "calm", chosen)
    assert len(work(tmp_path / "left", chosen, stop=5)) == 5
    again = work(tmp_path / "left", chosen)
    assert len(calm) == len(again) == 8
    # the one that was left running is begun again with its parameters, under a new number
    assert again[:6] == calm[:6]
    if sampler in ("random", "tpe"):  # the others count generations by the numbers of trials
        assert again == calm
        assert len({json.dumps(params) for params in calm}) == 8
    assert work(tmp_path / "left", chosen) == again, "a study that has its total takes no trial"


def test_more_trials_are_a_new_total(tmp_path: Path) -> None:
    first = work(tmp_path, settings(trials=3))
    more = work(tmp_path, settings(trials=5))
    assert len(more) == 5
    assert more[:3] == first
    assert len(work(tmp_path, settings(trials=2))) == 5


def test_a_failed_trial_counts_but_is_never_the_best(tmp_path: Path) -> None:
    study = Study("a", settings(trials=3), tmp_path)
    with study.working():
        for told in (Told("failed", error="loss is nan"), Told("complete", [7.0]), Told("pruned", error="given up")):
            (trial,) = study.take(1, SPACE, tmp_path / "sweep")
            study.tell(trial, told)
        assert study.take(1, SPACE, tmp_path / "sweep") == []
    assert study.counts() == {"complete": 1, "pruned": 1, "failed": 1}
    assert study.optuna.best_trial.number == 1
    assert study.trials[0].user_attrs["error"] == "loss is nan"
    assert study.trials[0].values is None


def test_a_trial_whose_job_ended_after_its_sweep_was_killed_is_not_run_again(tmp_path: Path) -> None:
    study = Study("a", settings(trials=2), tmp_path)
    with study.working():
        (trial,) = study.take(1, SPACE, tmp_path / "sweep")
    folder = study.job(trial)
    assert folder == tmp_path / "sweep" / "0"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps({"status": "pruned", "error": "given up at step 4 of 9"}))
    later = Study("a", settings(trials=2), tmp_path)
    with later.working():
        (other,) = later.take(2, SPACE, tmp_path / "later")
    assert later.counts() == {"pruned": 1, "running": 1}
    assert other.params != trial.params


def _take_all(store: Path, barrier: Any) -> None:
    study = Study("a", settings(trials=12), store)
    with study.working():
        trials = study.take(1, SPACE, store / "sweep")
        barrier.wait(60)  # each has one: a fast process would else take them all
        while trials:
            study.tell(trials[0], Told("complete", [value(trials[0].params)]))
            trials = study.take(1, SPACE, store / "sweep")


def _hold(store: Path) -> None:
    study = Study("a", settings(trials=3), store)
    with study.working():
        study.take(1, SPACE, store / "sweep")
        (store / "held").touch()
        time.sleep(300)


def test_processes_share_a_study(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_take_all, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    study = Study("a", settings(trials=12), tmp_path)
    assert study.counts() == {"complete": 12}
    assert len({json.dumps(trial.params) for trial in study.trials}) == 12
    assert len({trial.user_attrs["owner"] for trial in study.trials}) == 2, "both took part"


def test_a_trial_is_left_to_its_process_until_that_is_gone(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path,))
    process.start()
    wait_for(lambda: (tmp_path / "held").exists())
    study = Study("a", settings(trials=2), tmp_path)
    with study.working():
        (mine,) = study.take(2, SPACE, tmp_path / "other")
        assert mine.number == 1, "one of two is another's"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        (again,) = study.take(2, SPACE, tmp_path / "other")
        assert again.number == 2
    assert study.optuna.get_trials()[0].params == again.params
    assert study.counts() == {"running": 2}


def wait_for(condition: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_line_that_a_dying_machine_cut_short_does_no_harm(tmp_path: Path) -> None:
    first = work(tmp_path, settings(trials=2))
    journal = tmp_path / "studies" / "a" / JOURNAL
    with journal.open("ab") as handle:
        handle.write(b'{"op_code":4,"wor')
    assert len(work(tmp_path, settings(trials=4))) == 4
    assert work(tmp_path, settings(trials=4))[:2] == first
    for line in journal.read_text().splitlines():
        json.loads(line)


def test_a_study_in_a_database(tmp_path: Path) -> None:
    chosen = settings(trials=2, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(work(tmp_path, chosen)) == 2
    assert not (tmp_path / "studies" / "a" / JOURNAL).exists()
    assert len(work(tmp_path, chosen)) == 2
