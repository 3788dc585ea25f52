"""Probes of generated text that catch what scores hide: the wrong language, copies of the source, repetitions, the
same words for every source, nothing.

Each is measured on the references as well, where that makes sense: many a good summary copies words of its source,
and a detector of languages errs on short texts; what counts is how far the outputs are from the references.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.data.languages import MBART50, UNSPACED, language_of

_GRAM = 4
_WORD = re.compile(r"\w+", re.UNICODE)
_LONGEST = 4000  # characters of a text that are looked at
_LONGEST_SOURCE = 100_000
_LONGEST_LOOP = 4  # words
_NO_LANGUAGE = "zxx"  # py3langid: code, numbers, nothing that is language


def probe(prediction: str, source: str, reference: str, lang: str) -> dict[str, Any]:
    """Of one output: the language `detected` (None where that cannot be said), and

    `copied`: the share of its n-grams of four words (of characters where a language has no spaces) that stand in the
    source; `exact_copy`: whether it is the source, or a whole sentence of it; `repeated`: the share of its n-grams that
    stood in it before; `degenerate`: whether it says up to four words three times in a row, or half of it is
    repeated; `length_ratio` to the reference, in characters; `empty`.
    """
    return {
        "detected": detect(prediction),
        **_shape(prediction, source, lang),
        "length_ratio": _ratio(prediction, reference),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The probes of rows (with `source`, `reference`, `target_lang` and what `probe` gives) of all, and by language.

    Shares from 0 to 1. `in_language`: of the outputs whose language can be told, those in the one asked for.
    `commonest`: the outputs that are the most frequent one, word for word.
    """
    references = [
        {
            **_shape(row["reference"], row["source"], row["target_lang"]),
            "detected": detect(row["reference"]),
            "prediction": row["reference"],
        }
        for row in rows
    ]
    languages = sorted({row["target_lang"] for row in rows})

    def table(places: Sequence[int]) -> dict[str, Any]:
        codes = [language_of(rows[place]["target_lang"]) for place in places]
        found = _table([rows[place] for place in places], codes)
        ratios = (
            sum(len(rows[place]["prediction"]) for place in places),
            sum(len(rows[place]["reference"]) for place in places),
        )
        found["length_ratio"] = round(ratios[0] / max(ratios[1], 1), 4)
        found["reference"] = _table([references[place] for place in places], codes)
        return {"pairs": len(places), **found}

    return {
        "all": table(range(len(rows))),
        "languages": {
            lang: table([place for place, row in enumerate(rows) if row["target_lang"] == lang]) for lang in languages
        },
    }


def detect(text: str) -> str | None:
    """The language of a text among mBART-50's, by py3langid; None where there is none to be told."""
    text = text[:_LONGEST]
    if not any(sign.isalpha() for sign in text):
        return None
    found = str(_identifier().classify(text)[0])
    return None if found == _NO_LANGUAGE else found


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    known = {*map(language_of, MBART50), _NO_LANGUAGE}
    identifier.set_languages(sorted(known & set(identifier.labels)))
    return identifier


def _shape(text: str, source: str, lang: str) -> dict[str, Any]:
    spaced = language_of(lang) not in UNSPACED
    ours, theirs = _units(text[:_LONGEST], spaced), _units(source[:_LONGEST_SOURCE], spaced)
    grams = _grams(ours)
    known = set(_grams(theirs, min(_GRAM, max(len(ours), 1))))
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    plain, sentences = " ".join(text.split()), " ".join(source.split())
    return {
        "copied": round(sum(gram in known for gram in grams) / len(grams), 4) if grams else 0.0,
        "exact_copy": bool(plain) and (plain == sentences or _is_sentence(plain, sentences)),
        "repeated": round(repeated, 4),
        "degenerate": repeated >= 0.5 or _loops(ours),
        "empty": not plain,
    }


def _units(text: str, spaced: bool) -> list[str]:
    words = _WORD.findall(text.lower())
    return words if spaced else [sign for word in words for sign in word]


def _grams(units: Sequence[str], size: int = _GRAM) -> list[tuple[str, ...]]:
    """All n-grams; of a text that is shorter than one, the text."""
    size = min(size, len(units))
    return [tuple(units[start : start + size]) for start in range(len(units) - size + 1)] if size else []


def _loops(units: Sequence[str]) -> bool:
    """Whether a word, or up to four, stand three times in a row."""
    for period in range(1, _LONGEST_LOOP + 1):
        run = 0
        for before, now in zip(units, units[period:], strict=False):
            run = run + 1 if before == now else 0
            if run >= 2 * period:
                return True
    return False


def _is_sentence(text: str, source: str) -> bool:
    """Whether a text of at least `_GRAM` words is a sentence of the source."""
    if len(_WORD.findall(text)) < _GRAM:
        return False
    at = source.find(text)
    if at < 0:
        return False
    before, after = source[:at].rstrip(), source[at + len(text) :].lstrip()
    ended = text[-1] in _ENDS or not after or after[0] in _ENDS
    return ended and (not before or before[-1] in _ENDS)


_ENDS = ".!?。！？؟।:;"


def _ratio(prediction: str, reference: str) -> float:
    return round(len(prediction) / max(len(reference), 1), 4)


def _table(rows: Sequence[Mapping[str, Any]], codes: Sequence[str]) -> dict[str, Any]:
    count = max(len(rows), 1)
    told = [(row["detected"], code) for row, code in zip(rows, codes, strict=True) if row.get("detected") is not None]
    return {
        "commonest": round(max(Counter(row["prediction"].strip() for row in rows).values(), default=0) / count, 4),
        "in_language": round(sum(lang == code for lang, code in told) / len(told), 4) if told else None,
        "language_told": len(told),
        **{
            name: round(sum(float(row[name]) for row in rows) / count, 4)
            for name in ("copied", "repeated", "degenerate")
        },
        "exact_copies": round(sum(bool(row["exact_copy"]) for row in rows) / count, 4),
        "empty": round(sum(bool(row["empty"]) for row in rows) / count, 4),
    }
