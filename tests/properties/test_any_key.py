"""Keys of artifacts: equal where nothing that counts differs, different where something does."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from examples import JSON, examples
from hypothesis import given
from hypothesis import strategies as st

from graftlm.compose import compose_jobs
from graftlm.differences import differences
from graftlm.job import Words
from graftlm.plan import Fingerprints, stage_keys
from graftlm.schema import Settings
from graftlm.store import StageKey

TREES = st.dictionaries(st.text("abc.", max_size=3), JSON, max_size=4)
FINGERPRINTS = Fingerprints()
TUNED = {"finetune", "evaluate"}
# a setting, other values of it, and the stages that it is of consequence for
CHANGES: list[tuple[str, list[Any], set[str]]] = [
    ("mask.ratio", [0.2, 0.4], {"pretrain", "graft", *TUNED}),
    ("pretrain.lr", [0.1, 0.2], {"pretrain", "graft", *TUNED}),
    ("finetune.lr", [0.1, 0.2], TUNED),
    ("finetune.seed", [5, 6], {"graft", *TUNED}),
    ("evaluate.num_beams", [2, 3], {"evaluate"}),
    ("transfer.freeze_encoder", [0.7, 0.8], TUNED),
    ("transfer.name", ["another"], TUNED),
    ("trainer.precision", ["bf16-mixed"], {"pretrain", "graft", *TUNED}),
    ("trainer.num_workers", [1, 2], set()),
    ("trainer.devices", [2, 4], set()),
    ("logger.project", ["another"], set()),
    ("launch.cores", [1, 2], set()),
    ("store.dir", ["elsewhere"], set()),
    ("report.confidence", [0.9], set()),
    ("pretrain.checkpoint_interval", [3, 4], set()),
    ("evaluate.batch_size", [7, 8], set()),
]


@pytest.fixture(scope="module")
def smoke() -> Settings:
    (job,) = compose_jobs(Words(("experiment=smoke",)))
    return job.settings


def changed(settings: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return dataclasses.replace(settings, **{name: changed(getattr(settings, name), rest, value) if rest else value})


def keys(settings: Settings) -> dict[str, str]:
    return {key.stage: key.key for key in stage_keys(settings, FINGERPRINTS)}


@examples(80)
@given(chosen=st.lists(st.sampled_from(CHANGES), unique_by=lambda change: change[0], max_size=6), draw=st.randoms())
def test_any_settings_changed_together(smoke: Settings, chosen: Any, draw: Any) -> None:
    settings, wanted = smoke, set()
    for path, values, stages in chosen:
        settings = changed(settings, path, draw.choice(values))
        wanted |= stages
    before, after = keys(smoke), keys(settings)
    assert {stage for stage in before if before[stage] != after[stage]} == wanted
    for path, _, _ in draw.sample(chosen, len(chosen)):  # and back again, in any order
        value: Any = smoke
        for name in path.split("."):
            value = getattr(value, name)
        settings = changed(settings, path, value)
    assert keys(settings) == before


def shuffled(value: Any, draw: Any) -> Any:
    """The same value with the keys of its mappings in another order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name], draw) for name in draw.sample(sorted(value), len(value))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


@examples(60)
@given(one=TREES, other=TREES, draw=st.randoms())
def test_any_settings_have_one_key(one: Any, other: Any, draw: Any) -> None:
    key = StageKey("corpus", 1, one, {}).key
    assert StageKey("corpus", 1, shuffled(copy.deepcopy(one), draw), {}).key == key
    text, second = (json.dumps(value, sort_keys=True) for value in (one, other))
    assert (StageKey("corpus", 1, other, {}).key == key) == (text == second)
    for key_of_another in (
        StageKey("corpus", 2, one, {}),
        StageKey("graft", 1, one, {}),
        StageKey("corpus", 1, one, {"corpus": "x"}),
    ):
        assert key_of_another.key != key
    read = json.loads(json.dumps(one))
    if "NaN" not in text:
        assert list(differences(one, read)) == [], "what a marker keeps is what was meant"
