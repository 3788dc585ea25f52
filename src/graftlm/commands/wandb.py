"""`graftlm wandb`: offline runs sent to W&B, and a dashboard of a sweep made by code."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftlm.commands.parser import Parser
from graftlm.console import tell as say

if TYPE_CHECKING:
    from graftlm.tracking.sync import OfflineRun

ABOUT = "send offline W&B runs, and make a dashboard of a sweep"
_ROOT = "multirun"  # the default of logger.dir


def run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    code: int = options.act(options)
    return code


def _parser() -> Parser:
    parser = Parser("graftlm wandb", description=ABOUT.capitalize() + ".")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "send the offline runs below some folders to W&B; exit code 1 where one could not be sent"
    sync = commands.add_parser("sync", help=about, description=about.capitalize() + ".")
    sync.set_defaults(act=_sync)
    sync.add_argument("dirs", nargs="*", metavar="DIR", help=f"default: {_ROOT}")
    sync.add_argument("--dry-run", action="store_true", help="list them only")
    sync.add_argument("--again", action="store_true", help="those that were sent before, too")
    patience = "give up after so long without any news (default: 600)"
    sync.add_argument("--patience", type=float, default=600.0, metavar="SECONDS", help=patience)
    about = "make a W&B workspace and a W&B report of finished sweeps (pip install 'graftlm[dashboard]')"
    board = commands.add_parser("dashboard", help=about, description=about.capitalize() + ".")
    board.set_defaults(act=_dashboard)
    board.add_argument("dirs", nargs="*", metavar="DIR", help=f"folders of sweeps (default: {_ROOT})")
    board.add_argument("--entity", help="user or team (default: logger.entity of the sweep)")
    board.add_argument("--project", help="default: logger.project of the sweep")
    where = "where the JSON of both goes (default: wandb-dashboard.json in the first DIR)"
    board.add_argument("--out", metavar="FILE.json", help=where)
    board.add_argument("--push", action="store_true", help="save them on the server as well")
    return parser


def _sync(options: argparse.Namespace) -> int:
    from graftlm.tracking import sync

    found = sync.find([Path(name) for name in options.dirs or (_ROOT,)])
    states = Counter(run.state for run in found)
    wanted = [run for run in found if run.state == "new" or (options.again and run.state == "sent")]
    for run in found:
        if run.state == "running":
            say(f"{run.name}: still running, left out")
    rest = f"; {states['sent']} sent before" if states["sent"] and not options.again else ""
    if not wanted:
        say(f"nothing to send{rest}")
        return 0
    if options.dry_run:
        for run in wanted:
            say(f"{run.name}: {run.folder}")
        say(f"{len(wanted)} to send{rest}")
        return 0
    host = sync.check_account()

    def tell(run: OfflineRun, reason: str | None) -> None:
        say(f"{run.name}: sent" if reason is None else f"{run.name}: NOT sent ({reason})")

    failed = sync.send(wanted, options.patience, tell, options.again)
    say(f"{len(wanted) - failed} sent to {host}" + (f", {failed} not" if failed else "") + rest)
    return 1 if failed else 0


def _dashboard(options: argparse.Namespace) -> int:
    from graftlm.tracking.dashboard import make, push

    folders = [Path(name) for name in options.dirs or (_ROOT,)]
    out = Path(options.out) if options.out else folders[0] / "wandb-dashboard.json"
    made = make(folders, out, options.entity, options.project)
    say(f"dashboard: {out}")
    if options.push:
        for address in push(made):
            say(f"saved: {address}")
    return 0
