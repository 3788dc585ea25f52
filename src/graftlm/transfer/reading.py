"""How both encoders read a text, and which place of one belongs to which of the other.

The donor reads `<s> X </s>`, mBART-50 `lang X </s>`, the first mBART (cc25) `X </s> lang` (`graftlm.data.format`). In
cc25 every token of X stands one place earlier than in the donor. Attention sees the order of tokens by their positions
alone: the host's states are put into the donor's order, and all that is compared is compared place by place.

Steps that fit the host to the donor give an mBART-50 the donor's own `<s>`, from which its language codes are made; a
cc25 reads the code of the text, or `<s>` in its place where the language is not known. Fidelity is measured with the
code in either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graftlm.transfer.frames import framed, groups, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from graftlm.transfer.graft import Graft, Texts
    from graftlm.transfer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Row:
    """A text as the donor reads it, and its language, "" where the host is not to be told one."""

    ids: NDArray[np.int64]
    language: str = ""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Pairs:
    """A padded batch as both read it, [B, T]; both need as many places for a text.

    ids, host: donor ids and host ids, each in the order of its own side.
    real: which places hold tokens, of both sides.
    both: the donor's places of tokens that the host has, too.
    places: the host's place for each of the donor's, or None where they are the same.
    """

    ids: Tensor
    host: Tensor
    real: Tensor
    both: Tensor
    places: Tensor | None = None

    def aligned(self, states: Tensor) -> Tensor:
        """States of the host [B, T, d] in the donor's order."""
        if self.places is None:
            return states
        return states.gather(1, self.places.to(states.device)[..., None].expand(-1, -1, states.shape[-1]))

    def embedded(self, encoder: Any) -> Tensor:
        """What the first layer of a host's encoder reads, in the donor's order."""
        mapped = self.host.to(encoder.embed_tokens.weight.device)
        words = encoder.embed_tokens(mapped)
        return self.aligned(encoder.layernorm_embedding(words + encoder.embed_positions(mapped)))


def rows_of(texts: Texts, vocabulary: Vocabulary, longest: int, languages: Sequence[str] = ()) -> list[Row]:
    """Texts framed as the donor reads them (`framed`), with the mBART code of each where it is known."""
    rows = []
    for index, text in enumerate(texts):
        language = languages[index] if index < len(languages) else ""
        rows += [Row(ids, language) for ids in framed([text], vocabulary, longest)]
    return rows


def fitted_languages(graft: Graft, indices: Sequence[int]) -> list[str]:
    """What the host is told of the languages of calibration texts by a step that fits it; see above."""
    if graft.vocabulary.format.first_place or not len(graft.languages):
        return [""] * len(indices)
    return [graft.languages[index] for index in indices]


def pairs(rows: Sequence[Row], vocabulary: Vocabulary, tokens: int = 4096) -> Iterator[Pairs]:
    """Rows grouped by length into padded batches of at most `tokens` cells."""
    for group in groups([len(row) for row in rows], tokens):
        ids, real = padded([rows[index].ids for index in group], vocabulary.roles["pad"][0])
        yield paired(ids, real, [rows[index].language for index in group], vocabulary)


def paired(ids: NDArray[np.int64], real: NDArray[np.bool_], languages: Sequence[str], vocabulary: Vocabulary) -> Pairs:
    """A padded batch of framed donor ids, and what the host reads in their stead."""
    import torch

    format = vocabulary.format
    mapped = vocabulary.to_host(ids)
    host = np.full(ids.shape, vocabulary.roles["pad"][1], dtype=np.int64)
    both, places = real.copy(), None
    for row, (length, language) in enumerate(zip(real.sum(1).tolist(), languages, strict=True)):
        host[row, :length] = format.reading(mapped[row, 1 : length - 1], language)
    if format.first_place:
        both[:, 0] = host[:, 0] == mapped[:, 0]
    else:
        both[:, 0] = False
        places = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
        for row, length in enumerate(real.sum(1).tolist()):
            places[row, :length] = np.roll(np.arange(length), 1)
    return Pairs(
        torch.from_numpy(ids),
        torch.from_numpy(host),
        torch.from_numpy(real),
        torch.from_numpy(both),
        None if places is None else torch.from_numpy(places),
    )
