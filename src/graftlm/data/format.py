"""How mBART wraps tokens: the two formats of its releases.

| | source | labels | decoder input | generation |
|---|---|---|---|---|
| cc25 | `X </s> lang` | `X </s> lang` | `lang X </s>` | starts from lang |
| mbart50 | `lang X </s>` | `lang X </s>` | `</s> lang X` | starts from `</s>`, first token forced to lang |

Sources: Liu 2020 (mBART), Tang 2020 (mBART-50); transformers `tokenization_mbart.py`, `tokenization_mbart50.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from graftlm.data.languages import CODES


@dataclass(frozen=True)
class HostFormat:
    """The format of one host tokenizer: its kind, its special ids, and the id of each language it knows."""

    kind: Literal["mbart50", "cc25"]
    pad_id: int
    bos_id: int
    eos_id: int
    mask_id: int
    languages: Mapping[str, int] = field(hash=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> HostFormat:
        """The format of an `MBart50Tokenizer` or `MBartTokenizer`."""
        kind: Literal["mbart50", "cc25"] = "mbart50" if type(tokenizer).__name__.startswith("MBart50") else "cc25"
        ids = {code: tokenizer.convert_tokens_to_ids(code) for code in CODES[kind]}
        return cls(
            kind=kind,
            pad_id=tokenizer.pad_token_id,
            bos_id=tokenizer.convert_tokens_to_ids("<s>"),  # MBart50Tokenizer has no bos_token
            eos_id=tokenizer.eos_token_id,
            mask_id=tokenizer.mask_token_id,
            languages={code: id_ for code, id_ in ids.items() if id_ is not None and id_ != tokenizer.unk_token_id},
        )

    @property
    def specials(self) -> frozenset[int]:
        """Ids that carry no text: languages, `<s> <pad> </s> <mask>`; `<unk>` stands for text and is none of them."""
        return frozenset((self.pad_id, self.bos_id, self.eos_id, self.mask_id, *self.languages.values()))

    def _wrap(self, ids: Sequence[int], lang: str, max_length: int) -> list[int]:
        kept = [int(id_) for id_ in ids[: max(max_length - 2, 0)]]
        if self.kind == "cc25":
            return [*kept, self.eos_id, self.languages[lang]]
        return [self.languages[lang], *kept, self.eos_id]

    @property
    def first_place(self) -> int:
        """The place of a text's first token in the encoder's input: cc25 has nothing in front of it."""
        return 0 if self.kind == "cc25" and self.languages else 1

    def reading(self, ids: Iterable[Any], lang: str = "") -> list[int]:
        """Encoder input of plain ids, whole; `<s>` stands for a language that is not known, or for there being none."""
        code = self.languages.get(lang, self.bos_id)
        plain = [int(id_) for id_ in ids]
        return [code, *plain, self.eos_id] if self.first_place else [*plain, self.eos_id, code]

    def source(self, ids: Sequence[int], lang: str, max_length: int) -> list[int]:
        """Encoder input of plain ids, cut to `max_length` tokens, the two special ones included."""
        return self._wrap(ids, lang, max_length)

    def target(self, ids: Sequence[int], lang: str, max_length: int) -> list[int]:
        """Labels of plain ids, cut to `max_length` tokens, the two special ones included."""
        return self._wrap(ids, lang, max_length)

    def decoder_input(self, labels: Sequence[int]) -> list[int]:
        """What the decoder reads while it predicts `labels`: their last token is wrapped round to the front."""
        return [labels[-1], *labels[:-1]]

    def decoder_start(self, lang: str) -> int:
        """The token that generation starts from."""
        return self.languages[lang] if self.kind == "cc25" else self.eos_id

    def forced_bos(self, lang: str) -> int | None:
        """The token that generation must write first, or None."""
        return None if self.kind == "cc25" else self.languages[lang]

    def strip_source(self, ids: Sequence[int]) -> list[int]:
        """The plain ids of an encoder input."""
        specials = self.specials
        return [int(id_) for id_ in ids if id_ not in specials]

    def strip(self, ids: Sequence[int]) -> list[int]:
        """The plain ids of a generated row or of labels: up to `</s>`, without specials and ignored labels (-100).

        The decoder start of mbart50 is itself `</s>`, so an `</s>` in first place does not end the row.
        """
        specials = self.specials
        plain: list[int] = []
        for place, id_ in enumerate(ids):
            if id_ == self.eos_id and place > 0:
                break
            if id_ >= 0 and id_ not in specials:
                plain.append(int(id_))
        return plain
