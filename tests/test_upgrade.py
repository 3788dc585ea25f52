"""What an earlier graftlm left, or a later one, is read right or refused with a reason: never misread."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from graftlm import composed, memo
from graftlm.cleanup import wanted
from graftlm.cli import main
from graftlm.compose import compose_jobs
from graftlm.errors import ReportError, SettingsError, StoreError
from graftlm.inventory import find_uses
from graftlm.job import Job, Words
from graftlm.plan import VERSIONS, Fingerprints, plan, stage_keys
from graftlm.report.collect import collect
from graftlm.search.outcome import Told
from graftlm.search.settings import SearchSettings
from graftlm.search.space import Dimension, Search
from graftlm.search.study import Study, content_of
from graftlm.store import MARKER, StageKey, Store


@pytest.fixture(scope="module")
def job() -> Job:
    (found,) = compose_jobs(Words(("experiment=smoke", "transfer=embeddings")))
    return found


@pytest.fixture(scope="module")
def keys(job: Job) -> dict[str, StageKey]:
    return {key.stage: key for key in stage_keys(job.settings, Fingerprints())}


def make(store: Store, key: StageKey) -> Path:
    return store.obtain(key, lambda work: (work / "file").write_text("x"))[0]  # type: ignore[arg-type, return-value]


def at(job: Job, folder: Path) -> Job:
    settings = dataclasses.replace(job.settings, store=dataclasses.replace(job.settings.store, dir=str(folder)))
    return dataclasses.replace(job, settings=settings)


def test_artifacts_of_each_earlier_version_are_not_taken(job: Job, keys: dict[str, StageKey], tmp_path: Path) -> None:
    """Whatever a version was, what was made by it has another key: so says the plan, and the run makes it anew."""
    assert set(keys) == set(VERSIONS)
    store = Store(tmp_path)
    for stage, version in VERSIONS.items():
        for earlier in range(version):
            assert dataclasses.replace(keys[stage], version=earlier).key != keys[stage].key
            make(store, dataclasses.replace(keys[stage], version=earlier))
    (stages,) = plan([at(job, tmp_path)])
    assert {stage.state for stage in stages} == {"run"}
    for key in keys.values():
        make(store, key)
    (stages,) = plan([at(job, tmp_path)])
    assert {stage.state for stage in stages} == {"reuse"}


def test_unfinished_artifacts_of_an_earlier_version_are_not_gone_on_with(
    job: Job, keys: dict[str, StageKey], tmp_path: Path
) -> None:
    earlier = dataclasses.replace(keys["finetune"], version=VERSIONS["finetune"] - 1)
    (tmp_path / "finetune" / f"{earlier.key}.partial" / "scratch").mkdir(parents=True)
    (stages,) = plan([at(job, tmp_path)])
    assert {stage.state for stage in stages} == {"run"}


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("version", 1, "version is 1 instead of"),
        ("stage", "graft", "stage is 'graft' instead of"),
        ("inputs", {}, "inputs.corpus is absent instead of"),
        ("settings", {}, "holds other settings than its key stands for"),
    ],
)
def test_an_artifact_that_was_given_the_name_of_another(
    keys: dict[str, StageKey], tmp_path: Path, part: str, value: Any, told: str
) -> None:
    """A folder that was renamed by hand to save the work of an upgrade."""
    store, key = Store(tmp_path), keys["finetune"]
    other = StageKey(**{**key.as_dict(), part: value})
    made = make(store, other)
    store.path(key).parent.mkdir(exist_ok=True)
    shutil.move(made, store.path(key))
    with pytest.raises(StoreError, match=told):
        store.holds(key)


def test_an_artifact_of_the_same_stage_version_by_another_graftlm_is_taken(
    keys: dict[str, StageKey], tmp_path: Path
) -> None:
    store, key = Store(tmp_path), keys["corpus"]
    marker = make(store, key) / MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"graftlm": "0.0.1", "unknown": [1]}))
    assert store.holds(key)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "has no readable"),
        ("{}", "names no files"),
        ('{"files": ["a"]}', "names no files"),
        ('{"files": {"file": "sha"}}', "does not tell what file was"),
    ],
)
def test_a_marker_of_a_form_that_never_was(keys: dict[str, StageKey], tmp_path: Path, text: str, told: str) -> None:
    store, key = Store(tmp_path), keys["corpus"]
    path = make(store, key)
    if text.startswith('{"'):
        text = json.dumps(key.as_dict() | json.loads(text))
    elif text == "{}":
        text = json.dumps(key.as_dict())
    (path / MARKER).write_text(text)
    assert told in store._unsound(key)
    assert not store.holds(key)


# --- records of jobs --------------------------------------------------------------------------------------------------

# as the first graftlm that wrote records (839f8cf) wrote them: no keys that were planned, no graft, few settings
FIRST = {
    "version": 1,
    "status": "done",
    "error": None,
    "started": "2026-11-01T00:00:00+00:00",
    "seconds": 3.0,
    "command": "graftlm run -m transfer=none,naive",
    "sweep": "2026-11-01_00-00-00",
    "choices": {"model": "pico", "data": "docstrings", "mask": "r15", "transfer": "naive", "logger": "none"},
    "overrides": ["transfer=naive"],
    "seeds": {"pretrain": 1, "finetune": 2},
    "settings": {
        "transfer": {"name": "naive", "steps": [{"step": "naive"}]},
        "finetune": {"seed": 2},
        "mask": {"ratio": 0.15},
    },
    "stages": [{"stage": "finetune", "key": "abc", "path": "../store/finetune/abc", "reused": False}],
}


def write(folder: Path, record: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(record))
    return folder


def first_job(root: Path) -> None:
    write(root / "0", FIRST)
    made = root / "store" / "finetune" / "abc"
    made.mkdir(parents=True)
    rows = [
        {"step": step, "examples": step, "tokens": step, "seconds": step, "val/loss": 5.0 - step} for step in (0, 1, 2)
    ]
    (made / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    transfer = {"strategy": "naive", "seconds": 1.0, "counts": {"donor": {"used": 3}, "host": {"copied": 3}}}
    (made / "transfer.json").write_text(json.dumps(transfer))
    (made / "cost.json").write_text(json.dumps({"seconds": 5.0, "graft_seconds": 1.0, "flops": 7.0}))


def test_a_record_of_the_first_version_is_read(tmp_path: Path) -> None:
    first_job(tmp_path)
    (arm,) = collect([tmp_path]).arms
    (run,) = arm.runs
    assert (arm.transfer, run.finetune_seed, run.pretrain_seed) == ("naive", 2, 1)
    assert list(run.curve["loss"]) == [5.0, 4.0, 3.0]
    assert run.transfer is not None
    assert run.transfer["counts"]["donor"]["used"] == 3, "it stands with the fine-tuning, as it did"
    assert (run.cost["graft_seconds"], run.cost["flops"]) == (1.0, 7.0)
    (use,) = find_uses([tmp_path], tmp_path / "store")
    assert use.keys == {"abc"}
    assert wanted(use) == set()


def test_a_running_job_of_the_first_version_whose_settings_are_not_known_any_more(tmp_path: Path) -> None:
    write(tmp_path / "0", FIRST | {"status": "running", "settings": {"old": 1}})
    (use,) = find_uses([tmp_path], tmp_path / "store")
    with pytest.raises(StoreError, match="what this running job uses cannot be told"):
        wanted(use)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_record_of_another_version(
    tmp_path: Path, version: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out of a report, which says so; and whoever cleans up does not take what it uses for unused."""
    first_job(tmp_path)
    write(tmp_path / "1", FIRST | {"version": version})
    found = collect([tmp_path])
    assert found.jobs == 1
    assert f"is a record of version {version}, of which nothing is known here" in found.warnings[0]
    with pytest.raises(ReportError, match=f"record of version {version}"):
        collect([tmp_path / "1"])
    assert (
        main(["store", "gc", "--store", str(tmp_path / "store"), "--runs", str(tmp_path), "--unreachable", "--yes"])
        == 2
    )
    assert "what it uses is not known here; use the graftlm that wrote it" in capsys.readouterr().err
    assert (tmp_path / "store" / "finetune" / "abc").is_dir()


