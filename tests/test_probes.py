"""Probes on texts whose faults are known."""

from __future__ import annotations

import pytest

from graftlm.probes import detect, probe, summary

SOURCE = "This function reads the file. It returns the list of packages sorted by name. Errors are raised."
REFERENCE = "Return all packages of the file, sorted."


def test_copies_are_found() -> None:
    whole = probe(SOURCE, SOURCE, REFERENCE, "en_XX")
    assert (whole["copied"], whole["exact_copy"]) == (1.0, True)
    sentence = probe("It returns the list of packages sorted by name.", SOURCE, REFERENCE, "en_XX")
    assert (sentence["copied"], sentence["exact_copy"]) == (1.0, True)
    part = probe("the list of packages sorted by", SOURCE, REFERENCE, "en_XX")
    assert (part["copied"], part["exact_copy"]) == (1.0, False)
    # of the 4-grams "gives the list of", "the list of packages" the second is the source's
    assert probe("Gives the list of packages", SOURCE, REFERENCE, "en_XX")["copied"] == 0.5
    assert probe(REFERENCE, SOURCE, REFERENCE, "en_XX")["copied"] == 0.0


def test_repetitions_are_found() -> None:
    loop = probe("sorted by name by name by name", SOURCE, REFERENCE, "en_XX")
    assert loop["degenerate"]
    assert probe("no no no", SOURCE, REFERENCE, "en_XX")["degenerate"]
    assert not probe("bye bye, love", SOURCE, REFERENCE, "en_XX")["degenerate"]
    assert not probe(REFERENCE, SOURCE, REFERENCE, "en_XX")["degenerate"]
    # 4-grams of a b c d a b c d: five, of which abcd stands twice
    assert probe("a b c d a b c d", SOURCE, REFERENCE, "en_XX")["repeated"] == 0.2
    assert probe("長い長い長い文", "", "長い文", "ja_XX")["degenerate"]


def test_nothing_is_empty_and_no_copy() -> None:
    nothing = probe("  ", SOURCE, REFERENCE, "en_XX")
    assert (nothing["empty"], nothing["exact_copy"], nothing["degenerate"], nothing["detected"]) == (
        True,
        False,
        False,
        None,
    )
    assert probe(REFERENCE * 2, SOURCE, REFERENCE, "en_XX")["length_ratio"] == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The list of packages that this folder holds", "en"),
        ("Die Liste der Pakete, die dieser Ordner enthält", "de"),
        ("قائمة الحزم التي يحتويها هذا المجلد", "ar"),
        ("此文件夹包含的软件包列表", "zh"),
        ("1234 + 56", None),
        ("", None),
    ],
)
def test_the_language_is_told(text: str, code: str | None) -> None:
    assert detect(text) == code


def test_the_summary_stands_beside_the_references() -> None:
    german = "Die Liste der Pakete, die dieser Ordner enthält"
    rows = [
        {"source": SOURCE, "reference": REFERENCE, "prediction": text, "target_lang": lang}
        for text, lang in ((SOURCE, "en_XX"), (german, "en_XX"), ("", "en_XX"), (german, "de_DE"))
    ]
    rows[-1]["reference"] = german
    rows = [{**row, **probe(row["prediction"], row["source"], row["reference"], row["target_lang"])} for row in rows]
    found = summary(rows)
    english = found["languages"]["en_XX"]
    assert (english["pairs"], english["in_language"], english["language_told"]) == (3, 0.5, 2)
    assert english["exact_copies"] == english["empty"] == pytest.approx(1 / 3, abs=1e-4)
    assert english["reference"]["in_language"] == 1
    assert english["reference"]["exact_copies"] == 0
    assert found["all"]["in_language"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["languages"]["de_DE"]["length_ratio"] == 1
    assert found["all"]["commonest"] == 0.5  # the German sentence, twice
    assert found["all"]["reference"]["commonest"] == 0.75


def test_a_hostile_text_takes_no_time() -> None:
    huge = "a " * 200_000
    assert probe(huge, huge, huge, "en_XX")["degenerate"]
    assert probe("\ud800 \u202e<script>", huge, "", "ar_AR")["empty"] is False
