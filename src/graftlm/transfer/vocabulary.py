"""Which row of the donor's word embeddings belongs to which token of the host.

Rows are matched by token string, special tokens by their role, never by id: the id of XLM-R's `<mask>` is that of a
language code in mBART. A language code of the host has no counterpart in the donor, even if a piece is spelt alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graftlm.data.languages import MBART50
from graftlm.errors import TransferError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# a role and the attributes that may name it: MBart50Tokenizer has no bos_token, but a cls_token
ROLES = {"bos": ("bos", "cls"), "pad": ("pad",), "eos": ("eos", "sep"), "unk": ("unk",), "mask": ("mask",)}


@dataclass(frozen=True)
class Vocabulary:
    """The alignment. `donor_of[h]` is the donor's id of host id h, or -1; `host_of[d]` the host's of donor id d, or -1.

    `languages`: language codes of the host and their ids. `roles`: role → (donor id, host id).
    """

    donor_of: NDArray[np.int64]
    host_of: NDArray[np.int64]
    languages: dict[str, int]
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)

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
    taken_donor = {donor for donor, _ in roles.values()}
    taken_host = {host for _, host in roles.values()} | set(languages.values())

    for token, host in host_ids.items():
        donor = donor_ids.get(token)
        if donor is not None and host not in taken_host and donor not in taken_donor:
            donor_of[host] = donor
            host_of[donor] = host
    for donor, host in roles.values():
        donor_of[host] = donor
        host_of[donor] = host
    return Vocabulary(donor_of, host_of, languages, roles)
