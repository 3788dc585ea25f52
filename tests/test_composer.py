"""Laying plain overrides over a shared composition gives what Hydra gives for the whole line."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftlm import compose
from graftlm.compose import compose_jobs
from graftlm.composer import Composer
from graftlm.composition import to_mapping
from graftlm.errors import SettingsError
from graftlm.job import Words

# beside `model=pico transfer=naive`, one override or several of many kinds
LINES: list[tuple[str, ...]] = [
    (),
    ("finetune.seed=7",),
    ("finetune.seed=7", "finetune.seed=8"),
    ("mask=r40", "mask.ratio=0.2"),
    ("mask.ratio=0.2", "mask=r40"),  # a choice does not undo a setting that stands before it
    ("experiment=smoke", "pretrain.max_steps=3"),
    ("pretrain.max_steps=3", "experiment=smoke", "debug=fast"),
    ("experiment=demo", "model.vocab_size=500"),
    ("model.pretrain_lr=0.25",),  # pretrain.lr is taken from it
    ("pretrain.lr=${finetune.lr}", "finetune.lr=0.125"),
    ("data.packages=[rich,jinja2]",),
    ("data.packages=[]", "data.exclude=[a,'b c']"),
    ("data.packages=null",),
    ("transfer.steps=[{step: embeddings, languages: mean}, {step: encoder}]",),
    ("transfer.adapter={rank: 4}",),
    ("transfer.steps.0.step=embeddings",),
    ("model.donor={d_model: 64, heads: 4}", "model.donor.heads=8"),
    ("logger.project='a b, c'", 'logger.entity="x=y"'),
    ("logger.tags=[1,true,null,x]",),
    ("logger.project=1e-3", "logger.entity=007", "logger.group=1_000"),
    ("logger.group=''", "logger.dir=a/b.c"),
    ("logger.mode=${oc.env:WANDB_MODE,disabled}",),
    ("finetune.lr=1e-4", "evaluate.length_penalty=-1.5", "transfer.control=true", "evaluate.max_pairs=NULL"),
    ("hydra.job.name=x", "finetune.seed=2"),
    ("+logger.extra=1", "finetune.seed=2"),
    ("++finetune.seed=2", "finetune.seed=3"),
    ("logger={project: x}", "logger.group=y"),
    ("finetune.lr=int(2)", "logger.project=str(3)"),
    ("transfer=mine", "finetune.seed=2"),
    ("transfer=mine", "transfer.encoder_lr=null"),
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_jobs_are_as_hydra_composes_them(line: tuple[str, ...], own_groups: Path) -> None:
    words = Words(("model=pico", "transfer=naive", *line), config_dirs=(str(own_groups),))
    with compose._hydra(words) as overrides:
        composer = Composer(compose._compose, words.config_dirs)
        composer.compose([*overrides, "finetune.max_steps=999", "logger.tags=[other]", "model.host.heads=3"])
        expected = to_mapping(compose._compose(overrides))
        assert composer.compose(overrides) == expected
        assert composer.compose(overrides) == expected
        assert repr(composer.compose(overrides)) == repr(expected)  # 1, 1.0 and true are equal, and the order counts


@pytest.fixture
def own_groups(tmp_path: Path) -> Path:
    """A user's groups: a strategy of a new name, which takes a rate from the environment."""
    (tmp_path / "transfer").mkdir()
    (tmp_path / "transfer" / "mine.yaml").write_text("name: mine\nsteps: []\nencoder_lr: ${oc.env:MY_RATE,0.5}\n")
    return tmp_path


def test_a_group_whose_name_has_a_dot_is_left_to_hydra(own_groups: Path) -> None:
    composer = Composer(compose._compose, (str(own_groups),))
    assert composer._divide(["mask=r15", "finetune.seed=7"]) == (("mask=r15",), ["finetune.seed=7"])
    (own_groups / "finetune.seed").mkdir()
    assert composer._divide(["mask=r15", "finetune.seed=7"]) is None


def test_a_sweep_composes_each_set_of_choices_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # no folder can be made in it, by whomever: nothing is remembered
    words = Words(("model=pico", "transfer=none,naive", "mask=r15,r30", "finetune.seed=1,2,3"), multirun=True)
    calls: list[str] = []
    import hydra

    composed = hydra.compose

    def counting(*arguments: object, **named: object) -> object:
        calls.append(str(named["overrides"]))
        return composed(*arguments, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTLM_CACHE", str(tmp_path / "file" / "cache"))
        patch.setattr(hydra, "compose", counting)
        jobs = compose_jobs(words)
    assert len(jobs) == 12
    assert len({(job.choices["transfer"], job.choices["mask"], job.settings.finetune.seed) for job in jobs}) == 12
    assert len(calls) == 5  # one to see what the experiment varies, four combinations of choices


def test_mistakes_are_told_as_before() -> None:
    for line, told in [
        ("finetune.sead=1", "did you mean finetune.seed?"),
        ("finetune.seed=x", "must be a whole number"),
        ("finetune.seed=1,2", "has several values"),
        ("transfer=nave", "did you mean naive?"),
        ("logger.group=${nothing.here}", "nothing.here"),
        ("+finetune.seed=2", "is there already"),
    ]:
        with pytest.raises(SettingsError) as caught:
            compose_jobs(Words(("model=pico", line)))
        assert told in str(caught.value), line
        assert len(caught.value.problems) == 1


def test_what_time_gives_is_not_pure() -> None:
    words = Words(("model=pico", "logger.group=${now:%Y}"))
    with compose._hydra(words) as overrides:
        composer = Composer(compose._compose, ())
        composer.compose(overrides[:1])
        assert composer.pure
        composer.compose(overrides)
        assert not composer.pure
