"""Scores of generated text: ROUGE, chrF and BLEU, whole and per language, beside lead-1 as the floor.

ROUGE is that of the `rouge-score` package with words of any script as tokens (its own tokenizer keeps ASCII letters and
digits only, so scores in languages with accents differ from the package's default). In languages written without
spaces ROUGE is left out: chrF (sacrebleu, character n-grams) speaks there. BLEU of several languages together counts
each row's tokens as its language has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftlm.data.languages import UNSPACED, language_of

Floats = NDArray[np.float64]
ROUGE = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"\w+", re.UNICODE)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？؟।])\s+|(?<=[。！？])|\n")
_BLEU_TOKENIZER = {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "km": "char", "my": "char"}


class _Words:
    """The tokenizer that `rouge_score` is given."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def rouge_fits(lang: str, task: str) -> bool:
    """Whether ROUGE says anything: in summarisation, in a language with spaces between words."""
    return task == "summarization" and language_of(lang) not in UNSPACED


def lead1(source: str) -> str:
    """The first sentence of the source: what a summariser must beat."""
    return next((part.strip() for part in _SENTENCE_END.split(source) if part.strip()), "")


def row_scores(prediction: str, reference: str, lang: str, task: str) -> dict[str, Any]:
    """Of one row: chrF, and ROUGE where it fits, 0 to 100; and the counts of which a corpus' BLEU and chrF are made.

    `bleu_counts` (10: lengths, matches and n-grams of the orders 1 to 4) and `chrf_counts` (18: n-grams of output and
    reference and matches, for the orders 1 to 6) are sacrebleu's; summed over rows they give `bleu_of` and `chrf_of`.
    BLEU's tokens are those of the row's language.
    """
    scores: dict[str, Any] = {}
    for name in ("bleu", "chrf"):
        metric = _metric(name, language_of(lang))
        scores[f"{name}_counts"] = [
            int(count) for count in metric._extract_corpus_statistics([prediction], [[reference]])[0]
        ]
    scores["chrf"] = round(float(chrf_of(np.array(scores["chrf_counts"]))), 4)
    if rouge_fits(lang, task):
        found = _scorer().score(reference, prediction)
        scores.update({name: round(100 * found[name].fmeasure, 4) for name in ROUGE})
    return scores


def bleu_of(counts: Floats) -> Floats:
    """BLEU of summed counts [..., 10], 0 to 100: as sacrebleu's, with its exponential smoothing."""
    counts = np.asarray(counts, dtype=np.float64)
    written, wanted, correct, total = counts[..., 0], counts[..., 1], counts[..., 2:6], counts[..., 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        misses = np.cumsum((correct == 0) & (total > 0), axis=-1)
        precision = np.where(correct > 0, correct / total, 1 / (2.0**misses * total))
        short = np.where(written < wanted, np.exp(1 - wanted / written), 1.0)
        score = 100 * short * np.exp(np.log(precision).mean(axis=-1))
    fits = (correct.sum(axis=-1) > 0) & np.all(total > 0, axis=-1)
    result: Floats = np.where(fits, np.nan_to_num(score), 0.0)
    return result


def chrf_of(counts: Floats) -> Floats:
    """chrF (beta 2, six orders of characters) of summed counts [..., 18], 0 to 100: as sacrebleu's."""
    counts = np.asarray(counts, dtype=np.float64)
    written, wanted, matched = counts[..., 0::3], counts[..., 1::3], counts[..., 2::3]
    told = (written > 0) & (wanted > 0)
    orders = np.maximum(told.sum(axis=-1), 1)
    precision = np.where(told, matched / np.maximum(written, 1), 0).sum(axis=-1) / orders
    recall = np.where(told, matched / np.maximum(wanted, 1), 0).sum(axis=-1) / orders
    below = 4 * precision + recall
    result: Floats = np.where(below > 0, 100 * 5 * precision * recall / np.where(below > 0, below, 1), 0.0)
    return result


def corpus_scores(rows: Sequence[Mapping[str, Any]], task: str) -> dict[str, Any]:
    """Scores of rows with `prediction`, `reference`, `source`, `target_lang` and what `row_scores` gives (made where it
    is missing): of all, and per target language."""
    made = [row if "bleu_counts" in row else {**row, **_row(row, task)} for row in rows]
    floors = None
    if task == "summarization":
        floors = [{**row, **_row({**row, "prediction": lead1(row["source"])}, task)} for row in rows]
    languages = sorted({row["target_lang"] for row in rows})

    def table(places: Sequence[int]) -> dict[str, Any]:
        scores = _summed([made[place] for place in places])
        if floors is not None:
            scores["lead1"] = _summed([floors[place] for place in places])
        return scores

    return {
        "all": table(range(len(rows))),
        "languages": {
            lang: table([place for place, row in enumerate(rows) if row["target_lang"] == lang]) for lang in languages
        },
    }


def _row(row: Mapping[str, Any], task: str) -> dict[str, Any]:
    made = row_scores(row["prediction"], row["reference"], row["target_lang"], task)
    return {"prediction": row["prediction"], **made}


def _summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    written, wanted = (sum(len(row[name]) for row in rows) for name in ("prediction", "reference"))
    scores: dict[str, Any] = {
        "pairs": len(rows),
        "chrf": float(chrf_of(np.sum([row["chrf_counts"] for row in rows], axis=0))),
        "bleu": float(bleu_of(np.sum([row["bleu_counts"] for row in rows], axis=0))),
        "length_ratio": written / max(wanted, 1),
    }
    worded = [row for row in rows if "rougeL" in row]
    if worded:
        scores.update({name: sum(row[name] for row in worded) / len(worded) for name in ROUGE})
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in scores.items()}


_metrics: dict[tuple[str, str], Any] = {}


def _metric(name: str, language: str) -> Any:
    """sacrebleu's metric, for the tokens of a language."""
    tokens = _BLEU_TOKENIZER.get(language, "13a") if name == "bleu" else ""
    if (name, tokens) not in _metrics:
        from sacrebleu.metrics import BLEU, CHRF

        _metrics[name, tokens] = BLEU(tokenize=tokens, force=True) if name == "bleu" else CHRF()
    return _metrics[name, tokens]


_cached: list[Any] = []


def _scorer() -> Any:
    if not _cached:
        from rouge_score.rouge_scorer import RougeScorer

        _cached.append(RougeScorer(list(ROUGE), tokenizer=_Words()))
    return _cached[0]
