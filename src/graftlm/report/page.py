"""report.html: one file that needs no network. Tables are in the HTML, plots are drawn from embedded figures."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from graftlm.report.collect import Collection
from graftlm.report.compare import FIGURES, Report, clean
from graftlm.report.page_commands import figure_commands, report_command, sweeps
from graftlm.report.page_data import curve_table, plots
from graftlm.report.page_style import FEW, digits, first_shown, labels, primary, shorten, styles
from graftlm.report.page_tensors import pack
from graftlm.report.samples import choose
from graftlm.report.tables import codes, grafts, scores, varying
from graftlm.report.tensormap import MARKS, MEANING, STATUSES
from graftlm.report.text import duration, flops, interval, level, percent, pvalue, share, show, signed
from graftlm.report.verdict import leading

HERE = Path(__file__).parent
# one after another they are the body of one function: what the first ones define, the others use
SCRIPTS = ("page_core", "page_plots", "page_bars", "page_heat", "page_tensors", "page_samples", "page_start")
STYLES = ("page", "page_parts")


def render(report: Report, collection: Collection) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "number": show,
            "seconds": duration,
            "flops": flops,
            "signed": signed,
            "interval": interval,
            "level": level,
            "pvalue": pvalue,
            "percent": percent,
        }
    )
    look, names = styles(report.arms), labels(report.arms)
    main = primary(report)
    compared = [arm for arm in report.arms if arm.difference]
    figures = [
        {"id": name, "label": label, "less": less, "digits": digits(name, less)}
        for name, (label, less) in FIGURES.items()
        if any(name in arm.difference for arm in compared)
    ]
    carried = grafts(collection.arms)
    made_by, again = sweeps(report.arms), report_command(report)
    data = plots(report, collection, look, names)
    data["tensors"] = pack(carried)
    data["statuses"] = {name: {"mark": MARKS[name], "meaning": MEANING[name]} for name in STATUSES}
    data["commands"] = figure_commands([item["command"] for item in made_by], again, "{anchor}")
    js = script()
    return environment.get_template("page.html").render(
        report=report,
        headline=shorten(report.headline, names),
        detail=shorten(report.detail, names),
        caveats=[shorten(text, names) for text in report.caveats],
        warnings=[shorten(text, names) for text in report.warnings],
        arms=report.arms,
        compared=compared,
        lead=leading(report.arms),
        main=main,
        many=len(report.arms) > FEW,
        main_label=FIGURES[main][0],
        main_digits=digits(main, FIGURES[main][1]),
        figures=figures,
        quality=[item for item in figures if item["id"] in ("rougeL", "chrf", "bleu")],
        styles=look,
        labels=names,
        first=first_shown(report.arms, main)[:8],
        share=share,
        grafts=carried,
        statuses=STATUSES,
        costs={item["name"]: item["cost"] for item in data["arms"]},
        languages=codes(report.arms),
        metrics=scores(report.arms),
        heat=data["heat"],
        curve_table=curve_table(collection.arms),
        samples=choose(collection.arms, collection.samples),
        wanted_samples=collection.samples,
        varying=varying(collection),
        sweeps=made_by,
        again=again,
        data=embed(data),
        css=Markup("".join(_trusted(f"{name}.css") for name in STYLES)),
        head=Markup(_trusted("page_head.js")),
        js=Markup(js),
        plotly=Markup(packed_plotly()[0]),
        hashes=" ".join(f"'sha256-{digest(text)}'" for text in (_trusted("page_head.js"), js))
        + f" 'sha256-{packed_plotly()[1]}'",
        generated=_stamp(),
    )


def script() -> str:
    """The page's own script: its files as the body of one function."""
    parts = "".join(_trusted(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def digest(text: str) -> str:
    """A script's hash for the page's content security policy: no other script runs, whatever the data hold."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@functools.cache
def packed_plotly() -> tuple[str, str]:
    """Plotly, compressed and in base64 (a third of its size), and the hash of its text."""
    from plotly.offline import get_plotlyjs

    text = get_plotlyjs()
    packed = gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode("ascii"), digest(text)


@functools.cache
def _trusted(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def embed(value: Any) -> Markup:
    """JSON that is safe inside a script element: no text of the data can end the element or open a comment."""
    text = json.dumps(clean(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _stamp() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
