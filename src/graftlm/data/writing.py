"""Token files written from texts that stream by, with an account of what was in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graftlm.console import Progress
from graftlm.data.encoding import Encoder
from graftlm.data.rows import Text
from graftlm.data.spool import Spooled
from graftlm.data.tokens import TokenFile, TokenWriter


class Writing:
    """Writes token files and keeps count."""

    def __init__(self, folder: Path, languages: Sequence[str], progress: Progress, characters: int = 500_000):
        self._folder = folder
        self._index = {code: index for index, code in enumerate(languages)}
        self._languages = languages
        self._encoders: dict[int, Encoder] = {}
        self._progress = progress
        self._characters = characters  # that are encoded at a time
        self._seen = Counter[str]()
        self._unknown = Counter[str]()
        self.files: dict[str, TokenFile] = {}
        self.tokens: dict[str, int] = {}
        self.lengths: dict[str, dict[str, float]] = {}

    def write(self, name: str, tokenizer: Any, texts: Iterable[str], langs: Sequence[str]) -> None:
        """The tokens of texts that are never all in memory, and the language of each."""
        encoder = self._encoders.setdefault(id(tokenizer), Encoder(tokenizer))
        of_lang = np.fromiter((self._index[lang] for lang in langs), dtype=np.uint8, count=len(langs))
        start = 0
        with (
            self._progress.task(f"tokens of {name}", len(langs)) as advance,
            TokenWriter(self._folder / name, len(tokenizer)) as writer,
        ):
            for some in _batches(texts, self._characters):
                ids, lengths = encoder.encode(some)
                writer.extend(ids, lengths)
                self._count(name, ids == tokenizer.unk_token_id, lengths, of_lang[start : start + len(some)])
                start += len(some)
                advance(len(some))
        np.save(self._folder / f"{name}.langs.npy", of_lang)
        self.files[name] = TokenFile(self._folder / name)
        lengths = self.files[name].lengths
        self.tokens[name] = int(lengths.sum())
        if len(lengths):
            self.lengths[name] = {
                "mean": round(float(lengths.mean()), 1),
                "median": float(np.median(lengths)),
                "p95": round(float(np.quantile(lengths, 0.95)), 1),
                "max": int(lengths.max()),
            }

    def _count(
        self, name: str, unknown: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int64], of_lang: npt.NDArray[np.uint8]
    ) -> None:
        seen = np.bincount(of_lang, weights=lengths, minlength=len(self._languages))
        lost = np.bincount(np.repeat(of_lang, lengths)[unknown], minlength=len(self._languages))
        for key, tokens, missing in (
            *((side, len(unknown), int(unknown.sum())) for side in ("all", name.split(".")[0])),
            *zip(self._languages, seen.astype(int).tolist(), lost.tolist(), strict=True),
        ):
            self._seen[key] += tokens
            self._unknown[key] += missing

    def unknown_shares(self) -> dict[str, float]:
        """The share of `<unk>` among the tokens of "all", of each side (texts, source, target) and each language."""
        return {key: self._unknown[key] / count if count else 0.0 for key, count in self._seen.items()}


def _batches(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Texts in lists of about so many characters."""
    some: list[str] = []
    total = 0
    for text in texts:
        some.append(text)
        total += len(text)
        if total >= characters:
            yield some
            some, total = [], 0
    if some:
        yield some


def languages_of(texts: Sequence[Text]) -> list[str]:
    """The language of each text, without reading texts that are on disk."""
    return texts.langs if isinstance(texts, Spooled) else [row.lang for row in texts]
