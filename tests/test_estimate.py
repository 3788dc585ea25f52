"""Estimates come from like stages, and from no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from graftlm.commands.plan import _total
from graftlm.compose import compose_jobs
from graftlm.estimate import Costs, duration
from graftlm.job import Words
from graftlm.plan import Fingerprints, PlannedStage, stage_keys
from graftlm.store import MARKER, StageKey, Store, read_marker, write_json

SECONDS = {"corpus": 3.0, "pretrain": 40.0, "graft": 9.0, "finetune": 20.0, "evaluate": 7.0}
FINGERPRINTS = Fingerprints()


def stages(*words: str) -> list[PlannedStage]:
    (job,) = compose_jobs(Words(("experiment=smoke", "transfer=naive", *words)))
    return [PlannedStage(key, "run") for key in stage_keys(job.settings, FINGERPRINTS)]


def finished(store: Path, planned: list[PlannedStage], factor: float = 1.0) -> None:
    """Artifacts without content that took so many seconds."""
    for stage in planned:
        path, _ = Store(store).obtain(stage.key, lambda work: None)
        write_json(path / MARKER, {**read_marker(path), "seconds": factor * SECONDS[stage.key.stage]})


def estimates(store: Path, planned: list[PlannedStage]) -> dict[str, float | None]:
    costs = Costs(store)
    found = {stage.key.stage: costs.estimate(stage, planned) for stage in planned}
    return {stage: None if each is None else each.seconds for stage, each in found.items()}


def test_what_does_not_move_the_cost_may_differ(tmp_path: Path) -> None:
    finished(tmp_path, stages())
    changed = stages("pretrain.seed=5", "mask.ratio=0.3", "finetune.lr=0.1", "finetune.seed=9")
    assert {stage.key.key for stage in changed}.isdisjoint({stage.key.key for stage in stages()[1:]})
    assert estimates(tmp_path, changed) == SECONDS


def test_steps_are_scaled(tmp_path: Path) -> None:
    finished(tmp_path, stages())
    found = estimates(tmp_path, stages("pretrain.max_steps=30", "finetune.max_steps=5", "finetune.seed=2"))
    assert found == {**SECONDS, "pretrain": 120.0, "finetune": 10.0}


@pytest.mark.parametrize(
    ("word", "unknown"),
    [
        ("model.donor.layers=3", {"pretrain", "graft", "finetune", "evaluate"}),
        ("model.host.decoder_layers=3", {"graft", "finetune", "evaluate"}),
        ("model.vocab_size=900", {"corpus", "pretrain", "graft", "finetune", "evaluate"}),
        ("finetune.batch_tokens=2048", {"finetune"}),
        ("transfer=calibrated", {"graft", "finetune"}),
        ("transfer=embeddings", {"graft"}),  # the training after it is the same
        ("transfer=none", set()),
        ("evaluate.num_beams=3", {"evaluate"}),
        ("trainer.precision=bf16-mixed", {"pretrain", "finetune", "evaluate"}),
    ],
)
def test_what_moves_the_cost_must_not(tmp_path: Path, word: str, unknown: set[str]) -> None:
    finished(tmp_path, stages())
    found = estimates(tmp_path, stages(word))
    assert {stage for stage, seconds in found.items() if seconds is None} == unknown


def test_the_nearest_counts(tmp_path: Path) -> None:
    finished(tmp_path, stages("finetune.seed=2", "finetune.lr=0.1"), 3.0)
    finished(tmp_path, stages("finetune.seed=2"), 1.0)
    finished(tmp_path, stages("finetune.seed=2", "finetune.lr=0.2"), 5.0)
    assert estimates(tmp_path, stages())["finetune"] == 20.0


def test_unreadable_and_unfinished_ones_tell_nothing(tmp_path: Path) -> None:
    finished(tmp_path, stages())
    (marker,) = (tmp_path / "pretrain").glob(f"*/{MARKER}")
    shutil.copytree(marker.parent, marker.parent.with_suffix(".partial"))
    marker.write_text("{")
    finetune = next((tmp_path / "finetune").glob(f"*/{MARKER}"))
    finetune.write_text(json.dumps({**json.loads(finetune.read_text()), "seconds": None}))
    found = estimates(tmp_path, stages("finetune.seed=2"))
    assert found["pretrain"] is None
    assert found["finetune"] is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.34, "0.3 s"), (4.4, "4 s"), (61, "61 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ((2.0, 3.0), "time: ~5 s one after the other, as like stages in the store took (1 corpus ~2 s, "),
        ((2.0, None), "time: at least ~2 s one after the other, "),  # what nothing is known of may be most of it
        ((None, None), "time: not known: no like stage in the store tells what these cost (1 corpus, 1 pretrain)"),
    ],
)
def test_a_sum_that_leaves_stages_out_is_no_total(seconds: tuple[float | None, ...], told: str) -> None:
    stages = [PlannedStage(StageKey(stage, 1, {}, {}), "run") for stage in ("corpus", "pretrain")]
    costs = {stage.key.key: took for stage, took in zip(stages, seconds, strict=True)}
    assert _total(costs, [stages]).startswith(told)
