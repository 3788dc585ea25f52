"""`graftlm data`: a look at a source of text."""

from __future__ import annotations

from collections.abc import Sequence

from graftlm.commands.parser import Parser
from graftlm.errors import Problem, SettingsError

ABOUT = "show rows, lengths and languages of a source of text"


def run(arguments: Sequence[str]) -> int:
    parser = Parser("graftlm data", description=ABOUT)
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows shown a split (default: 3)")
    parser.add_argument("overrides", nargs="*", metavar="override", help="data=files data.train=[my.jsonl] ...")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from graftlm.compose import compose_jobs
    from graftlm.data.inspect import show
    from graftlm.data.sources import check_source
    from graftlm.job import Words

    (job,) = compose_jobs(Words(tuple(options.overrides)))
    problems = check_source(job.settings.data, "data")
    if options.rows < 0:
        problems.append(Problem("--rows", options.rows, "must be at least 0"))
    if problems:
        raise SettingsError(problems)
    show(job.settings.data, options.rows, Console())
    return 0
