"""Scores against the libraries they come from, and the choices that are ours."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from graftlm.scores import bleu_of, chrf_of, corpus_scores, lead1, rouge_fits, row_scores


def row(source: str, reference: str, prediction: str, lang: str = "en_XX") -> dict[str, str]:
    return {"source": source, "reference": reference, "prediction": prediction, "target_lang": lang}


ROWS = [
    row("The cat sat. It slept.", "the cat sat on the mat", "the cat sat"),
    row("Dogs bark loudly! Why?", "dogs bark at night", "dogs bark loudly at night"),
]


def test_english_scores_are_those_of_the_libraries() -> None:
    scores = corpus_scores(ROWS, "summarization")["all"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = [scorer.score(item["reference"], item["prediction"])[name].fmeasure for item in ROWS]
        assert scores[name] == pytest.approx(100 * sum(expected) / 2, abs=1e-3)
    references = [[item["reference"] for item in ROWS]]
    predictions = [item["prediction"] for item in ROWS]
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, references).score, abs=1e-3)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, references).score, abs=1e-3)


def test_a_perfect_answer_scores_full_in_any_script() -> None:
    for text, lang in (("größer schöner Bär", "de_DE"), ("обработка данных быстро", "ru_RU"), ("معالجة النص", "ar_AR")):
        scores = row_scores(text, text, lang, "summarization")
        assert scores["rouge1"] == 100
        assert scores["rougeL"] == 100
        assert scores["chrf"] == pytest.approx(100)


def test_words_with_accents_are_one_word() -> None:
    # an ASCII tokenizer would cut "Bär" into "b" and "r" and find both in "Br"
    assert row_scores("Bär", "Br", "de_DE", "summarization")["rouge1"] == 0


def test_rouge_is_left_out_where_it_says_nothing() -> None:
    assert not rouge_fits("zh_CN", "summarization")
    assert not rouge_fits("de_DE", "translation")
    scores = corpus_scores([row("长文本。更多", "很短", "很短", "zh_CN"), *ROWS], "summarization")
    assert "rouge1" not in scores["languages"]["zh_CN"]
    assert scores["languages"]["zh_CN"]["chrf"] == pytest.approx(100)
    assert scores["languages"]["zh_CN"]["pairs"] == 1
    assert "rouge1" in scores["languages"]["en_XX"]
    assert "lead1" not in corpus_scores(ROWS, "translation")["all"]


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("One thing. Another.", "One thing."),
        ("Only one", "Only one"),
        ("Zeile eins\nZeile zwei", "Zeile eins"),
        ("第一句。第二句。", "第一句。"),
        ("  ", ""),
    ],
)
def test_lead1_is_the_first_sentence(source: str, first: str) -> None:
    assert lead1(source) == first


def test_scores_of_counts_are_sacrebleus_whatever_the_outputs() -> None:
    rng = np.random.default_rng(0)
    words = "the a list of packages returns sorted by name hidden ones".split()
    for size in (0, 1, 2, 5, 12):
        predictions = [" ".join(rng.choice(words, rng.integers(0, size + 1))) for _ in range(7)]
        references = [" ".join(rng.choice(words, 8)) for _ in range(7)]
        rows = [row_scores(*pair, "en_XX", "translation") for pair in zip(predictions, references, strict=True)]
        expected = sacrebleu.corpus_bleu(predictions, [references], force=True).score
        assert bleu_of(np.sum([item["bleu_counts"] for item in rows], axis=0)) == pytest.approx(expected, abs=1e-9)
        expected = sacrebleu.corpus_chrf(predictions, [references]).score
        assert chrf_of(np.sum([item["chrf_counts"] for item in rows], axis=0)) == pytest.approx(expected, abs=1e-9)
    many = np.stack([np.sum([item["chrf_counts"] for item in rows[:end]], axis=0) for end in (1, 4, 7)])
    assert chrf_of(many) == pytest.approx([float(chrf_of(counts)) for counts in many])


def test_bleu_of_several_languages_has_the_tokens_of_each() -> None:
    both = [row("", "长文本很好", "长文本很好", "zh_CN"), row("", "one long text here", "one long text here")]
    scores = corpus_scores(both, "translation")
    assert scores["languages"]["zh_CN"]["bleu"] == pytest.approx(100)  # 13a would make one word of it, and no 4-gram
    assert scores["all"]["bleu"] == pytest.approx(100)
