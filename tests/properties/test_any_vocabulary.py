"""Two vocabularies are aligned by the strings of their tokens, whichever they are and in whatever order."""

from __future__ import annotations

import string
from typing import Any, Literal

import numpy as np
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from graftlm.data.tokenizers import build_donor_tokenizer, build_host_tokenizer
from graftlm.transfer.vocabulary import align, canonical

LETTERS = string.ascii_letters[:8] + "äß中▁"
POOL = [*LETTERS, *(f"▁{letter}" for letter in LETTERS), "▁the", "ing", "de", "▁mask", "en_X", "<m", "▁中文"]


def pieces(names: list[str]) -> list[tuple[str, float]]:
    return [(name, -1.0 - index) for index, name in enumerate(names)]


SOME = st.lists(st.sampled_from(POOL), min_size=1, unique=True)


@examples(40)
@given(ours=SOME, theirs=SOME, format=st.sampled_from(["mbart50", "cc25"]), order=st.randoms())
def test_any_two_vocabularies(
    ours: list[str], theirs: list[str], format: Literal["mbart50", "cc25"], order: Any
) -> None:
    donor, host = build_donor_tokenizer(pieces(ours)), build_host_tokenizer(pieces(theirs), format)
    found = align(donor, host)
    assert len(found.donor_of) == len(host)
    assert len(found.host_of) == len(donor)
    roles = {
        role: (donor.convert_ids_to_tokens(one), host.convert_ids_to_tokens(other))
        for role, (one, other) in found.roles.items()
    }
    assert roles["mask"] == ("<mask>", "<mask>")
    matched = {}
    for host_id, donor_id in enumerate(found.donor_of.tolist()):
        if donor_id >= 0:
            assert found.host_of[donor_id] == host_id, "one to one"
            matched[host.convert_ids_to_tokens(host_id)] = donor.convert_ids_to_tokens(donor_id)
    assert all(one == other for one, other in matched.items())
    assert set(matched) == {"<s>", "<pad>", "</s>", "<unk>", "<mask>", *(set(ours) & set(theirs))}
    assert not set(found.languages) & set(matched), "a code of a language has no twin"
    assert found.shared + found.host_only == len(host)
    assert found.shared + found.donor_only == len(donor)
    mapped = found.to_host(np.arange(len(donor)))
    assert ((mapped >= 0) & (mapped < len(host))).all()
    mixed = list(ours)
    order.shuffle(mixed)
    other = build_donor_tokenizer(pieces(mixed))
    again = align(other, host)
    strings = [None if id_ < 0 else other.convert_ids_to_tokens(id_) for id_ in again.donor_of.tolist()]
    assert strings == [None if id_ < 0 else donor.convert_ids_to_tokens(id_) for id_ in found.donor_of.tolist()]


@examples(100)
@given(text=st.text(min_size=1, max_size=6))
def test_any_string_of_bytes_is_written_as_sentencepiece_writes_it(text: str) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    clean = text.encode("utf-8", "ignore").decode()
    shown = "".join(part for part, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(clean))
    if shown:
        assert canonical(shown, "Ġ") == clean.replace(" ", "▁")
