"""Which row of the donor's word embeddings belongs to which token of the host.

Rows are matched by token string, special tokens by their role, never by id: the id of XLM-R's `<mask>` is that of a
language code in mBART. A language code of the host has no counterpart in the donor, even if a piece is spelt alike.

Where the two tokenizers write tokens differently (`▁the` of SentencePiece, `Ġthe` of byte-level BPE, `the` before `##y`
of WordPiece), strings are compared as SentencePiece writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graftlm.data.format import HostFormat
from graftlm.data.languages import MBART50
from graftlm.errors import TransferError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Style = Literal["▁", "Ġ", "##"]
# a role and the attributes that may name it: MBart50Tokenizer has no bos_token, but a cls_token
ROLES = {"bos": ("bos", "cls"), "pad": ("pad",), "eos": ("eos", "sep"), "unk": ("unk",), "mask": ("mask",)}


@dataclass(frozen=True)
class Vocabulary:
    """The alignment. `donor_of[h]` is the donor's id of host id h, or -1; `host_of[d]` the host's of donor id d, or -1.

    `languages`: language codes of the host and their ids. `roles`: role → (donor id, host id). `format`: how the host's
    sequences are wrapped.

    Only where the host has tokens without a counterpart, language codes apart: `strings`, the host's tokens as
    SentencePiece would write them, by id; `pieces`, the donor ids into which the donor's tokenizer splits each of those
    tokens.
    """

    donor_of: NDArray[np.int64]
    host_of: NDArray[np.int64]
    languages: dict[str, int]
    format: HostFormat
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    strings: Mapping[int, str] = field(default_factory=dict)
    pieces: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def shared(self) -> int:
        """Tokens that both have."""
        return int((self.donor_of >= 0).sum())

    @property
    def host_only(self) -> int:
        """Tokens of the host without a counterpart, language codes included."""
        return int((self.donor_of < 0).sum())

    @property
    def donor_only(self) -> int:
        """Tokens of the donor without a counterpart."""
        return int((self.host_of < 0).sum())

    def to_host(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Donor ids as host ids; a token that the host lacks becomes its `<unk>`."""
        mapped = self.host_of[np.asarray(ids, dtype=np.int64)]
        return np.where(mapped < 0, self.roles["unk"][1], mapped)

    def as_dict(self) -> dict[str, Any]:
        """Counts and roles, as they stand in the transfer report."""
        return {
            "shared": self.shared,
            "donor_only": self.donor_only,
            "host_only": self.host_only,
            "languages": len(self.languages),
            "roles": {role: {"donor": donor, "host": host} for role, (donor, host) in self.roles.items()},
        }


def _special(tokenizer: Any, role: str) -> int | None:
    for name in ROLES[role]:
        found = getattr(tokenizer, f"{name}_token_id", None)
        if found is not None:
            return int(found)
    return None


def align(donor_tokenizer: Any, host_tokenizer: Any) -> Vocabulary:
    """The alignment of two tokenizers of transformers.

    Raises:
        TransferError: if a tokenizer lacks `<s>`, `<pad>`, `</s>` or `<unk>`.
    """
    donor_ids: dict[str, int] = donor_tokenizer.get_vocab()
    host_ids: dict[str, int] = host_tokenizer.get_vocab()
    donor_of = np.full(max(host_ids.values(), default=-1) + 1, -1, dtype=np.int64)
    host_of = np.full(max(donor_ids.values(), default=-1) + 1, -1, dtype=np.int64)
    languages = {code: host_ids[code] for code in MBART50 if code in host_ids}

    roles: dict[str, tuple[int, int]] = {}
    for role in ROLES:
        donor_id, host_id = _special(donor_tokenizer, role), _special(host_tokenizer, role)
        if donor_id is not None and host_id is not None:
            roles[role] = (donor_id, host_id)
        elif role != "mask":
            side = "donor" if donor_id is None else "host"
            raise TransferError.at(f"model.{side}", None, f"its tokenizer has no {role} token", "use another tokenizer")
    bos, pad, eos = (roles[role][1] for role in ("bos", "pad", "eos"))
    format = replace(HostFormat.from_tokenizer(host_tokenizer), bos_id=bos, pad_id=pad, eos_id=eos)
    taken_donor = {donor for donor, _ in roles.values()}
    taken_host = {host for _, host in roles.values()} | set(languages.values())

    free_donor = {token: id_ for token, id_ in donor_ids.items() if id_ not in taken_donor}
    free_host = {token: id_ for token, id_ in host_ids.items() if id_ not in taken_host}
    donor_style, host_style = style_of(donor_ids), style_of(host_ids)
    if donor_style == host_style:
        _match(free_host, free_donor, donor_of, host_of)
    else:  # never as they stand: `ö` of byte-level BPE is a byte, `the` of WordPiece starts a word
        _match(_spelt(free_host, host_style), _spelt(free_donor, donor_style), donor_of, host_of)
    for donor, host in roles.values():
        donor_of[host] = donor
        host_of[donor] = host
    missing = [id_ for id_ in free_host.values() if donor_of[id_] < 0]
    if not missing:
        return Vocabulary(donor_of, host_of, languages, format, roles)
    strings = {id_: token for token, id_ in _spelt(free_host, host_style, unique=False)}
    pieces = {}
    for id_ in missing:
        if id_ in strings:
            found = _pieces(donor_tokenizer, strings[id_], donor_style, taken_donor)
            if found:
                pieces[id_] = found
    return Vocabulary(donor_of, host_of, languages, format, roles, strings, pieces)


