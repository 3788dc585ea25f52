"""The corpus artifact: rows divided into splits, the two tokenizers, and the tokens of every row.

    summary.json                       counts, languages, tokens, share of <unk>, what was dropped
    pairs.{train,validation,test}.jsonl
    tokenizer/donor  tokenizer/host    Hugging Face folders
    tokenizer/{donor,host}_rows.npy    with `model.trim`: the checkpoint's id of each id
    tokens/texts.{train,validation}    donor ids; the test split's texts never train anything
    tokens/{source,target}.{split}     host ids; row i is line i of pairs.{split}.jsonl
    tokens/*.langs.npy                 the language of each row, an index into summary.json's "languages"

Tokens carry no special ids and are not cut: formats and maximal lengths apply when a batch is made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graftlm.checkpoint import check_size, read_config
from graftlm.console import Progress, Silent
from graftlm.data import tokenizers
from graftlm.data.format import HostFormat
from graftlm.data.languages import CODES, nearest, to_code
from graftlm.data.rows import SPLITS, Pair, Split
from graftlm.data.settings import CataloguesData, DataSettings
from graftlm.data.tokens import TokenFile
from graftlm.data.writing import Writing, languages_of
from graftlm.errors import CheckpointError, DataError, Problem, StoreError
from graftlm.schema import ModelSettings, Settings

if TYPE_CHECKING:
    from graftlm.data.splits import Prepared

MOST_UNKNOWN = 0.05  # share of <unk> beyond which a tokenizer does not know the text
_TEXT_SPLITS: tuple[Split, ...] = ("train", "validation")
_SIDES = {"texts": "texts' tokens", "source": "sources' tokens", "target": "targets' tokens"}


def build_corpus(settings: Settings, out: Path, progress: Progress | None = None) -> None:
    """Reads the source of `settings.data`, and writes the artifact into the folder `out`.

    Raises:
        DataError: the source cannot be read, or the tokenizers do not know its text or a language of it.
        CheckpointError: a tokenizer cannot be loaded.
    """
    from graftlm.data.sources import open_source
    from graftlm.data.splits import prepare

    progress = progress or Silent()
    data = _writable(settings.data, settings.model)
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(open_source(data), data, progress, out)
    write_corpus(prepared, settings.model, out, progress)


def _writable(data: DataSettings, model: ModelSettings) -> DataSettings:
    """Catalogues in all languages, told not to read those that the host's format has no code for."""
    if isinstance(data, CataloguesData) and data.target_langs is None:
        return replace(data, target_langs=[code for code in CODES[model.format] if code != to_code(data.source_lang)])
    return data


