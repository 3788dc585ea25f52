"""Carrying what training changed in a donor: which of its layers goes where, and the sizes that must agree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from graftlm.errors import Problem
from graftlm.transfer.anatomy import Block
from graftlm.transfer.shapes import check_same

if TYPE_CHECKING:
    from graftlm.transfer.graft import Step

Layers = Literal["spread", "first", "last"]
# linear maps of a layer, by the part they belong to
ATTENTION = ("query", "key", "value", "out")
FFN = ("fc1", "fc2")


def paired_layers(donor: int, host: int, how: Layers) -> list[int | None]:
    """The donor's layer for each layer of the host, None where it has none.

    `spread`: evenly, the last of each group (24 → 12: 1, 3, … 23; 12 → 24: 0, 0, 1, 1 …); `first`: layer i for layer i;
    `last`: both counted from the top.
    """
    if how == "spread":
        return [ceil((layer + 1) * donor / host) - 1 for layer in range(host)]
    shift = donor - host if how == "last" else 0
    return [layer + shift if 0 <= layer + shift < donor else None for layer in range(host)]


def host_maps(names: Collection[str]) -> tuple[str, ...]:
    """Patterns of the host's tensors of these linear maps, in all layers of its encoder."""
    block = Block(
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        out="self_attn.out_proj",
        attention_norm="",
        fc1="fc1",
        fc2="fc2",
        ffn_norm="",
    )
    return tuple(f"model.encoder.layers.*.{getattr(block, name)}.*" for name in names)


def check_maps(donor: Mapping[str, Any], host: Mapping[str, Any], names: Collection[str]) -> Iterator[Problem]:
    """Sizes that keep a change of these maps from being added: the width, the heads, the width of the FFN."""
    sizes = ["d_model", *["heads"] * bool(set(names) & set(ATTENTION)), *["ffn"] * bool(set(names) & set(FFN))]
    yield from check_same(donor, host, sizes, "for a change to be carried")


def check_merged(earlier: Sequence[tuple[str, Step]], name: str, path: str) -> Iterator[Problem]:
    """For steps that read the encoder's maps as they stand: an adapter that is kept beside them is not in them."""
    if any(getattr(step, "mode", "merge") == "train" for _, step in earlier):
        reason = "reads the encoder's maps, beside which lora keeps its adapter (mode=train)"
        yield Problem(f"{path}.step", name, reason, "set mode=merge of lora, or leave one out")
