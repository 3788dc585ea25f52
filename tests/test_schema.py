"""Settings from plain values: every mistake at once, each with path, value and remedy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftlm.compose import compose_jobs
from graftlm.data.settings import DATA_KINDS
from graftlm.errors import SettingsError
from graftlm.fields import outcome
from graftlm.groups import config_folder
from graftlm.job import Words
from graftlm.schema import MaskSettings, ModelSettings, Settings, TransferSettings


def plain() -> dict[str, Any]:
    (job,) = compose_jobs(Words(("experiment=smoke",)))
    return dataclasses.asdict(job.settings)


def test_settings_survive_a_round_trip_through_plain_values() -> None:
    mapping = plain()
    assert dataclasses.asdict(Settings.from_mapping(mapping)) == mapping


def test_all_mistakes_come_together() -> None:
    mapping = plain()
    mapping["mask"]["ratio"] = 1.5
    mapping["finetune"]["lr"] = "fast"
    mapping["finetune"]["lrr"] = 1
    mapping["model"]["donor"]["heads"] = 3
    mapping["data"]["kind"] = "docstring"
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(mapping)
    lines = {problem.path: str(problem) for problem in caught.value.problems}
    assert set(lines) == {"mask.ratio", "finetune.lr", "finetune.lrr", "model.donor.heads", "data.kind"}
    assert lines["mask.ratio"].startswith("mask.ratio=1.5: must be above 0 and below 1")
    assert "did you mean lr?" in lines["finetune.lrr"]
    assert "must divide d_model=32" in lines["model.donor.heads"]
    assert "docstrings" in lines["data.kind"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("pretrain.max_length", 4000, "longer than the donor's"),
        ("finetune.max_source_length", 4000, "longer than the host's"),
        ("finetune.batch_tokens", 20, "does not hold one row"),
        ("pretrain.max_steps", 0, "must be trained"),
        ("model.vocab_size", None, "needs a vocabulary"),
        ("trainer.precision", "fp8", "is not known"),
        ("mask.replace", 0.95, "must not pass 1"),
        ("finetune.seed", True, "must be a whole number"),
        ("report.contrasts", [["full"]], "does not name two arms"),
        ("report.primary", "speed", "must be one of auc, val_loss"),
    ],
)
def test_what_does_not_fit_together_is_named(path: str, value: object, words: str) -> None:
    mapping = plain()
    *groups, name = path.split(".")
    place = mapping
    for group in groups:
        place = place[group]
    place[name] = value
    with pytest.raises(SettingsError) as caught:
        Settings.from_mapping(mapping)
    assert any(problem.path == path and words in str(problem) for problem in caught.value.problems), str(caught.value)


def test_outcome_leaves_out_what_cannot_change_a_result() -> None:
    mapping = plain()
    one = Settings.from_mapping(mapping)
    mapping["trainer"]["num_workers"] = 7
    mapping["logger"]["project"] = "another"
    mapping["store"]["dir"] = "elsewhere"
    mapping["mask"]["name"] = "renamed"
    assert outcome(Settings.from_mapping(mapping)) == outcome(one)
    mapping["mask"]["ratio"] = 0.2
    assert outcome(Settings.from_mapping(mapping)) != outcome(one)


@pytest.mark.parametrize(
    "path", sorted(config_folder().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_each_yaml_opens_with_its_purpose_and_a_command(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "@package" not in line]
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 20
    assert lines[1].startswith("#   graftlm ")


@pytest.mark.parametrize("group", ["model", "data", "mask", "transfer"])
def test_each_yaml_shows_every_setting_of_its_group(group: str) -> None:
    """An override of a setting that the YAML leaves out would be refused by Hydra."""
    kinds = {"model": ModelSettings, "mask": MaskSettings, "transfer": TransferSettings}
    for path in (config_folder() / group).glob("*.yaml"):
        mapping = yaml.safe_load(path.read_text())
        kind = DATA_KINDS[mapping["kind"]] if group == "data" else kinds[group]
        assert {item.name for item in dataclasses.fields(kind)} == set(mapping), path.name


@pytest.mark.parametrize("experiment", [path.stem for path in (config_folder() / "experiment").glob("*.yaml")])
def test_each_experiment_composes(experiment: str) -> None:
    jobs = compose_jobs(Words((f"experiment={experiment}",), multirun=True))
    assert jobs
    assert len({job.overrides for job in jobs}) == len(jobs)


@pytest.mark.parametrize("debug", [path.stem for path in (config_folder() / "debug").glob("*.yaml")])
def test_each_debug_choice_composes(debug: str) -> None:
    assert compose_jobs(Words((f"debug={debug}",)))


def test_a_sweep_is_expanded_as_hydra_does_it() -> None:
    jobs = compose_jobs(Words(("transfer=none,naive", "finetune.seed=1,2", "mask=r30"), multirun=True))
    assert [job.overrides for job in jobs] == [
        ("mask=r30", "transfer=none", "finetune.seed=1"),
        ("mask=r30", "transfer=none", "finetune.seed=2"),
        ("mask=r30", "transfer=naive", "finetune.seed=1"),
        ("mask=r30", "transfer=naive", "finetune.seed=2"),
    ]
    assert [job.settings.finetune.seed for job in jobs] == [1, 2, 1, 2]
    assert {job.choices["mask"] for job in jobs} == {"r30"}