def _match(
    host: Mapping[str, int] | Iterable[tuple[str, int]],
    donor: Mapping[str, int] | Iterable[tuple[str, int]],
    donor_of: NDArray[np.int64],
    host_of: NDArray[np.int64],
) -> None:
    """Join the tokens of the same string that have no counterpart yet, one to one."""
    known = dict(donor)
    for token, host_id in dict(host).items():
        donor_id = known.get(token)
        if donor_id is not None and donor_of[host_id] < 0 and host_of[donor_id] < 0:
            donor_of[host_id] = donor_id
            host_of[donor_id] = host_id


def style_of(ids: Mapping[str, int]) -> Style:
    """How a tokenizer marks where a word starts (or, `##`, where it goes on)."""
    counts: dict[Style, int] = {"▁": 0, "Ġ": 0, "##": 0}
    for token in ids:
        for style in counts:
            counts[style] += token.startswith(style)
    return max(counts, key=lambda style: counts[style])


def _byte_characters() -> dict[str, int]:
    """The character that byte-level BPE (GPT-2) shows for each byte: itself if it can be printed, else one past 255."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_characters()
_CHARACTERS = {byte: character for character, byte in _BYTES.items()}


def canonical(token: str, style: Style) -> str | None:
    """A token as SentencePiece writes it, or None for a part of a character."""
    if style == "▁":
        return token
    if style == "##":
        return token[2:] if token.startswith("##") else f"▁{token}"
    try:
        data = bytes(_BYTES[character] for character in token)
    except KeyError:  # an added token, which is written as it is
        return token
    try:
        return data.decode("utf-8").replace(" ", "▁")
    except UnicodeDecodeError:
        # SentencePiece with byte fallback writes a single byte like this
        return f"<0x{data[0]:02X}>" if len(data) == 1 else None


def _spelt(ids: Mapping[str, int], style: Style, unique: bool = True) -> list[tuple[str, int]]:
    """(canonical string, id); with `unique` the first of those that come to be spelt alike."""
    found: list[tuple[str, int]] = []
    seen: set[str] = set()
    for token, id_ in ids.items():
        text = canonical(token, style)
        if text is not None and not (unique and text in seen):
            seen.add(text)
            found.append((text, id_))
    return found


def _pieces(tokenizer: Any, text: str, style: Style, special: set[int]) -> tuple[int, ...]:
    """The ids into which a tokenizer splits a canonical string, special ones (`<unk>`) left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        found = tokenizer.encode(text.replace("▁", " "), add_special_tokens=False)
    else:
        # the model alone: the whole pipeline would put a word start in front of what is the inside of a word
        spelt = text
        if style == "Ġ":
            spelt = "".join(_CHARACTERS[byte] for byte in text.replace("▁", " ").encode())
        elif style == "##":
            spelt = text.removeprefix("▁")
        found = [token.id for token in backend.model.tokenize(spelt)] if spelt else []
    return tuple(int(id_) for id_ in found if id_ not in special)
