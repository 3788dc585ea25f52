"""The whole comparison on simulated sweeps held in memory: the words of many sweeps whose truth is known."""

import numpy as np
from scipy.stats import binom

from graftlm.report.collect import Arm, Collection
from graftlm.report.compare import compare
from graftlm.report.records import Run

STEPS = np.array([0.0, 1, 2, 5, 10, 20, 50, 100])
ARMS = ("none", "first", "second", "shuffled")


def simulated(rng, seeds, gain):
    """A sweep of a baseline, two arms and a control; the first arm is better by `gain` nats, the others by nothing.

    Seeds differ far more than arms do, and share that with their baseline: only pairing sees a gain.
    """
    examples = 25
    hard, of_seed = rng.normal(0, 0.6, examples), rng.normal(0, 0.5, seeds)
    arms = []
    for name in ARMS:
        runs = []
        for seed in range(seeds):
            shift = of_seed[seed] + rng.normal(0, 0.05) - (gain if name == "first" else 0)
            loss = 6 - 0.5 * np.log1p(STEPS) + shift
            rows = [
                {"index": index, "loss": float(value), "tokens": 3 + index % 5, "target_lang": "de_DE"}
                for index, value in enumerate(3 + shift + hard + rng.normal(0, 0.2, examples))
            ]
            total = sum(row["tokens"] for row in rows)
            scores = {"loss": sum(row["loss"] * row["tokens"] for row in rows) / total}
            curve = {"step": STEPS, "examples": STEPS, "tokens": STEPS, "seconds": STEPS, "loss": loss}
            curve["gap"] = np.full(len(STEPS), 0.5)
            runs.append(Run(f"{name}{seed}", curve, scores, rows, {"flops": 1e9}, {}, None, "", "", finetune_seed=seed))
        base = name == "none"
        arms.append(Arm(name, name, base, name == "shuffled", {"transfer.name": name}, {}, runs))
    return Collection(arms, [], [], [], False, [], 0.95, 120, 0, 4 * seeds)


def test_where_no_arm_differs_hardly_a_report_says_so():
    rng = np.random.default_rng(1)
    sweeps, wrong, wrong_in_test, controls = 160, 0, 0, 0
    for _ in range(sweeps):
        report = compare(simulated(rng, 5, 0.0))
        arms = [report.arm(name) for name in ("first", "second")]
        wrong += any(arm.word != "cannot tell" for arm in arms)
        wrong_in_test += any(arm.difference["test_loss"].word != "cannot tell" for arm in arms)
        controls += report.arm("shuffled").word != "cannot tell"
    for count in (wrong, wrong_in_test, controls):
        assert binom.ppf(0.0005, sweeps, 0.03) <= count <= binom.ppf(0.9999, sweeps, 0.05)


def test_a_real_gain_is_found_with_its_size_and_its_sign():
    rng = np.random.default_rng(2)
    sweeps, found, held, held_in_test, neighbours = 60, 0, 0, 0, 0
    for _ in range(sweeps):
        report = compare(simulated(rng, 8, 0.12))
        first = report.arm("first")
        found += first.word == "better"
        held += first.difference["auc"].low <= -0.12 <= first.difference["auc"].high
        held_in_test += first.difference["test_loss"].low <= -0.12 <= first.difference["test_loss"].high
        neighbours += report.arm("second").word != "cannot tell"
        assert report.headline.startswith(("first is better than the baseline", "With 8 seeds", "second is better"))
    # a difference of 0.12 with a spread of 0.05 · √2 between seeds: 1.7 standard deviations
    assert found >= binom.ppf(0.0005, sweeps, 0.9)
    assert min(held, held_in_test) >= binom.ppf(0.0005, sweeps, 0.95)
    assert neighbours <= binom.ppf(0.9999, sweeps, 0.05)
