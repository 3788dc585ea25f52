"""What a search varies: one dimension a setting, read from Hydra's own override syntax.

`finetune.lr=tag(log,interval(1e-4,1e-2))`: numbers, drawn evenly by their logarithm; `int(interval(1,8))`,
`range(16,128,16)`: whole numbers, in steps; `mask=r15,r30`, `choice(none,full)`, `glob(*)`: one of several.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graftlm.errors import Problem, SettingsError

if TYPE_CHECKING:
    from graftlm.job import Job
    from graftlm.schema import Settings

_SEEDS = ("pretrain.seed", "finetune.seed")


@dataclass(frozen=True)
class Dimension:
    """A setting that varies: over `options`, as they are typed, or over numbers from `low` to `high`.

    A range of numbers in steps has both.
    """

    key: str
    options: tuple[str, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False

    @property
    def numeric(self) -> bool:
        return self.low is not None

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)

    def override(self, value: Any) -> str:
        """The override of a value. Numbers have four digits: that is what runs, and what can be typed again."""
        if isinstance(value, float) and not self.step:
            value = float(f"{value:.4g}")
            if self.low is not None and self.high is not None:
                value = min(max(value, self.low), self.high)
        return f"{self.key}={value}"

    def probes(self) -> list[str]:
        """Overrides at the corners, and one within: a bound may be a whole number where the others are not."""
        if self.low is None or self.high is None:
            return [self.override(option) for option in self.options]
        probes = [self.override(self.low), self.override(self.high)]
        if not self.options and not self.whole:
            ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            inner = ends[0] + 0.382 * (ends[1] - ends[0])
            # as it is: rounded, it might be whole by chance
            probes.insert(1, f"{self.key}={math.exp(inner) if self.log else inner}")
        return probes

    def describe(self) -> str:
        if self.low is None or self.high is None:
            return ", ".join(self.options)
        said = f"{self.low:g} to {self.high:g}" if self.low != int(self.low) or self.low < 1e5 else ""
        said = said or f"{self.low} to {self.high}"
        if self.whole:
            said += ", whole numbers"
        if self.step and self.step != 1:
            said += f" in steps of {self.step:g}"
        return said + (", logarithmic" if self.log else "")

    def as_dict(self) -> dict[str, Any]:
        if self.low is None:
            return {"options": list(self.options)}
        return {"low": self.low, "high": self.high, "step": self.step, "log": self.log}


@dataclass(frozen=True)
class Search:
    """A sweep whose jobs are not known beforehand: what varies, and jobs at the corners of that space."""

    fixed: tuple[str, ...]
    space: tuple[Dimension, ...]
    corners: list[Job]

    @property
    def settings(self) -> Settings:
        return self.corners[0].settings


def dimension(parsed: Any) -> Dimension:
    """The dimension of a parsed override of Hydra with several values.

    Raises:
        SettingsError: its bounds, step or tag make no sense.
    """
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    key = str(parsed.get_key_element())
    value = parsed.value()
    text = parsed.get_value_string()
    tags = set(getattr(value, "tags", None) or ())
    unknown = sorted(str(tag) for tag in tags if tag != "log")
    if unknown:
        raise SettingsError.at(key, text, f"the tag {unknown[0]} is not known", "log is the only one")
    log = "log" in tags
    if isinstance(value, IntervalSweep):
        made = Dimension(key, low=value.start, high=value.end, log=log)
        if made.low is None or made.high is None or not made.low < made.high:
            raise SettingsError.at(key, text, "the lower bound must lie below the upper", "write interval(LOW,HIGH)")
    else:
        options = tuple(dict.fromkeys(str(item) for item in parsed.sweep_string_iterator()))
        made = Dimension(key, options)
        if isinstance(value, RangeSweep) and len(options) > 1:
            numbers = sorted(value.range())
            step = abs(value.step)
            last = numbers[-1] if isinstance(numbers[0], int) else round(float(numbers[-1]), 12)
            made = Dimension(key, options, numbers[0], last, step, log)
        elif not options:
            remedy = "the second bound of a range is left out itself" if isinstance(value, RangeSweep) else "name some"
            raise SettingsError.at(key, text, "holds no value", remedy)
        elif log:
            raise SettingsError.at(key, text, "only numbers between two bounds have a logarithm", "leave the tag out")
    if log and made.low is not None and made.low <= 0:
        raise SettingsError.at(key, text, "a logarithm needs bounds above zero", "raise the lower one")
    if log and made.step not in (None, 1):
        raise SettingsError.at(key, text, "steps and logarithm exclude each other", "take int(interval(LOW,HIGH))")
    return made


def check_space(space: Sequence[Dimension], sampler: str) -> list[Problem]:
    """What cannot be searched."""
    needed = {"cmaes": "cmaes"} if sampler == "cmaes" else {}
    problems = [
        Problem("sweep", sampler, f"needs {shown}, which is not installed", "pip install 'graftlm[search]'")
        for name, shown in {"optuna": "Optuna", **needed}.items()
        if importlib.util.find_spec(name) is None
    ]
    if not space:
        example = "for example finetune.lr=tag(log,interval(1e-4,1e-2))"
        problems.append(Problem("sweep", sampler, "nothing varies: there is nothing to search", example))
    for item in space:
        if item.key.lstrip("+") in _SEEDS:
            reason = "a seed is a repetition, not a choice: a search would keep the luckiest"
            problems.append(Problem(item.key, item.describe(), reason, "search with one seed, then repeat the best"))
    if sampler == "cmaes" and space and sum(item.numeric for item in space) < 2:
        reason = "needs two settings at least that vary between numbers"
        problems.append(Problem("sweep", sampler, reason, "take sweep=tpe"))
    return problems


def mend(problems: Sequence[Problem], space: Sequence[Dimension]) -> list[Problem]:
    """The problems of jobs in a space, with what to do about those that come of how it is written."""
    broken = {item.key for item in space if item.numeric and not item.whole and not item.options}
    remedy = "for whole numbers write int(interval(LOW,HIGH)) or range(LOW,HIGH,STEP)"
    return [
        replace(problem, remedy=remedy) if problem.path in broken and "whole number" in problem.reason else problem
        for problem in problems
    ]


def corners(space: Sequence[Dimension]) -> list[tuple[str, ...]]:
    """Overrides that try every option and bound once: the others stand at their first."""
    first = [item.probes()[0] for item in space]
    found = [tuple(first)]
    for place, item in enumerate(space):
        found += [(*first[:place], probe, *first[place + 1 :]) for probe in item.probes()[1:]]
    return found
