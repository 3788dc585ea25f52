"""The same numbers by other libraries: scipy's bootstrap and permutation test, sacrebleu's paired test."""

import numpy as np
import pytest
import scipy.stats
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from graftlm.report.bootstrap import linear, randomised, resampled
from graftlm.report.examples import differences
from graftlm.report.records import Run
from graftlm.scores import row_scores

WORDS = "the a list of packages returns sorted by name hidden ones without any file that this folder holds".split()


def test_resampled_examples_spread_as_scipy_says():
    rng = np.random.default_rng(0)
    values, weights = rng.gamma(2, 1, 60), rng.integers(3, 30, 60).astype(float)
    for weight in (None, weights):
        drawn = np.concatenate([linear(values[None], weight)(some) for some in resampled(60, 6000)])[:, 0]
        counted = np.ones(60) if weight is None else weight
        expected = scipy.stats.bootstrap(
            (values, counted),
            lambda x, w, axis: (x * w).sum(axis=axis) / w.sum(axis=axis),
            n_resamples=6000,
            method="percentile",
            paired=True,
            vectorized=True,
            rng=np.random.default_rng(1),
        )
        assert drawn.std(ddof=1) == pytest.approx(expected.standard_error, rel=0.05)
        low, high = np.quantile(drawn, [0.025, 0.975])
        width = expected.confidence_interval.high - expected.confidence_interval.low
        assert low == pytest.approx(expected.confidence_interval.low, abs=0.06 * width)
        assert high == pytest.approx(expected.confidence_interval.high, abs=0.06 * width)


def test_randomisation_is_scipys_permutation_of_signs():
    values = np.random.default_rng(2).normal(0.25, 1, 40)
    expected = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=8000, rng=np.random.default_rng(3)
    )
    found = randomised(lambda kept: ((2 * kept - 1) @ values)[:, None] / 40, 40, 8000)
    assert 0.05 < expected.pvalue < 0.5
    assert found == pytest.approx(expected.pvalue, abs=0.02)


def outputs(right: float, seed: int, count: int) -> list[str]:
    """Like the references, with some words changed."""
    rng = np.random.default_rng([seed, 4])
    texts = []
    for reference in references(count):
        words = [word if rng.random() < right else str(rng.choice(WORDS)) for word in reference.split()]
        texts.append(" ".join(words[: len(words) - int(rng.integers(0, 3))]))
    return texts


def references(count: int) -> list[str]:
    rng = np.random.default_rng(5)
    return [" ".join(rng.choice(WORDS, int(rng.integers(6, 14)))) + "." for _ in range(count)]


def run(texts: list[str], seed: int) -> Run:
    rows = [
        {"index": index, "loss": 1.0, "tokens": 5, "target_lang": "en_XX"}
        | row_scores(text, reference, "en_XX", "summarization")
        for index, (text, reference) in enumerate(zip(texts, references(len(texts)), strict=True))
    ]
    return Run("", {}, {}, rows, {}, {}, None, "", "", finetune_seed=seed)


@pytest.mark.parametrize("right", [0.62, 0.68])
def test_bleu_and_chrf_are_compared_as_sacrebleu_compares_them(right, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "6")
    ours, theirs = outputs(right, 1, 100), outputs(0.6, 2, 100)
    found, by_language = differences([(run(ours, 1), run(theirs, 1))], 0.95, 3000)
    test = PairedTest(
        [("Baseline", theirs), ("arm", ours)],
        {"BLEU": BLEU(), "CHRF": CHRF()},
        [references(100)],
        test_type="ar",
        n_samples=3000,
    )
    _, table = test()
    for name, key in (("bleu", "BLEU"), ("chrf", "chrF2")):
        base, arm = table[key]
        assert found[name].mean == pytest.approx(arm.score - base.score, abs=1e-4)
        assert found[name].p_examples == pytest.approx(arm.p_value, abs=0.03)
        assert found[name].low is None  # one seed has no interval over seeds
    assert by_language["en_XX"]["bleu"] == found["bleu"]


def test_scores_of_several_seeds_are_means_of_each_seeds_score():
    pairs = [(run(outputs(0.75, seed, 60), seed), run(outputs(0.6, seed + 10, 60), seed)) for seed in (1, 2, 3)]
    found, _ = differences(pairs, 0.95, 500)
    apart = []
    for seed in (1, 2, 3):
        ours, theirs = (
            CHRF().corpus_score(texts, [references(60)]).score
            for texts in (outputs(0.75, seed, 60), outputs(0.6, seed + 10, 60))
        )
        apart.append(ours - theirs)
    assert found["chrf"].mean == pytest.approx(np.mean(apart), abs=1e-4)
    assert found["chrf"].sd == pytest.approx(np.std(apart, ddof=1), abs=1e-4)
    assert found["chrf"].low < found["chrf"].mean < found["chrf"].high
    assert found["chrf"].examples == 60
    assert found["chrf"].p_examples < 0.01
    assert found["test_loss"].mean == 0