def test_a_report_of_an_earlier_version_says_nothing_in_a_card(tmp_path: Path) -> None:
    """Version 1 of report.json had one interval and no primary figure: a card is made without a comparison."""
    from graftlm.export.source import find

    store = Store(tmp_path / "store")
    key = StageKey("finetune", 3, {}, {})

    def build(work: Path) -> None:
        (work / "model").mkdir()
        (work / "model" / "config.json").write_text("{}")

    path, _ = store.obtain(key, build)
    stages = [{"stage": "finetune", "key": key.key, "path": f"../../store/finetune/{key.key}", "reused": False}]
    folder = write(tmp_path / "sweep" / "0", FIRST | {"stages": stages})
    assert path.is_dir()
    report: dict[str, Any] = {"headline": "better", "arms": [{"name": "naive", "seeds": [{"job": str(folder)}]}]}
    for version, taken in ((2, True), (1, False), (3, False), (None, False)):
        (folder.parent / "report.json").write_text(json.dumps(report | {"version": version}))
        assert bool(find(folder, tmp_path / "store").report) == taken


# --- studies and caches -----------------------------------------------------------------------------------------------


def search(store: Path) -> Search:
    words = Words(
        ("experiment=smoke", "sweep=random", "search.study=mine", f"store.dir={store}", "finetune.warmup=0.0,0.1"), True
    )
    from graftlm.compose import compose_search

    found = compose_search(words)
    assert found is not None
    return found


