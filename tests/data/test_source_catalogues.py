import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from graftlm.data.settings import CataloguesData
from graftlm.data.sources import check_source, open_source
from graftlm.data.sources.catalogues import _entries, catalogue_language, is_message
from graftlm.data.splits import fold, prepare
from graftlm.errors import DataError


def settings(**values: object) -> CataloguesData:
    return CataloguesData("catalogues", "catalogues", task="translation", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("django/conf/locale/de/LC_MESSAGES/django.mo", "de_DE"),
        ("x/locale/pt_BR/LC_MESSAGES/x.po", "pt_XX"),
        ("x/locale/zh_Hans/LC_MESSAGES/x.mo", "zh_CN"),
        ("x/locale/zh_Hant/LC_MESSAGES/x.mo", None),
        ("x/locale/sr_Latn/LC_MESSAGES/x.mo", None),
        ("x/locale/eo/LC_MESSAGES/x.mo", None),
        ("x/locale/de/x.mo", None),
        ("x/locale/de/LC_MESSAGES/x.js", None),
    ],
)
def test_folders_become_codes(file: str, code: str | None) -> None:
    assert catalogue_language(file) == code


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Save %(name)s", True),
        ("%(a)s: {b} <b>%s</b>", False),
        ("OK", False),
        ("some_identifier", False),
        ("保存更改", True),
    ],
)
def test_messages_of_format_only_are_left_out(text: str, kept: bool) -> None:
    assert is_message(text) is kept


def test_fuzzy_plural_and_empty_entries_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("babel")
    file = tmp_path / "x.po"
    file.write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
        'msgid "Save the\\n file"\nmsgstr "Datei  speichern"\n\n'
        '#, fuzzy\nmsgid "Delete it"\nmsgstr "Falsch geraten"\n\n'
        'msgid "Empty one"\nmsgstr ""\n\n'
        'msgid "Status quo"\nmsgstr "Status Quo"\n\n'
        'msgid "%d file"\nmsgid_plural "%d files"\nmsgstr[0] "%d Datei"\nmsgstr[1] "%d Dateien"\n',
        encoding="utf-8",
    )
    assert list(_entries(file)) == [("Save the file", "Datei speichern")]
    file.write_bytes(b"\xff\xfe broken")
    assert list(_entries(file)) == []


def test_django_is_parallel_and_no_message_is_in_two_splits() -> None:
    pytest.importorskip("babel")
    pytest.importorskip("django")
    chosen = settings(packages=["django"], target_langs=["de", "fr_XX", "ja_XX"], both_directions=True)
    assert check_source(chosen) == []
    source = open_source(chosen)
    assert source.fingerprint()["packages"] == [f"django {version('django')}"]
    done = prepare(source, chosen)
    assert sum(map(len, done.pairs.values())) > 2000
    groups = {split: {pair.group for pair in pairs} for split, pairs in done.pairs.items()}
    assert not groups["train"] & (groups["test"] | groups["validation"])
    assert not groups["test"] & groups["validation"]
    test_texts = {fold(text) for pair in done.pairs["test"] for text in (pair.source, pair.target)}
    assert not test_texts & {fold(pair.source) for pair in done.pairs["train"]}
    assert not test_texts & {fold(text.text) for text in done.texts["train"]}
    directions = {(pair.source_lang, pair.target_lang) for pair in done.pairs["train"]}
    assert directions == {pair for lang in ("de_DE", "fr_XX", "ja_XX") for pair in (("en_XX", lang), (lang, "en_XX"))}
    assert {text.lang for text in done.texts["train"]} == {"en_XX", "de_DE", "fr_XX", "ja_XX"}


def test_mistakes_have_a_remedy() -> None:
    pytest.importorskip("babel")
    (problem,) = check_source(settings(packages=["no-such-package"]))
    assert "pip install 'graftlm[catalogues]'" in str(problem)
    (problem,) = check_source(settings(packages=["rich"]))
    assert "no catalogue is found" in str(problem)
    with pytest.raises(DataError, match="no catalogue is found"):
        list(open_source(settings(packages=["rich"])).pairs())


def test_without_babel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "babel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    (problem,) = check_source(settings())
    assert "needs babel" in str(problem)
    assert "pip install 'graftlm[catalogues]'" in str(problem)