def write_corpus(prepared: Prepared, model: ModelSettings, out: Path, progress: Progress | None = None) -> None:
    """Writes the artifact of rows that are read and divided already; raises as `build_corpus`."""
    progress = progress or Silent()
    out.mkdir(parents=True, exist_ok=True)
    donor, host = _tokenizers(prepared, model, progress)
    _check_languages(prepared, HostFormat.from_tokenizer(host), model)
    languages = _languages(prepared)
    writing = Writing(out / "tokens", languages, progress)
    dropped = Counter(prepared.dropped)
    counts: dict[str, dict[str, Any]] = {"texts": {}, "pairs": {}}
    for split in _TEXT_SPLITS:
        texts = prepared.texts.get(split, [])
        langs = languages_of(texts)
        writing.write(f"texts.{split}", donor, (row.text for row in texts), langs)
        counts["texts"][split] = _count(langs)
    for split in SPLITS:
        pairs = prepared.pairs.get(split, [])
        spoken = [pair for pair in pairs if pair.source.strip() and pair.target.strip()]
        if len(spoken) < len(pairs):
            dropped["an empty source or target"] += len(pairs) - len(spoken)
        writing.write(f"source.{split}", host, [row.source for row in spoken], [row.source_lang for row in spoken])
        writing.write(f"target.{split}", host, [row.target for row in spoken], [row.target_lang for row in spoken])
        _write_pairs(out / f"pairs.{split}.jsonl", spoken)
        counts["pairs"][split] = _count(f"{row.source_lang}>{row.target_lang}" for row in spoken)
    _check_unknown(writing, model)
    full = {"donor": len(donor), "host": len(host)}
    if model.trim is not None:
        donor, host = _trim(donor, host, writing.files, model, out, progress)
    donor.save_pretrained(out / "tokenizer" / "donor")
    host.save_pretrained(out / "tokenizer" / "host")
    summary = {
        "version": 1,
        **counts,
        "tokens": writing.tokens,
        "lengths": writing.lengths,
        "unknown": writing.unknown_shares(),
        "vocabulary": {"donor": len(donor), "host": len(host)},
        "trimmed_from": full if model.trim is not None else None,
        "languages": languages,
        "dropped": dict(dropped),
    }
    (out / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


class Corpus:
    """A corpus artifact, opened. Files are read when they are asked for."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError) as error:
            remedy = "delete its folder, if it is there, and give the command again"
            raise StoreError.at("store", self.path, f"holds no corpus: {error}", remedy) from error
        self.languages: list[str] = self.summary["languages"]

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path]]:
        return Corpus, (self.path,)

    @cached_property
    def donor_tokenizer(self) -> Any:
        return tokenizers.load_tokenizer(str(self.path / "tokenizer" / "donor"), path="store", kind="donor")

    @cached_property
    def host_tokenizer(self) -> Any:
        return tokenizers.load_tokenizer(str(self.path / "tokenizer" / "host"), path="store", kind="host")

    @cached_property
    def donor_rows(self) -> npt.NDArray[np.int64] | None:
        """The id in the donor's checkpoint of each id here; None where nothing was trimmed (`model.trim`)."""
        return self._rows("donor")

    @cached_property
    def host_rows(self) -> npt.NDArray[np.int64] | None:
        """Likewise of the host: of its checkpoint, or of the vocabulary that a built host would have had."""
        return self._rows("host")

    def _rows(self, role: str) -> npt.NDArray[np.int64] | None:
        file = self.path / "tokenizer" / f"{role}_rows.npy"
        rows: npt.NDArray[np.int64] | None = np.load(file) if file.is_file() else None
        return rows

    @cached_property
    def format(self) -> HostFormat:
        return HostFormat.from_tokenizer(self.host_tokenizer)

    def texts(self, split: Split) -> TokenFile:
        """Donor ids of the texts of `train` or `validation`."""
        return TokenFile(self.path / "tokens" / f"texts.{split}")

    def sources(self, split: Split) -> TokenFile:
        """Host ids."""
        return TokenFile(self.path / "tokens" / f"source.{split}")

    def targets(self, split: Split) -> TokenFile:
        """Host ids."""
        return TokenFile(self.path / "tokens" / f"target.{split}")

    def text_langs(self, split: Split) -> list[str]:
        return self._langs(f"texts.{split}")

    def source_langs(self, split: Split) -> list[str]:
        return self._langs(f"source.{split}")

    def target_langs(self, split: Split) -> list[str]:
        return self._langs(f"target.{split}")

    def pairs(self, split: Split) -> list[Pair]:
        """The rows as text; row i has the tokens `sources(split)[i]` and `targets(split)[i]`."""
        lines = (self.path / f"pairs.{split}.jsonl").read_text(encoding="utf-8").split("\n")
        return [Pair(**json.loads(line), split=split) for line in lines if line]

    def _langs(self, name: str) -> list[str]:
        indices: npt.NDArray[np.uint8] = np.load(self.path / "tokens" / f"{name}.langs.npy")
        return [self.languages[index] for index in indices]


class _Trained:
    """The texts that a vocabulary is built of, as often as they are asked for."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared

    def __iter__(self) -> Iterator[str]:
        for row in self._prepared.texts["train"]:
            yield row.text
        for pair in self._prepared.pairs["train"]:  # a source may give other text for MLM than for its pairs
            yield pair.source
            yield pair.target


def _tokenizers(prepared: Prepared, model: ModelSettings, progress: Progress) -> tuple[Any, Any]:
    if model.vocab_size is not None:
        texts = _Trained(prepared)
        if not any(character.isalpha() for text in texts for character in text):
            raise DataError.at("data", None, "a text with no letter: no vocabulary can be built", "give other text")
        with progress.task(f"vocabulary of {model.vocab_size} tokens", None):
            pieces = tokenizers.train_pieces(texts, model.vocab_size)
        return tokenizers.build_donor_tokenizer(pieces), tokenizers.build_host_tokenizer(pieces, model.format)
    assert model.donor.checkpoint is not None, "checked by the settings"
    donor = tokenizers.load_tokenizer(model.donor.checkpoint, model.donor.revision, "model.donor.checkpoint")
    if model.host.checkpoint is None:
        return donor, tokenizers.host_tokenizer_from_donor(donor, model.format)
    host = tokenizers.load_tokenizer(model.host.checkpoint, model.host.revision, "model.host.checkpoint")
    kind = HostFormat.from_tokenizer(host).kind
    if kind != model.format:
        raise CheckpointError.at(
            "model.host.checkpoint",
            model.host.checkpoint,
            f"has the format {kind}, not model.format={model.format}",
            f"set model.format={kind}",
        )
    return donor, host


def _trim(
    donor: Any, host: Any, files: Mapping[str, TokenFile], model: ModelSettings, out: Path, progress: Progress
) -> tuple[Any, Any]:
    """Both tokenizers cut to what the files use; the files get the new ids, and the rows are written."""
    from graftlm.data.trimming import trim_pair

    assert model.trim is not None
    for role, full, part in (("donor", donor, model.donor), ("host", host, model.host)):
        if part.checkpoint is not None:
            where = f"model.{role}.checkpoint"
            check_size(read_config(part.checkpoint, part.revision, where), len(full), part.checkpoint, where)
    sides: dict[str, list[TokenFile]] = {"donor": [], "host": []}
    for name, file in files.items():
        sides["donor" if name.startswith("texts.") else "host"].append(file)
    used = {role: np.unique(np.concatenate([file.used for file in some])).tolist() for role, some in sides.items()}
    pair = trim_pair(donor, host, used["donor"], used["host"], model.trim, model.format)
    (out / "tokenizer").mkdir(exist_ok=True)
    for role, full, trimmed in zip(("donor", "host"), (donor, host), pair, strict=True):
        np.save(out / "tokenizer" / f"{role}_rows.npy", trimmed.rows)
        for file in sides[role]:
            file.renumber(trimmed.table, len(trimmed.rows))
        progress.say(f"{role}: {len(trimmed.rows):,} of {len(full):,} tokens kept (model.trim={model.trim})")
    return pair[0].tokenizer, pair[1].tokenizer


def _check_languages(prepared: Prepared, format: HostFormat, model: ModelSettings) -> None:
    used = Counter[str]()
    for pairs in prepared.pairs.values():
        for pair in pairs:
            used.update((pair.source_lang, pair.target_lang))
    problems = [
        Problem(
            "data",
            code,
            f"{count} rows are in a language that the host does not know (model.format={model.format})",
            nearest(code, CODES[format.kind]),
        )
        for code, count in sorted(used.items())
        if code not in format.languages
    ]
    if problems:
        raise DataError(problems)


def _check_unknown(writing: Writing, model: ModelSettings) -> None:
    # by side: sources that are all unknown would drown in the text for masked-language modelling
    shares = writing.unknown_shares()
    side = max((side for side in _SIDES if side in shares), key=lambda side: shares[side])
    if shares[side] <= MOST_UNKNOWN:
        return
    worst = max((key for key in shares if key not in ("all", *_SIDES)), key=lambda lang: shares[lang])
    name = "vocab_size" if model.vocab_size is not None else "donor.checkpoint"
    value = model.vocab_size if model.vocab_size is not None else model.donor.checkpoint
    raise DataError.at(
        f"model.{name}",
        value,
        f"the tokenizer does not know {shares[side]:.0%} of the {_SIDES[side]} (of all {worst}: {shares[worst]:.0%})",
        "take a larger vocabulary"
        if model.vocab_size is not None
        else "take a checkpoint whose vocabulary fits the text",
    )


def _languages(prepared: Prepared) -> list[str]:
    found = {lang for split in _TEXT_SPLITS for lang in languages_of(prepared.texts.get(split, []))}
    for pairs in prepared.pairs.values():
        found.update(code for pair in pairs for code in (pair.source_lang, pair.target_lang))
    return sorted(found)


def _count(langs: Any) -> dict[str, Any]:
    counts = Counter(langs)
    return {"count": sum(counts.values()), "languages": dict(sorted(counts.items()))}


def _write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    with path.open("w", encoding="utf-8") as out:
        for pair in pairs:
            row = {
                "source": pair.source,
                "target": pair.target,
                "source_lang": pair.source_lang,
                "target_lang": pair.target_lang,
                "group": pair.group,
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
