"""Which settings change which stage's key: a key that misses one would hand out a wrong artifact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from graftlm import memo, plan
from graftlm.compose import compose_jobs
from graftlm.errors import SettingsError
from graftlm.job import Words
from graftlm.plan import Fingerprints, stage_keys
from graftlm.schema import Settings

FINGERPRINTS = Fingerprints()
ALL = {"corpus", "pretrain", "graft", "finetune", "evaluate"}
TRAINED = ALL - {"corpus"}
TUNED = {"finetune", "evaluate"}
GRAFTED = {"graft", *TUNED}
# setting (or group) -> another value, and the stages whose key must change; a longer path wins over its group
EXPECTED: dict[str, tuple[Any, set[str]]] = {
    "model.format": ("cc25", ALL),
    "model.vocab_size": (900, ALL),
    "model.trim": (7, ALL),
    "model.donor": (None, TRAINED),
    "model.host": (None, GRAFTED),
    "model.host.dropout": (0.3, TUNED),  # of a host that no step trains
    "data": (None, ALL),
    "mask": (None, TRAINED),
    "transfer": (None, TUNED),
    "transfer.steps": (None, GRAFTED),
    "transfer.control": (None, GRAFTED),
    "transfer.fidelity_texts": (None, GRAFTED),
    "transfer.calibration_texts": (None, GRAFTED),
    "transfer.adapter.rank": (4, TRAINED),
    "transfer.adapter.targets": (["out"], set()),  # of an adapter of no rank
    "transfer.adapter": (None, set()),
    "pretrain": (None, TRAINED),
    "pretrain.donors": (3, set()),  # which seed that means is settled when the words are read
    "finetune": (None, TUNED),
    "finetune.seed": (None, GRAFTED),  # it draws the host
    "evaluate": (None, {"evaluate"}),
    "evaluate.batch_size": (7, set()),
    "trainer.precision": ("bf16-mixed", TRAINED),
    "trainer.accumulate": (2, TRAINED),
    "trainer": (None, set()),
    "logger": (None, set()),
    "store": (None, set()),
    "report": (None, set()),
    "launch": (None, set()),
    "pretrain.checkpoint_interval": (3, set()),
    "finetune.checkpoint_interval": (3, set()),
    "model.name": ("x", set()),
    "model.pretrain_lr": (0.5, set()),
    "model.finetune_lr": (0.5, set()),
    "data.name": ("x", set()),
    "search": (None, set()),
    "mask.name": ("x", set()),
}
# need more than another value of their own: covered by tests of checkpoints, or fixed to one value
LEFT_OUT = {
    "model.donor.checkpoint",
    "model.donor.revision",
    "model.host.checkpoint",
    "model.host.revision",
    "data.kind",
}


# of a donor that is not trained
UNUSED = ("model.donor.dropout=0.3", "transfer.fidelity_texts=7", "transfer.adapter.rank=8")


def base() -> Settings:
    (job,) = compose_jobs(Words(("experiment=smoke", "transfer=calibrated")))
    return job.settings


def leaves(value: Any, path: str = "") -> list[str]:
    if dataclasses.is_dataclass(value):
        found: list[str] = []
        for item in dataclasses.fields(value):
            found += leaves(getattr(value, item.name), f"{path}.{item.name}" if path else item.name)
        return found
    return [path]


def expectation(path: str) -> tuple[Any, set[str]]:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in EXPECTED:
            return EXPECTED[name]
    raise AssertionError(f"{path} is a new setting: say in EXPECTED which stages it changes")


def other(value: Any, given: Any) -> Any:
    """Another value of the same kind; a key does not care whether it makes sense."""
    if given is not None:
        return given
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "more"]
    return f"{value}x"


def changed(settings: Any, path: list[str], given: Any) -> Any:
    name, *rest = path
    value = getattr(settings, name)
    return dataclasses.replace(settings, **{name: changed(value, rest, given) if rest else other(value, given)})


@pytest.mark.parametrize("path", [path for path in leaves(base()) if path not in LEFT_OUT])
def test_a_setting_changes_exactly_the_keys_it_must(path: str) -> None:
    given, expected = expectation(path)
    settings = base()
    variant = changed(settings, path.split("."), given)
    if path == "data.packages":
        variant = dataclasses.replace(settings, data=dataclasses.replace(settings.data, packages=["rich"]))
    if path == "transfer.steps":
        variant = with_steps(settings, {"step": "embeddings", "spread": 0.25})
    before = {key.stage: key.key for key in stage_keys(settings, FINGERPRINTS)}
    after = {key.stage: key.key for key in stage_keys(variant, FINGERPRINTS)}
    assert {stage for stage in before if before[stage] != after[stage]} == expected


def with_steps(settings: Any, *steps: Any) -> Any:
    return dataclasses.replace(settings, transfer=dataclasses.replace(settings.transfer, steps=list(steps)))


def test_a_strategy_counts_as_it_is_meant_not_as_it_is_typed() -> None:
    short = with_steps(base(), {"step": "embeddings"})
    long = with_steps(base(), {"step": "embeddings", "languages": "start", "spread": 0.5})
    assert [key.key for key in stage_keys(short, FINGERPRINTS)] == [key.key for key in stage_keys(long, FINGERPRINTS)]
    (graft,) = [key for key in stage_keys(short, FINGERPRINTS) if key.stage == "graft"]
    assert graft.settings["transfer"]["steps"][0]["spread"] == 0.5  # a default that changes changes the key


@pytest.mark.parametrize("path", leaves(base().transfer.adapter, "transfer.adapter"))
def test_each_setting_of_an_adapter_counts_once_there_is_one(path: str) -> None:
    settings = changed(base(), ["transfer", "adapter", "rank"], 8)
    before = {key.stage: key.key for key in stage_keys(settings, FINGERPRINTS)}
    after = {key.stage: key.key for key in stage_keys(changed(settings, path.split("."), None), FINGERPRINTS)}
    assert {stage for stage in before if before[stage] != after[stage]} == TRAINED


def test_a_strategy_that_reads_no_donor_trains_none() -> None:
    words = ("experiment=smoke", "transfer=denoising")
    (job,) = compose_jobs(Words(words))
    (other,) = compose_jobs(Words((*words, "mask=r40", "pretrain.max_steps=99", *UNUSED)))
    keys = [stage_keys(item.settings, FINGERPRINTS) for item in (job, other)]
    assert keys[0] == keys[1]
    assert [key.stage for key in keys[0]] == ["corpus", "graft", "finetune", "evaluate"]
    assert not any("fidelity_texts" in key.settings.get("transfer", {}) for key in keys[0]), "nothing to compare with"
    (both,) = compose_jobs(Words(("experiment=smoke", "transfer=denoised")))
    assert [key.stage for key in stage_keys(both.settings, FINGERPRINTS)][1] == "pretrain"


def changes(words: tuple[str, ...], *more: str) -> set[str]:
    """The stages whose keys some more words change."""
    (one,), (other,) = (compose_jobs(Words(("experiment=smoke", *given))) for given in (words, (*words, *more)))
    before, after = ({key.stage: key.key for key in stage_keys(job.settings, FINGERPRINTS)} for job in (one, other))
    assert before.keys() == after.keys()
    return {stage for stage in before if before[stage] != after[stage]}


def test_where_a_step_trains_the_hosts_dropout_and_the_precision_count() -> None:
    for words in (("transfer=denoising",), ("transfer=calibrated", "pretrain.max_steps=7")):
        expected = GRAFTED if words[0] == "transfer=denoising" else TUNED
        assert changes(words, "model.host.dropout=0.3") == expected
    assert changes(("transfer=denoising",), "trainer.precision=bf16-mixed") == GRAFTED
    assert changes(("transfer=denoising",), "trainer.accumulate=2") == TUNED
    assert changes(("transfer=denoising", "transfer.control=false"), "transfer.control=true") == GRAFTED


def test_strategies_of_the_same_steps_share_their_graft() -> None:
    settings = base()
    other = dataclasses.replace(
        settings, transfer=dataclasses.replace(settings.transfer, name="slow", encoder_lr=0.01, freeze_encoder=0.9)
    )
    keys = [{key.stage: key.key for key in stage_keys(item, FINGERPRINTS)} for item in (settings, other)]
    assert keys[0]["graft"] == keys[1]["graft"]
    assert keys[0]["finetune"] != keys[1]["finetune"]


def test_onto_a_pretrained_host_the_seeds_of_the_fine_tuning_share_their_graft(tmp_path: Path) -> None:
    """Of a checkpoint nothing is drawn."""
    settings = base()
    (tmp_path / "config.json").write_text("{}")
    host = dataclasses.replace(settings.model.host, checkpoint=str(tmp_path))
    pretrained = dataclasses.replace(settings, model=dataclasses.replace(settings.model, host=host))
    other = changed(pretrained, ["finetune", "seed"], None)
    keys = [{key.stage: key.key for key in stage_keys(item, FINGERPRINTS)} for item in (pretrained, other)]
    assert {stage for stage in keys[0] if keys[0][stage] != keys[1][stage]} == TUNED


def test_the_config_says_how_many_donors_a_comparison_has() -> None:
    """Fine-tuning seeds take turns at them; the baseline, and what each donor's training gives, stay as they are."""

    def keys(*words: str) -> list[dict[str, str]]:
        line = ("experiment=smoke", "finetune.seed=1,2,3,4", *words)
        jobs = compose_jobs(Words(line, multirun=True))
        assert [job.settings.finetune.seed for job in jobs] == [1, 2, 3, 4]
        return [{key.stage: key.key for key in stage_keys(job.settings, FINGERPRINTS)} for job in jobs]

    one, three = keys("transfer=naive"), keys("transfer=naive", "pretrain.donors=3")
    assert len({item["pretrain"] for item in one}) == 1
    donors = [item["pretrain"] for item in three]
    assert len(set(donors)) == 3
    assert donors[0] == donors[3] == one[0]["pretrain"]
    assert three[0] == one[0]
    assert donors[1] == keys("transfer=naive", "pretrain.seed=2")[0]["pretrain"], "a seed that is set wins"
    assert keys("transfer=none", "pretrain.donors=3") == keys("transfer=none")


