"""Whether a graft of the encoder transplanted anything, by its fidelity before, between and after its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.errors import Problem
from graftlm.schema import TransferSettings

# a graft of the encoder must raise one of the two figures by this much without lowering the other, or reach both of
# these (a host that worked like the donor before has nothing to gain)
CLEARLY_BETTER = {"cosine": 0.1, "cka": 0.05}
ALIKE = {"cosine": 0.9, "cka": 0.8}
# where the embeddings alone make the encoder nearly alike, its layers must leave at most this share of what is missing
LEFT = 0.5
ROUNDING = 1e-5  # of both figures


def nothing_transplanted(strategy: TransferSettings, fidelity: Mapping[str, Any], rescaled: bool) -> Problem | None:
    """The problem, if the encoder's output is no closer to the donor's than that of the host before the graft, or than
    that of the host as it was before its layers were carried: its embeddings alone can bring a small model near.

    `rescaled`: the output was rescaled on purpose, so that CKA alone tells it.
    """
    told_by = ("cka",) if rescaled else tuple(CLEARLY_BETTER)
    before, without, after = (fidelity[when] for when in ("before", "before_layers", "after"))
    alike = _alike(after, told_by)
    if not alike and not _gains(before, after, told_by):
        since, what = before, "before the graft"
    elif (
        without is not None
        # a host that worked like the donor before has nothing to gain, and rescaling costs some of what was gained
        and not (alike and (rescaled or _alike(before, told_by)))
        and not _gains(without, after, told_by)
        and not _completes(without, after, told_by)
    ):
        since, what = without, "before its layers were carried"
    else:
        return None
    figures = ", ".join(f"{name} {_shown(since[name])} → {_shown(after[name])}" for name in CLEARLY_BETTER)
    return Problem(
        "transfer",
        strategy.name,
        f"the encoder works no more like the donor's than {what} ({figures})",
        "give it more calibration text, train the donor longer, or declare it a control (transfer.control=true)",
    )


def _alike(figures: Mapping[str, Any], told_by: Sequence[str]) -> bool:
    return all((figures[name] or 0.0) >= ALIKE[name] for name in told_by)


def _change(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> float:
    return float("-inf") if new[name] is None else float(new[name] - (old[name] or 0.0))


def _gains(old: Mapping[str, Any], new: Mapping[str, Any], told_by: Sequence[str]) -> bool:
    """Whether one figure is clearly better and none is worse."""
    changes = {name: _change(old, new, name) for name in told_by}
    return min(changes.values()) >= -0.02 and any(changes[name] >= CLEARLY_BETTER[name] for name in told_by)


def _completes(old: Mapping[str, Any], new: Mapping[str, Any], told_by: Sequence[str]) -> bool:
    """Whether one figure lacks at most the share `LEFT` of what it lacked to 1, and none lacks more than before."""
    lacked = [max(1 - (old[name] or 0.0), ROUNDING) for name in told_by]
    lacks = [max(1 - (new[name] or 0.0), ROUNDING) for name in told_by]
    pairs = list(zip(lacked, lacks, strict=True))
    return all(now <= then for then, now in pairs) and any(now <= max(LEFT * then, ROUNDING) for then, now in pairs)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:z.3f}"
