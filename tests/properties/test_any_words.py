"""Any words and any settings: composed, or refused in one line each; never a traceback."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from examples import JSON, examples
from hypothesis import given
from hypothesis import strategies as st

from graftlm.cli import main
from graftlm.compose import compose_jobs
from graftlm.errors import SettingsError
from graftlm.job import Words
from graftlm.plan import Fingerprints, stage_keys
from graftlm.schema import Settings

FINGERPRINTS = Fingerprints()
KEYS = [
    "finetune.lr", "mask.ratio", "mask", "transfer", "transfer.steps", "model.donor", "model", "data", "data.packages",
    "experiment", "hydra.job.name", "hydra/launcher", "sweep", "launch", "+new", "++finetune.seed", "~mask",
    "search.trials",
]  # fmt: skip
VALUES = [
    "1", "1e400", "nan", "null", "", "[", "{a:1", "{a: {b: 1}}", "${", "${oc.env:}", "${finetune.seed}", "r15,r30",
    "'", '"', "\\", "a b", "=", "=1", "interval(1,2)", "choice()", "range(1)", "glob(*)", "shuffle(1,2)", "tag(",
    "\x00", "\x1b[31m", "é", "中", "!!python/object/apply:os.system [x]", "${eval:1}", "../../etc", "-1", "true",
    "@package", "a@b", "[[[[]]]]",
]  # fmt: skip
WORDS = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=6)),
    st.text(min_size=1, max_size=8),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@examples(12, simpler=False)
@given(words=st.lists(WORDS, min_size=1, max_size=2), many=st.booleans())
def test_any_words(
    tmp_path_factory: Any, cache: Path, words: list[str], many: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GRAFTLM_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        code = main(["plan", *(["-m"] if many else []), "experiment=smoke", "transfer=none", *words])
    out, err = capsys.readouterr()
    assert code in (0, 2), err
    assert "Traceback" not in out + err
    assert bool(err) == (code == 2)
    assert all(line.startswith("graftlm: ") and line.isprintable() for line in err.splitlines())
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plain settings of the smoke experiment."""
    import dataclasses

    (job,) = compose_jobs(Words(("experiment=smoke",)))
    return dataclasses.asdict(job.settings)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@examples(200)
@given(draw=st.randoms(), odd=st.lists(JSON, min_size=1, max_size=3))
def test_any_value_in_any_setting(mapping: dict[str, Any], draw: Any, odd: list[Any]) -> None:
    changed, sound = copy.deepcopy(mapping), Settings.from_mapping(mapping)
    for value in odd:
        path = draw.choice([place for place in places(changed) if place])
        node = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    lines: list[str] = []
    try:
        settings = Settings.from_mapping(changed)
        if settings.data == sound.data and settings.model.donor.checkpoint is settings.model.host.checkpoint is None:
            assert stage_keys(settings, FINGERPRINTS)
    except SettingsError as error:
        lines = [str(problem) for problem in error.problems]
    assert all(line.isprintable() for line in lines)
