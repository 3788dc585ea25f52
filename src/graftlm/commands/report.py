"""`graftlm report`: the arms of finished sweeps compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ABOUT = "compare the arms of finished sweeps: a page, JSON, Markdown and a table"


def run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("graftlm report", description=ABOUT)
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="a sweep's folder, a job's, or any folder above them")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: the first DIR)")
    options = parser.parse_args(arguments)
    folders = [Path(name) for name in options.dirs]
    return make_report(folders, Path(options.out) if options.out else folders[0])


def make_report(folders: Sequence[Path], out: Path) -> int:
    from rich.console import Console

    from graftlm.report import build_report
    from graftlm.report.terminal import print_report

    report = build_report(folders, out)
    print_report(report, Console())
    print(f"report: {out / 'report.html'}")
    return 0
