"""What a store holds, for whom, and whether it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from graftlm.console import Silent
from graftlm.errors import StoreError
from graftlm.inventory import Artifact, checkpoint_step, described, find, find_uses, take, verify
from graftlm.store import MARKER, SCRATCH, StageKey, Store, write_json

CORPUS = StageKey("corpus", 1, {"data": {"kind": "files", "task": "summarization"}}, {})
PRETRAIN = StageKey(
    "pretrain", 1, {"mask": {"unit": "token", "ratio": 0.3}, "pretrain": {"seed": 4}}, {"corpus": CORPUS.key}
)
FINETUNE = StageKey(
    "finetune",
    1,
    {"transfer": {"name": "naive"}, "finetune": {"seed": 2}},
    {"corpus": CORPUS.key, "pretrain": PRETRAIN.key},
)
EVALUATE = StageKey("evaluate", 1, {"evaluate": {}}, {"corpus": CORPUS.key, "finetune": FINETUNE.key})
CHAIN = (CORPUS, PRETRAIN, FINETUNE, EVALUATE)


def make(store: Path, *keys: StageKey, size: int = 1000) -> None:
    def build(work: Path) -> None:
        (work / "data.bin").write_bytes(b"x" * size)

    for key in keys:
        Store(store).obtain(key, build)


def record(folder: Path, *keys: StageKey, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stages = [{"stage": key.stage, "key": key.key, "reused": False} for key in keys]
    choices = {"transfer": "naive", "model": "pico", "data": "files"}
    write_json(folder / "job.json", {"status": "done", "stages": stages, "choices": choices, **more})
    return folder / "job.json"


def by_stage(artifacts: list[Artifact]) -> dict[str, Artifact]:
    return {item.stage: item for item in artifacts}


def test_artifacts_with_their_users_and_what_they_are_for(tmp_path: Path) -> None:
    store = tmp_path / "multirun" / "store"
    make(store, *CHAIN)
    record(tmp_path / "multirun" / "a" / "0", *CHAIN)
    record(tmp_path / "multirun" / "b", CORPUS)
    record(store / "corpus" / CORPUS.key / "no-job", EVALUATE)  # the store is not searched
    found = by_stage(take(store, [tmp_path / "multirun"]))
    assert list(found) == ["corpus", "pretrain", "finetune", "evaluate"]
    assert {stage: len(item.uses) for stage, item in found.items()} == {
        "corpus": 2,
        "pretrain": 1,
        "finetune": 1,
        "evaluate": 1,
    }
    assert all(item.finished and item.size > 1000 for item in found.values())
    keys = {item.key: item for item in found.values()}
    assert described(found["corpus"], keys) == "files summarization · pico · files"
    assert described(found["pretrain"], keys) == "token 0.3 · seed 4 · pico · files"
    assert described(found["evaluate"], keys) == "naive · token 0.3 · seed 4+2 · pico · files"


def test_what_is_not_finished_tells_whom_it_is_for(tmp_path: Path) -> None:
    """A job that was killed in it, or that its graft was refused to, has it among what it planned, not what it used."""
    (tmp_path / "store" / "finetune" / f"{FINETUNE.key}.partial").mkdir(parents=True)
    make(tmp_path / "store", CORPUS)
    record(tmp_path / "runs" / "0", CORPUS, status="failed", planned=[CORPUS.key, FINETUNE.key])
    record(tmp_path / "runs" / "1", status="failed", planned=None)
    found = by_stage(take(tmp_path / "store", [tmp_path / "runs"]))
    assert [len(item.uses) for item in found.values()] == [1, 1]
    assert not found["finetune"].finished
    assert described(found["finetune"], {}) == "naive · pico · files"


def test_runs_named_twice_count_once(tmp_path: Path) -> None:
    record(tmp_path / "runs" / "a", CORPUS)
    assert len(find_uses([tmp_path / "runs", tmp_path / "runs" / "a"], tmp_path / "store")) == 1


def test_a_use_makes_an_artifact_recently_used(tmp_path: Path) -> None:
    make(tmp_path / "store", CORPUS)
    marker = Store(tmp_path / "store").path(CORPUS) / MARKER
    os.utime(marker, (1000, 1000))
    (item,) = take(tmp_path / "store", [])
    assert item.made == item.used == 1000
    os.utime(record(tmp_path / "runs", CORPUS), (5000, 5000))
    (item,) = take(tmp_path / "store", [tmp_path / "runs"])
    assert (item.made, item.used) == (1000, 5000)


def test_an_unfinished_training_tells_its_step(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    work = tmp_path / "pretrain" / "ab.partial" / SCRATCH
    work.mkdir(parents=True)
    torch.save({"epoch": 3, "global_step": 70_000, "state_dict": {"w": torch.ones(3)}}, work / "last.ckpt")
    (item,) = take(tmp_path, [])
    assert not item.finished
    assert item.step == 70_000
    for step in (0, 200, 5):
        torch.save({"global_step": step, "loops": {"global_step_": 9}}, work / "last.ckpt")
        assert checkpoint_step(work / "last.ckpt") == step
    (work / "last.ckpt").write_bytes(b"PK half")
    assert checkpoint_step(work / "last.ckpt") is None


def test_a_key_by_its_beginning(tmp_path: Path) -> None:
    for key in ("aab1", "aab2", "b"):
        (tmp_path / "corpus" / key).mkdir(parents=True)
        write_json(tmp_path / "corpus" / key / MARKER, {})
    artifacts = take(tmp_path, [])
    assert find(artifacts, "aab1").key == "aab1"
    assert find(artifacts, "corpus/b").key == "b"
    with pytest.raises(StoreError, match=r"several artifacts begin so; give more of it: corpus/aab1, corpus/aab2"):
        find(artifacts, "aa")
    with pytest.raises(StoreError, match="no artifact has this key"):
        find(artifacts, "c")


def test_verify_finds_each_kind_of_damage(tmp_path: Path) -> None:
    make(tmp_path, *CHAIN)
    assert [wrong for _, wrong in verify(take(tmp_path, []), Silent())] == [[], [], [], []]
    store = Store(tmp_path)
    with (store.path(CORPUS) / "data.bin").open("r+b") as handle:
        handle.write(b"y")
    (store.path(PRETRAIN) / "data.bin").unlink()
    (store.path(FINETUNE) / MARKER).write_text("{")
    marker = store.path(EVALUATE) / MARKER
    marker.write_text(marker.read_text().replace(FINETUNE.key, "0" * 20))
    found = {item.stage: wrong for item, wrong in verify(take(tmp_path, []), Silent())}
    assert found == {
        "corpus": ["data.bin has another content"],
        "pretrain": ["data.bin is missing"],
        "finetune": [f"has no readable {MARKER}"],
        "evaluate": ["its settings are not those that its key stands for"],
    }


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder; name it with --store"):
        take(tmp_path / "store", [])
    with pytest.raises(StoreError, match="no such folder; name the folder of your sweeps"):
        find_uses([tmp_path / "runs"], tmp_path)
