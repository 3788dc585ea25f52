"""Tokenizers cut to the pieces of a corpus and some of the likeliest others: same ids order, same segmentation.

A piece that the best segmentation of the corpus uses is kept, so that segmentation still is the best one. The least
likely of the others is kept too: the price of `<unk>` hangs on the least likely piece of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graftlm.data.tokenizers import Format, Piece, build_donor_tokenizer, build_host_tokenizer, charsmap_of, pieces_of
from graftlm.errors import CheckpointError


@dataclass(frozen=True)
class Trimmed:
    """A smaller tokenizer; `rows[i]` is the full id of its id i, `table[f]` its id of the full id f (-1: cut off)."""

    tokenizer: Any
    rows: npt.NDArray[np.int64]
    table: npt.NDArray[np.int64]


def trim_pair(
    donor: Any, host: Any, donor_ids: Iterable[int], host_ids: Iterable[int], extra: int, format: Format
) -> tuple[Trimmed, Trimmed]:
    """Both tokenizers with the pieces that either side of the corpus uses.

    Args:
        donor_ids, host_ids: full ids that the corpus uses.
        extra: so many pieces that it does not use are kept besides, the likeliest.

    Raises:
        CheckpointError: a tokenizer uses a token that is neither a piece nor special, or lacks one that the format has.
    """
    used = set(donor.convert_ids_to_tokens(sorted(set(donor_ids))))
    used |= set(host.convert_ids_to_tokens(sorted(set(host_ids))))
    small_donor = build_donor_tokenizer(_kept(pieces_of(donor), used, extra), charsmap_of(donor))
    small_host = build_host_tokenizer(_kept(pieces_of(host), used, extra), format, charsmap_of(host))
    made = []
    for role, full, small, ids in (("donor", donor, small_donor, donor_ids), ("host", host, small_host, host_ids)):
        small.model_max_length = full.model_max_length
        made.append(_mapped(role, full, small, ids))
    return made[0], made[1]


def _kept(pieces: Sequence[Piece], used: set[str], extra: int) -> list[Piece]:
    """In the order of their ids."""
    others = sorted(
        (place for place, (piece, _) in enumerate(pieces) if piece not in used), key=lambda place: -pieces[place][1]
    )
    kept = {place for place, (piece, _) in enumerate(pieces) if piece in used}
    kept.update(others[:extra])
    kept.update(others[-1:])  # the least likely, unless the corpus uses that one
    return [pieces[place] for place in sorted(kept)]


def _mapped(role: str, full: Any, small: Any, ids: Iterable[int]) -> Trimmed:
    known, size = full.get_vocab(), len(small)
    rows = np.full(size, -1, dtype=np.int64)
    for token, id_ in small.get_vocab().items():
        rows[id_] = known.get(token, -1)
    table = np.full(max(known.values()) + 1, -1, dtype=np.int64)
    table[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    where = f"model.{role}.checkpoint"
    if (rows < 0).any():
        token = small.convert_ids_to_tokens(int(np.flatnonzero(rows < 0)[0]))
        raise CheckpointError.at(where, None, f"its tokenizer has no {token}: it cannot be trimmed", "model.trim=null")
    lost = [id_ for id_ in ids if table[id_] < 0]
    if lost:
        token = full.convert_ids_to_tokens(int(lost[0]))
        raise CheckpointError.at(where, None, f"{token} is no piece: it cannot be trimmed", "set model.trim=null")
    return Trimmed(small, rows, table)
