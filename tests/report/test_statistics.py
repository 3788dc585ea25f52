import itertools
import math

import numpy as np
import pytest

from graftlm.report import statistics as stats
from graftlm.report.bootstrap import bootstrap
from graftlm.report.power import seeds_needed


def test_sign_flip_by_hand():
    assert stats.sign_flip([1.0, 2.0, 3.0]) == 2 / 8
    # |sum| >= 2 of (±1 ±2 ±3): 6, 4, 2 and their mirrors against the two zeros
    assert stats.sign_flip([-1.0, 0.0 - 2.0, 1.0]) == pytest.approx(
        np.mean([abs(-a - 2 * b + c) >= 2 for a, b, c in itertools.product([1, -1], repeat=3)])
    )
    assert stats.sign_flip([1.0, 2.0, -3.0]) == 1.0
    assert stats.sign_flip([0.1] * 6) == 2 / 64
    assert stats.sign_flip([0.3]) == 1.0


def test_sign_flip_agrees_with_scipy_and_beyond_enumeration():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(0.3, 1, 9)
    expected = scipy_stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(values) == pytest.approx(expected.pvalue)
    many = np.random.default_rng(2).normal(0.3, 1, 40)
    assert stats.sign_flip(many) == pytest.approx(scipy_stats.ttest_1samp(many, 0).pvalue, abs=0.01)
    assert stats.sign_flip(np.ones(40)) > 0  # a p is never zero


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_holm_is_the_closure_of_bonferroni():
    """By its definition: a p is corrected to the worst Bonferroni p of all families that hold it (Marcus 1976)."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 7):
        values = rng.beta(0.4, 3, size).tolist()
        families = [one for length in range(1, size + 1) for one in itertools.combinations(range(size), length)]
        expected = [
            max(min(1, len(family) * min(values[place] for place in family)) for family in families if index in family)
            for index in range(size)
        ]
        assert stats.holm(values) == pytest.approx(expected)


def test_student_agrees_with_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 3, 7, 30, 500):
        for t in (0.0, 0.01, 0.5, 1.0, 2.5, 12.0, 60.0):
            assert stats.t_tails(t, df) == pytest.approx(2 * scipy_stats.t.sf(t, df), rel=1e-7, abs=1e-14)
        for confidence in (0.8, 0.95, 0.999):
            assert stats.t_quantile(confidence, df) == pytest.approx(
                scipy_stats.t.ppf((1 + confidence) / 2, df), rel=1e-6
            )


def test_paired_by_hand_and_degenerate():
    found = stats.paired([1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert found.mean == 2.5
    half = 3.182446305 * math.sqrt(5 / 3) / 2
    assert (found.low, found.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))
    one = stats.paired([1.0])
    assert one is not None
    assert (one.low, one.p) == (None, None)
    same = stats.paired([0.25] * 5)
    assert same is not None
    assert (same.low, same.p, stats.judge(same, 1)) == (None, None, "cannot tell")
    assert stats.paired([]) is None


def test_area_over_log_steps():
    steps = np.array([0.0, 9.0, 99.0])
    assert stats.area(steps, np.array([4.0, 4.0, 4.0])) == pytest.approx(4)
    # log10(step + 1) is 0, 1, 2: trapezoids (4 + 2) / 2 and (2 + 1) / 2
    assert stats.area(steps, np.array([4.0, 2.0, 1.0])) == pytest.approx((3 + 1.5) / 2)
    assert stats.area(steps, np.array([4.0, 2.0, 1.0]), last=9) == pytest.approx(3)
    assert math.isnan(stats.area(np.array([]), np.array([])))
    assert stats.area(np.array([5.0]), np.array([2.0])) == 2


def test_first_reach_and_censored_medians():
    steps, loss = np.array([0.0, 100.0, 200.0]), np.array([5.0, 3.0, 2.0])
    assert stats.first_reach(steps, loss, 4.0) == pytest.approx(50)
    assert stats.first_reach(steps, loss, 2.0) == pytest.approx(200)
    assert stats.first_reach(steps, loss, 1.9) is None
    assert stats.median_censored([0.5, 0.7, None], [1, 1, 1.0]) == (0.7, None)
    assert stats.median_censored([0.5, None, None], [9, 1.5, 1.2]) == (None, 1.2)
    assert stats.median_censored([], []) == (None, None)
    # half way between one that is known and one of which only a bound is
    assert stats.median_censored([0.5, None], [9, 1.5]) == (None, 1.0)


def test_the_interval_of_a_median_is_made_of_order_statistics():
    six = stats.censored([0.3, 0.5, 0.4, 0.8, None, 0.6], [math.inf] * 4 + [1.2, math.inf])
    assert (six.median, six.low, six.high) == (pytest.approx(0.55), 0.3, None)  # the greatest is censored
    assert (six.n, six.censored) == (6, 1)
    nine = stats.censored([float(value) for value in range(1, 10)], [math.inf] * 9)
    assert (nine.low, nine.high) == (2, 8)  # 1 - 2 * (1 + 9) / 512 is .961; the next pair has .82
    five = stats.censored([1.0, 2, 3, 4, 5], [math.inf] * 5)
    assert (five.low, five.high) == (None, None)  # 1 - 2 / 32 is less than .95
    # a bound below all that was reached: from below the censored one counts as the least
    assert stats.censored([1.0, 1.1, 1.2, 1.3, 1.4, None], [math.inf] * 5 + [0.9]).low == 0.9


def test_two_seeds_never_support_a_claim():
    huge = stats.correct([stats.paired([-5.0, -5.0001])])[0]
    assert huge is not None
    assert huge.p_t is not None
    assert huge.p_t < 0.001
    assert stats.judge(huge, 1) == "cannot tell"


def test_the_exact_test_must_agree_once_it_can_speak():
    assert not stats.exact_can_speak(5, 1)
    assert stats.exact_can_speak(6, 1)
    assert not stats.exact_can_speak(6, 2)
    assert stats.exact_can_speak(8, 4)
    split = stats.Difference(-1, -1.5, -0.5, 8, 1.0, p=0.2, p_t=0.001)
    assert stats.judge(split, 1) == "cannot tell"
    assert (
        stats.judge(split, 10) == "better"
    )  # the exact test cannot reach .05 / 10 with eight seeds: the t-test stands


def test_bootstrap_weighs_examples_by_their_tokens():
    table = np.array([[1.0, 0.0], [1.2, 0.1]])
    found = bootstrap(table, np.array([3.0, 1.0]), resamples=100)
    assert found is not None
    assert found.mean == pytest.approx((3 * 1.1 + 0.05) / 4)
    one = bootstrap(table[:1])
    assert one is not None
    assert one.low is None


def test_seeds_needed_gives_the_power_it_promises():
    difference = stats.Difference(-0.5, -1, 0, 4, 1.0)
    needed = seeds_needed(difference)
    assert needed is not None
    assert 32 <= needed <= 36  # textbook: 34 pairs for d = 0.5, alpha = .05, power .8
    assert seeds_needed(stats.Difference(-0.5, None, None, 1)) is None