def test_a_study_of_other_stages_is_not_gone_on_with(tmp_path: Path) -> None:
    """Its values were measured by stages of another version: the keys of these are part of what it is about."""
    wished = search(tmp_path)
    study = Study.prepare(wished)
    now = content_of(wished)
    study.optuna.set_user_attr("search", now | {"job": ["keys", "of", "an", "earlier", "version"]})
    with pytest.raises(SettingsError, match=r"mine: is a study of other settings, data or checkpoints"):
        Study.prepare(wished)
    study.optuna.set_user_attr(
        "search", {"objectives": now["objectives"], "space": now["space"]}
    )  # before keys counted
    with pytest.raises(SettingsError, match="give it another name"):
        Study.prepare(wished)
    study.optuna.set_user_attr("search", now)
    assert Study.prepare(wished).name == "mine"


def test_a_journal_of_another_optuna_is_refused(tmp_path: Path) -> None:
    study = Study("a", SearchSettings(sampler="random", trials=3), tmp_path)
    with study.working():
        (trial,) = study.take(1, (Dimension("finetune.warmup", low=0.0, high=0.5),), tmp_path / "sweep")
        study.tell(trial, Told("complete", [1.0]))
    with (study.folder / "journal.log").open("a") as journal:
        journal.write(json.dumps({"op_code": 99, "worker_id": "x", "unknown": 1}) + "\n")
    with pytest.raises(SettingsError, match="cannot be opened"):
        Study("a", SearchSettings(sampler="random", trials=3), tmp_path)


def test_caches_of_other_forms_are_empty_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTLM_CACHE", str(tmp_path))
    words = Words(("experiment=smoke",))
    fresh = compose_jobs(words)
    (kept,) = (tmp_path / "composed").glob("*.json")
    for text in (
        "[]",
        "{}",
        '{"values": [], "jobs": [{"overrides": [], "choices": {}, "settings": [3]}]}',
        '{"jobs": []',
    ):
        kept.write_text(text)
        assert composed.load(kept.stem) is None or text == '{"values": [], "jobs": []}'
        assert compose_jobs(words) == fresh
    for text in ("[]", '{"name": "value"}', '{"name": [1, 2, 3]}', '{"name": {"a": 1}}'):
        (tmp_path / "known.json").write_text(text)
        assert memo.recall("name", [1]) is None
