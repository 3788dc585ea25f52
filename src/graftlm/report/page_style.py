"""How an arm looks and is called on the page: the same in every plot, table and legend."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from graftlm.report.compare import FIGURES, ArmReport, Report

COLOURS = 7
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
DASHES = ("solid", "longdash", "longdashdot")
CONTROL_DASHES = ("dash", "dot", "dashdot", "longdash")
CONTROL_SYMBOLS = ("square-open", "diamond-open", "circle-open", "triangle-up-open")
FEW = 24  # arms that are all shown at first, and in the forest plot whatever is hidden elsewhere
CHOSEN = 12  # of more than FEW, the arms that are shown at first, apart from baselines and some controls


def digits(figure: str, less: bool | None) -> int:
    """Digits behind the point: three of a loss in nats, one of a score in points of 100."""
    return 3 if less is not False or figure == "gap" else 1


def styles(arms: Sequence[ArmReport]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each arm.

    Baselines have the colour of the text (`b`), controls are grey (`k`), hollow and never solid; the others take Okabe
    and Ito's colours in turn, and with each round of these another dash and marker.
    """
    found: dict[str, dict[str, Any]] = {}
    bases = controls = place = 0
    for arm in arms:
        if arm.is_baseline:
            found[arm.name] = {"colour": "b", "dash": "solid" if bases == 0 else "dot", "symbol": "circle"}
            bases += 1
        elif arm.control:
            found[arm.name] = {
                "colour": "k",
                "dash": CONTROL_DASHES[controls % len(CONTROL_DASHES)],
                "symbol": CONTROL_SYMBOLS[controls % len(CONTROL_SYMBOLS)],
            }
            controls += 1
        else:
            turn = place // COLOURS
            found[arm.name] = {
                "colour": str(1 + place % COLOURS),
                "dash": DASHES[turn % len(DASHES)],
                "symbol": SYMBOLS[turn % len(SYMBOLS)],
            }
            place += 1
    return found


def labels(arms: Sequence[ArmReport]) -> dict[str, dict[str, str]]:
    """Of each arm's name its `head` (the strategy), its `rest`, and a `brief` form for plots.

    A name is `strategy · choice · setting=value`. Settings lose their path (`architecture=bart`) where no other one of
    these names ends alike; the brief form also leaves out what four in five of the arms share, so long as the names
    stay different.
    """
    whole = {arm.name: arm.name.split(" · ") for arm in arms}
    keys = {part.partition("=")[0] for parts in whole.values() for part in parts[1:] if "=" in part}
    ends = Counter(_last(key) for key in keys)
    parts = {
        name: [part if ends[_last(part.partition("=")[0])] > 1 else _last(part) for part in split]
        for name, split in whole.items()
    }
    if len({tuple(part) for part in parts.values()}) < len(parts):
        parts = whole
    often = Counter(text for part in parts.values() for text in set(part[1:]))
    telling = sum(len(part) > 1 for part in parts.values())
    common = {text for text, count in often.items() if 5 * count >= 4 * telling}
    brief = {name: " · ".join([part[0], *(t for t in part[1:] if t not in common)]) for name, part in parts.items()}
    if len(set(brief.values())) < len(brief):
        brief = {name: " · ".join(part) for name, part in parts.items()}
    return {
        name: {"head": part[0], "rest": brief[name].removeprefix(part[0]).removeprefix(" · "), "brief": brief[name]}
        for name, part in parts.items()
    }


def shorten(text: str, names: dict[str, dict[str, str]]) -> str:
    """A sentence with the arms called by their brief names, longest first; one from right to left by itself."""
    for name in sorted(names, key=len, reverse=True):
        brief = isolated(names[name]["brief"])
        if brief != name and (" · " in name or brief != names[name]["brief"]):
            text = text.replace(name, brief)
    return text


def isolated(name: str) -> str:
    """A name that is written from right to left, between marks that keep it from turning the numbers around it."""
    turned = any(unicodedata.bidirectional(sign) in ("R", "AL", "RLE", "RLO", "LRO", "RLI") for sign in name)
    return f"\u2068{name}\u2069" if turned else name


def _last(part: str) -> str:
    key, sign, value = part.partition("=")
    return f"{key.rsplit('.', 1)[-1]}{sign}{value}"


def primary(report: Report) -> str:
    """The figure that the words rest on."""
    return str((getattr(report, "primary", None) or {}).get("figure") or "auc")


def first_shown(arms: Sequence[ArmReport], main: str = "auc") -> list[str]:
    """The arms that the plots show at first: all of a few; of many the baselines, the best and some controls."""
    if len(arms) <= FEW:
        return [arm.name for arm in arms]
    side = -1 if FIGURES[main][1] is False else 1
    ranked = sorted(
        (arm for arm in arms if not arm.is_baseline and not arm.control),
        key=lambda arm: side * arm.difference[main].mean if main in arm.difference else float("inf"),
    )
    kept = {arm.name for arm in ranked[:CHOSEN]}
    kept |= {arm.name for arm in [arm for arm in arms if arm.is_baseline][:3]}
    kept |= {arm.name for arm in [arm for arm in arms if arm.control][:4]}
    return [arm.name for arm in arms if arm.name in kept]