@pytest.mark.parametrize("word", ["finetune.seed=x", "finetune.seed=null", "pretrain.donors=0", "pretrain.donors=two"])
def test_a_wrong_number_is_told_where_it_stands(word: str) -> None:
    with pytest.raises(SettingsError) as caught:
        compose_jobs(Words(("experiment=smoke", word)))
    assert [problem.path for problem in caught.value.problems] == [word.partition("=")[0]]


def test_a_baseline_does_not_depend_on_the_donors_training() -> None:
    (none,) = compose_jobs(Words(("experiment=smoke", "transfer=none")))
    (other_none,) = compose_jobs(
        Words(
            (
                "experiment=smoke",
                "transfer=none",
                "mask=r40",
                "pretrain.max_steps=99",
                "transfer.adapter.rank=8",
                *UNUSED,
            )
        )
    )
    keys = [stage_keys(job.settings, FINGERPRINTS) for job in (none, other_none)]
    assert keys[0] == keys[1]
    assert [key.stage for key in keys[0]] == ["corpus", "finetune", "evaluate"]


def test_a_source_in_installed_packages_is_looked_at_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(memo.CACHE, str(tmp_path))
    monkeypatch.setattr(memo, "installation", lambda: ["as it was"])
    settings = base()
    assert not Fingerprints().knows(settings)
    found = Fingerprints().data(settings)
    assert Fingerprints().knows(settings)
    monkeypatch.setattr(plan, "open_source", None)  # it is not needed again
    assert Fingerprints().data(settings) == found
    for state in (["upgraded"], None):
        monkeypatch.setattr(memo, "installation", lambda state=state: state)
        assert not Fingerprints().knows(settings)
        with pytest.raises(TypeError):
            Fingerprints().data(settings)
