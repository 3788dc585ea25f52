"""Dimensions read from Hydra's own syntax."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from graftlm.search.settings import SearchSettings
from graftlm.search.space import Dimension, corners, dimension
from graftlm.search.study import distribution
from graftlm.search.sweeper import batch_size


@pytest.mark.parametrize(
    ("text", "expected", "probes"),
    [
        ("a.b=interval(0,0.5)", FloatDistribution(0.0, 0.5), ["0.0", "0.191", "0.5"]),
        ("a.b=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True), None),
        ("a.b=int(interval(2,9))", IntDistribution(2, 9), ["2", "9"]),
        ("a.b=tag(log,int(interval(2,9)))", IntDistribution(2, 9, log=True), ["2", "9"]),
        ("a.b=range(16,64,16)", IntDistribution(16, 48, step=16), ["16", "48"]),
        ("a.b=range(0.1,0.45,0.1)", FloatDistribution(0.1, 0.4, step=0.1), ["0.1", "0.4"]),
        ("a.b=4,2,4", CategoricalDistribution(("4", "2")), ["4", "2"]),
        ("a.b=[x,y],null", CategoricalDistribution(("[x,y]", "null")), ["[x,y]", "null"]),
    ],
)
def test_a_dimension_is_what_hydra_reads(text: str, expected: object, probes: list[str] | None) -> None:
    made = dimension(OverridesParser.create().parse_override(text))
    assert made.key == "a.b"
    assert distribution(made) == expected
    if probes is not None:
        assert made.probes() == [f"a.b={probe}" for probe in probes]


def test_numbers_are_short_and_within_their_bounds() -> None:
    item = Dimension("lr", low=0.00012345, high=0.1, log=True)
    assert item.override(0.012345678) == "lr=0.01235"
    assert item.override(0.00012345) == "lr=0.00012345", "rounded, it would lie below the bound"


def test_every_option_and_bound_is_tried_once() -> None:
    space = (Dimension("a", ("x", "y", "z")), Dimension("b", low=1, high=5))
    assert corners(space) == [("a=x", "b=1"), ("a=y", "b=1"), ("a=z", "b=1"), ("a=x", "b=5")]


@pytest.mark.parametrize(
    ("search", "launcher", "expected"),
    [
        ({"sampler": "tpe"}, {"_target_": "basic"}, 1),
        ({"sampler": "tpe"}, {"n_jobs": 4}, 4),
        ({"sampler": "tpe"}, {"array_parallelism": 256}, 10),
        ({"sampler": "random", "trials": 50}, {"array_parallelism": 256}, 50),
        ({"sampler": "nsga2", "population": 8}, {"ray": {"init": {"address": "auto"}, "remote": {"num_cpus": 2}}}, 8),
        ({"sampler": "tpe"}, {"ray": {"init": {"address": "local"}, "remote": {"num_cpus": 10**6}}}, 1),
        ({"sampler": "tpe", "batch": 64}, {"n_jobs": 4}, 64),
    ],
)
def test_a_batch_has_as_many_trials_as_can_be_had_without_results(
    search: dict[str, Any], launcher: dict[str, Any], expected: int
) -> None:
    assert batch_size(SearchSettings(**search), OmegaConf.create(launcher)) == expected
