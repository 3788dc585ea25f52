"""Numbers as text, the same in the page, in Markdown and in the terminal."""

from __future__ import annotations

import math
from typing import Any

from graftlm.report.records import number
from graftlm.report.statistics import Difference


def share(mean: dict[str, float | None], name: str) -> str:
    """A share of the baseline's steps or compute as text: `0.41`, `> 1.0` where censored, `–` where unknown."""
    value, above = mean.get(name), mean.get(f"{name}_above")
    if value is not None:
        if value < 0.01:
            return "0" if value <= 0 else "< 0.01"
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    if above is not None and above < float("inf"):
        digits = 1 if above >= 1 else 2
        scale = 10**digits
        return f"> {math.floor(above * scale + 1e-6) / scale:.{digits}f}"  # rounded up, the bound would not hold
    return "–"


def level(confidence: float) -> str:
    """`95%`, `99.9%`: never rounded to a hundred."""
    return f"{100 * confidence:.6g}%"


def interval(difference: Difference, digits: int = 3) -> str:
    """`−0.210 [−0.270, −0.150]`."""
    text = signed(difference.mean, digits)
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{signed(difference.low, digits)}, {signed(difference.high, digits)}]"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, a true minus."""
    rounded = round(value, digits)
    text = f"{abs(rounded):.{digits}f}"
    return f"−{text}" if rounded < 0 else f"+{text}" if rounded > 0 else text


def show(value: Any, digits: int = 3) -> str:
    found = number(value)
    return "–" if found is None else f"{found:z.{digits}f}".replace("-", "−")


def percent(value: Any) -> str:
    """A share from 0 to 1."""
    found = number(value)
    return "–" if found is None else f"{100 * found:.0f}%"


def pvalue(value: Any) -> str:
    found = number(value)
    return "–" if found is None else "< .001" if found < 0.001 else f"{found:.3f}".lstrip("0") if found < 1 else "1"


def duration(value: Any) -> str:
    found = number(value)
    if found is None:
        return "–"
    if found < 90:
        return f"{found:.0f} s" if found >= 10 or found < 0.05 else f"{found:.1f} s"
    return f"{found / 60:.0f} min" if found < 5400 else f"{found / 3600:.1f} h"


def flops(value: Any) -> str:
    """Floating-point operations, `1.2 × 10¹⁴`."""
    found = number(value)
    if found is None:
        return "–"
    if found <= 0:
        return "0"
    power = math.floor(math.log10(found))
    raised = str(power).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"{found / 10**power:.1f} × 10{raised}"
