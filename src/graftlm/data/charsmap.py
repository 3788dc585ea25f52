"""SentencePiece's precompiled normaliser ("charsmap"): the only one that a saved XLM-R or mBART-50 tokenizer keeps.

Layout (sentencepiece, `normalizer.cc`): the size of a Darts double array in bytes, its 32-bit units, then the
replacements, each ended by a zero. A unit: bits 0-7 the label, bit 8 "has a leaf", from bit 10 the XOR offset of its
children; a leaf has bit 31 set, and the replacement's place in the lower bits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

_BLOCK = 256  # children of a node lie in one block: offset XOR label stays inside it
_LEAF = 0  # the label under which a node keeps its replacement


def build_charsmap(replacements: Mapping[str, str]) -> bytes:
    """The charsmap that turns each key into its replacement.

    `tokenizers` looks up a whole grapheme of less than 6 bytes, and else each character; of several keys that begin a
    grapheme it takes the shortest.

    Raises:
        ValueError: a key is empty, or a zero is in a key or a replacement.
    """
    texts = bytearray()
    places: dict[str, int] = {}
    trie: dict[int, Any] = {}
    for key, replacement in sorted(replacements.items()):
        if not key or "\0" in key or "\0" in replacement:
            raise ValueError("a charsmap holds no empty keys and no zeros")
        if replacement not in places:
            places[replacement] = len(texts)
            texts += replacement.encode() + b"\0"
        node = trie
        for label in key.encode():
            node = node.setdefault(label, {})
        node[_LEAF] = places[replacement]
    units = _double_array(trie)
    return struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + bytes(texts)


def _double_array(trie: dict[int, Any]) -> list[int]:
    units: list[int] = []
    free: list[bool] = []
    bases: set[int] = set()  # two nodes with one base would find each other's children

    def grow() -> None:
        units.extend([0] * _BLOCK)
        free.extend([True] * _BLOCK)

    def place(labels: list[int], begin: int) -> int:
        at = begin
        while True:
            if at + _BLOCK > len(units):
                grow()
            if free[at]:
                base = at ^ labels[0]
                if base not in bases and all(free[base ^ label] for label in labels):
                    return base
            at += 1

    grow()
    free[0] = False
    waiting = [(0, trie)]
    begin = 1
    while waiting:
        index, node = waiting.pop()
        labels = sorted(node)
        while begin < len(free) and not free[begin]:
            begin += 1
        base = place(labels, begin)
        bases.add(base)
        units[index] |= (base ^ index) << 10 | (_LEAF in node) << 8
        for label in labels:
            child = base ^ label
            free[child] = False
            if label == _LEAF:
                units[child] = 1 << 31 | node[label]
            else:
                units[child] = label
                waiting.append((child, node[label]))
    return units
