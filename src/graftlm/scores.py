"""Scores of generated text: ROUGE, chrF and BLEU, whole and per language, beside lead-1 as the floor.

ROUGE is that of the `rouge-score` package with words of any script as tokens (its own tokenizer keeps ASCII letters and
digits only, so scores in languages with accents differ from the package's default). In languages written without
spaces ROUGE is left out: chrF (sacrebleu, character n-grams) speaks there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.data.languages import UNSPACED, language_of

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


def row_scores(prediction: str, reference: str, lang: str, task: str) -> dict[str, float]:
    """Scores of one row, 0 to 100: chrF, and ROUGE where it fits."""
    import sacrebleu

    scores = {"chrf": sacrebleu.sentence_chrf(prediction, [reference]).score}
    if rouge_fits(lang, task):
        found = _scorer().score(reference, prediction)
        scores.update({name: 100 * found[name].fmeasure for name in ROUGE})
    return {name: round(value, 4) for name, value in scores.items()}


def corpus_scores(rows: Sequence[Mapping[str, Any]], task: str) -> dict[str, Any]:
    """Scores of rows with `prediction`, `reference`, `source` and `target_lang`: of all, and per target language."""
    languages = sorted({row["target_lang"] for row in rows})
    return {
        "all": _with_floor(rows, task),
        "languages": {
            lang: _with_floor([row for row in rows if row["target_lang"] == lang], task) for lang in languages
        },
    }


def _with_floor(rows: Sequence[Mapping[str, Any]], task: str) -> dict[str, Any]:
    scores: dict[str, Any] = _scores(rows, [row["prediction"] for row in rows], task)
    if task == "summarization":
        scores["lead1"] = _scores(rows, [lead1(row["source"]) for row in rows], task)
    return scores


def _scores(rows: Sequence[Mapping[str, Any]], predictions: Sequence[str], task: str) -> dict[str, Any]:
    import sacrebleu

    references = [row["reference"] for row in rows]
    languages = {language_of(row["target_lang"]) for row in rows}
    tokenizer = _BLEU_TOKENIZER.get(next(iter(languages)), "13a") if len(languages) == 1 else "13a"
    scores: dict[str, Any] = {
        "pairs": len(rows),
        "chrf": sacrebleu.corpus_chrf(list(predictions), [references]).score,
        "bleu": sacrebleu.corpus_bleu(list(predictions), [references], tokenize=tokenizer).score,
        "length_ratio": sum(map(len, predictions)) / max(sum(map(len, references)), 1),
    }
    worded = [index for index, row in enumerate(rows) if rouge_fits(row["target_lang"], task)]
    if worded:
        found = [_scorer().score(references[index], predictions[index]) for index in worded]
        for name in ROUGE:
            scores[name] = 100 * sum(item[name].fmeasure for item in found) / len(found)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in scores.items()}


_cached: list[Any] = []


def _scorer() -> Any:
    if not _cached:
        from rouge_score.rouge_scorer import RougeScorer

        _cached.append(RougeScorer(list(ROUGE), tokenizer=_Words()))
    return _cached[0]
