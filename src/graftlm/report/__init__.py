"""The comparison: what the artifacts of any number of sweeps say, and how sure one may be.

    report = build_report([Path("multirun/2026-01-01")], Path("report"))

writes report.html, report.json, report.md, report.tex, arms.csv, runs.csv and curves.csv into the folder. Reads records
only; never imports torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from graftlm.errors import ReportError
from graftlm.report.compare import Report

__all__ = ["Report", "build_report"]


def build_report(
    dirs: Sequence[Path], out: Path, *, primary: str | None = None, contrasts: Sequence[tuple[str, str]] = ()
) -> Report:
    """Compares all jobs below `dirs` and writes the page, JSON, Markdown, LaTeX and CSVs into `out`.

    `primary` and `contrasts` are asked for besides what the jobs' settings declare; the report says so.

    Raises:
        ReportError: no readable record of a job, or `out` cannot be written.
    """
    from graftlm.report.collect import collect
    from graftlm.report.compare import compare
    from graftlm.report.csvs import csvs
    from graftlm.report.latex import to_latex
    from graftlm.report.markdown import to_markdown
    from graftlm.report.page import render

    collection = collect(dirs, primary, contrasts)
    report = compare(collection)
    plain = report.to_json()
    files = {
        "report.json": json.dumps(plain, ensure_ascii=False, indent=1) + "\n",
        "report.md": to_markdown(report),
        "report.tex": to_latex(plain),
        **csvs(plain, collection),
        "report.html": render(report, collection),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            partial = out / f".{name}.{os.getpid()}.part"
            # a text of the data may hold half a surrogate pair, which UTF-8 has no form for
            partial.write_bytes(text.encode("utf-8", errors="replace"))
            partial.replace(out / name)
    except OSError as error:
        raise ReportError.at(
            "report.out", out, f"cannot be written ({error.strerror})", "name another folder"
        ) from error
    report.html = str(out / "report.html")
    return report
