"""Which layer of the donor each layer of a host of another depth comes from."""

from __future__ import annotations

from typing import Literal, get_args

Fewer = Literal["spread", "first", "last", "ends"]
More = Literal["each", "stack"]
FEWER: tuple[str, ...] = get_args(Fewer)


def choose(donor: int, host: int, fewer: Fewer = "spread") -> list[int]:
    """The donor's layer of each of `host` layers, where the host has at most as many.

    - `spread`: evenly, the last one among them (24 → 12: every second), as DistilBERT's initialisation takes them
      (Sanh 2019);
    - `first`, `last`: the lowest, the highest (Sajjad 2023 found dropping the top to cost least);
    - `ends`: half from the bottom, half from the top.
    """
    if host >= donor:
        return list(range(donor))
    if fewer == "first":
        return list(range(host))
    if fewer == "last":
        return list(range(donor - host, donor))
    if fewer == "ends":
        bottom = (host + 1) // 2
        return [*range(bottom), *range(donor - (host - bottom), donor)]
    return [-(-donor * (index + 1) // host) - 1 for index in range(host)]


def places(donor: int, host: int, more: More = "each") -> list[tuple[int, bool]]:
    """For a host with more layers: (the donor's layer it copies its maps from, whether it is extra).

    An extra layer's output projections are zero, so a pre-LN host computes what it would without it (Net2Net's
    identity, Chen 2016); its other maps are a copy, so that it has something to begin from.

    - `each`: an extra one after each layer, as evenly as it goes;
    - `stack`: all extra ones on top, in the donor's order (Gong 2019, StackBERT's order).
    """
    extra = host - donor
    if more == "stack":
        return [(layer, False) for layer in range(donor)] + [(index % donor, True) for index in range(extra)]
    found: list[tuple[int, bool]] = []
    for layer in range(donor):
        found.append((layer, False))
        copies = (layer + 1) * extra // donor - layer * extra // donor
        found += [(layer, True)] * copies
    return found
