"""`graftlm report`: the arms of finished sweeps compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from graftlm.commands.parser import Parser
from graftlm.console import tell
from graftlm.running import ReportSettings

ABOUT = "compare the arms of finished sweeps: a page, JSON, Markdown, LaTeX, CSVs and a table"


def run(arguments: Sequence[str]) -> int:
    parser = Parser("graftlm report", description=ABOUT)
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="a sweep's folder, a job's, or any folder above them")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: the first DIR)")
    parser.add_argument(
        "--primary",
        choices=get_args(get_type_hints(ReportSettings)["primary"]),
        help="the figure that the verdict rests on, if another than the sweep's report.primary; the report says so",
    )
    parser.add_argument(
        "--contrast",
        nargs=2,
        action="append",
        default=[],
        metavar=("ARM", "AGAINST"),
        help="compare two arms with each other, besides each with the baseline; may be given several times",
    )
    options = parser.parse_args(arguments)
    folders = [Path(name) for name in options.dirs]
    contrasts = [(first, second) for first, second in options.contrast]
    return make_report(folders, Path(options.out) if options.out else folders[0], options.primary, contrasts)


def make_report(
    folders: Sequence[Path], out: Path, primary: str | None = None, contrasts: Sequence[tuple[str, str]] = ()
) -> int:
    from rich.console import Console

    from graftlm.report import build_report
    from graftlm.report.terminal import print_report

    report = build_report(folders, out, primary=primary, contrasts=contrasts)
    print_report(report, Console())
    tell(f"report: {out / 'report.html'}")
    return 0
