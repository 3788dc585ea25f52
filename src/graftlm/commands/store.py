"""`graftlm store`: what the store of artifacts holds, whether it is whole, and what of it may go."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.commands.parser import Parser
from graftlm.console import progress_for_terminal, tell
from graftlm.errors import printable

if TYPE_CHECKING:
    from graftlm.inventory import Artifact

ABOUT = "list, show, check and clean up the artifacts that runs have left"
STORE = "multirun/store"  # the default of store.dir
GC = """
An artifact goes when it meets every rule given (--max-size: the least recently used of those, until the store fits).
What is kept keeps all that it was built on; what is being built, and what a job uses whose record says that it runs, is
never touched. Nothing is deleted without --yes. "Used" is when a job last took it, by the job.json files below --runs.
"""


def run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    code: int = options.act(options)
    return code


def _parser() -> Parser:
    parser = Parser("graftlm store", description=ABOUT.capitalize() + ".")
    shared = Parser(add_help=False)
    shared.add_argument("--store", metavar="DIR", default=STORE, help=f"the store, store.dir (default: {STORE})")
    shared.add_argument(
        "--runs",
        metavar="DIR",
        action="append",
        help="where the sweeps are that use it (their job.json files); may be repeated (default: multirun)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, about: str, act: Any, **more: Any) -> Parser:
        added = commands.add_parser(name, help=about, description=about.capitalize() + ".", parents=[shared], **more)
        added.set_defaults(act=act)
        return added

    ls = command("ls", "list the artifacts, their sizes and who uses them", _ls)
    ls.add_argument("--stage", metavar="STAGE", help="only those of one stage")
    ls.add_argument("--sort", choices=("size", "age"), help="the largest, or the oldest, first (default: by stage)")
    ls.add_argument("--json", action="store_true", help="for machines")
    show = command("show", "show one artifact: its settings, what it was built on, its files and users", _show)
    show.add_argument("key", metavar="KEY", help="the beginning of its key")
    show.add_argument("--diff", metavar="KEY2", help="show instead which settings of another differ")
    verify = command("verify", "check sizes and SHA-256 of all files; exit code 1 if any is damaged", _verify)
    verify.add_argument("keys", nargs="*", metavar="KEY", help="only these (default: all)")
    gc = command("gc", "delete by rules; shows what would go, and does it with --yes", _gc, epilog=GC)
    gc.add_argument("--unreachable", action="store_true", help="what no job below --runs needs, itself or to build on")
    gc.add_argument("--older-than", metavar="AGE", help="not used for so long: 30d, 12h, 2w")
    gc.add_argument("--larger-than", metavar="SIZE", help="larger than this: 500MB, 2GB")
    gc.add_argument("--max-size", metavar="SIZE", help="least recently used first, until all fits: 50GB")
    gc.add_argument("--partial", action="store_true", help="unfinished ones that nobody builds, too")
    gc.add_argument("--yes", action="store_true", help="delete them")
    return parser


def _take(options: argparse.Namespace) -> tuple[list[Artifact], Path, list[Path]]:
    from graftlm.inventory import take

    store = Path(options.store).expanduser()
    runs = [Path(name).expanduser() for name in options.runs or ()]
    if not runs:
        runs = [folder for folder in (Path("multirun"),) if folder.is_dir()]
    return take(store, runs), store, runs


def _ls(options: argparse.Namespace) -> int:
    from graftlm.errors import SettingsError
    from graftlm.inventory import described
    from graftlm.plan import VERSIONS

    if options.stage is not None and options.stage not in VERSIONS:
        raise SettingsError.at("--stage", options.stage, "is no stage", "one of " + ", ".join(VERSIONS))
    artifacts, store, _ = _take(options)
    by_key = {item.key: item for item in artifacts}
    shown = [item for item in artifacts if options.stage in (None, item.stage)]
    if options.sort is not None:
        shown.sort(key=lambda item: -item.size if options.sort == "size" else item.made)
    now = time.time()
    if options.json:
        tell(json.dumps([_plain(item, described(item, by_key)) for item in shown], indent=1))
        return 0
    if not shown:
        tell(f"{store} holds no artifact" + (f" of stage {options.stage}" if options.stage else ""))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("stage", "key", "size", "age", "took", "jobs", "made for"):
        justify: Any = "right" if name in ("size", "age", "took", "jobs") else "left"
        table.add_column(name, justify=justify, no_wrap=name != "made for", overflow="fold")
    for item in shown:
        what = described(item, by_key)
        if not item.finished:
            what = "unfinished" + (f", step {item.step}" if item.step is not None else "") + f" · {what}"
        elif not item.marker:
            what = "damaged: its marker cannot be read"
        took = item.marker.get("seconds")
        cells = (
            item.stage,
            item.key[:8],
            size(item.size),
            age(now - item.made),
            age(float(took)) if isinstance(took, int | float) else "-",
            str(len(item.uses)),
            what,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    if not console.is_terminal:
        console.width = 200  # into a file or a pipe: a line each
    console.print(table)
    unfinished = [item for item in shown if not item.finished]
    line = f"{len(shown) - len(unfinished)} artifacts, {size(sum(item.size for item in shown if item.finished))}"
    if unfinished:
        line += f"; {len(unfinished)} unfinished, {size(sum(item.size for item in unfinished))}"
    tell(line)
    return 0


def _plain(item: Artifact, what: str) -> dict[str, Any]:
    return {
        "stage": item.stage,
        "key": item.key,
        "path": str(item.path),
        "finished": item.finished,
        "size": item.size,
        "made": item.made,
        "used": item.used,
        "seconds": item.marker.get("seconds"),
        "step": item.step,
        "for": what,
        "inputs": item.inputs,
        "jobs": [str(use.path) for use in item.uses],
    }


def _show(options: argparse.Namespace) -> int:
    from graftlm.differences import differences
    from graftlm.inventory import described, find

    artifacts, _, _ = _take(options)
    item = find(artifacts, options.key)
    by_key = {other.key: other for other in artifacts}
    if options.diff is not None:
        other = find(artifacts, options.diff)
        if item.stage != other.stage:
            tell(f"{item.name} and {other.name} are of different stages")
        apart = list(differences(dict(item.settings), dict(other.settings)))
        apart += differences(item.inputs, other.inputs, "inputs")
        rows = [[each.path, _short(each.one), _short(each.other)] for each in apart]
        _columns([["setting", item.name, other.name], *rows] if rows else [["their settings and inputs are the same"]])
        return 0
    tell(f"{item.stage}/{item.key}" + ("" if item.finished else " (unfinished)"))
    made = item.marker
    facts = [
        ["path", str(item.path)],
        ["made for", described(item, by_key)],
        ["size", f"{size(item.size)} in {len(made.get('files') or ())} files" if made else size(item.size)],
        [
            "made",
            f"{made.get('created', '?')} by graftlm {made.get('graftlm', '?')}, stage version {made.get('version')}",
        ],
        ["took", f"{made.get('seconds')} s"],
    ]
    facts = facts if made else facts[:3]
    if item.step is not None:
        facts.append(["checkpoint", f"step {item.step}"])
    maker = next((use for use in item.uses if use.made(item.key)), None)
    if maker is not None:
        facts.append(["made by", f"{maker.record.get('command')} ({maker.path.parent})"])
    _columns(facts, indent=2)
    if item.inputs:
        tell("built on")
        _tree(item, by_key, 2)
    if item.settings:
        tell("settings")
        _columns([[path, _short(value)] for path, value in _leaves(item.settings)], indent=2)
    if made.get("files"):
        tell("files")
        _columns([[name, size(int(file["size"]))] for name, file in made["files"].items()], indent=2)
    tell(f"used by {len(item.uses)} jobs" if item.uses else "used by no job that is known here (--runs)")
    words = [[str(use.path.parent), " ".join(map(str, use.record.get("overrides") or ()))] for use in item.uses]
    _columns(words, indent=2)
    return 0


def _tree(item: Artifact, by_key: Mapping[str, Artifact], indent: int) -> None:
    from graftlm.inventory import described

    for stage, key in item.inputs.items():
        found = by_key.get(key)
        what = described(found, by_key) if found else "not in this store"
        tell(f"{' ' * indent}{stage}/{key[:8]}  {what}")
        if found:
            _tree(found, by_key, indent + 2)


def _verify(options: argparse.Namespace) -> int:
    from graftlm.inventory import find, verify

    artifacts, store, _ = _take(options)
    some = [find(artifacts, key) for key in options.keys] if options.keys else artifacts
    checked = damaged = 0
    for item, wrong in verify({item.path: item for item in some}.values(), progress_for_terminal()):
        checked += 1
        if wrong:
            damaged += 1
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            tell(f"{item.stage}/{item.key}: {wrong[0]}{more}")
    tell(f"{checked} artifacts of {store} checked, " + (f"{damaged} damaged" if damaged else "all whole"))
    if damaged:
        tell("delete the folder of a damaged one: the next run that needs it makes it again")
    return 1 if damaged else 0


def _gc(options: argparse.Namespace) -> int:
    from graftlm.cleanup import Rules, choose, delete, parse_age, parse_size
    from graftlm.inventory import Newer, described, find_uses

    rules = Rules(
        options.unreachable,
        parse_age(options.older_than, "--older-than") if options.older_than else None,
        parse_size(options.larger_than, "--larger-than") if options.larger_than else None,
        parse_size(options.max_size, "--max-size") if options.max_size else None,
        options.partial,
    )
    artifacts, store, runs = _take(options)
    uses = find_uses(runs, store)
    choice = choose(artifacts, uses, rules)
    by_key = {item.key: item for item in artifacts}
    total = sum(item.size for item in artifacts)
    for reason, kept in choice.stays.items():
        tell(f"kept: {len(kept)} ({size(sum(item.size for item in kept))}), since {reason}")
    if not choice.goes:
        tell(f"nothing to delete: no rule lets any of {len(artifacts)} artifacts ({size(total)}) go")
        return 0
    now = time.time()
    rows = [["stage", "key", "size", "last used", "made for"]]
    for item in choice.goes:
        what = described(item, by_key) if item.finished else f"unfinished · {described(item, by_key)}"
        rows.append([item.stage, item.key[:8], size(item.size), f"{age(now - item.used)} ago", what])
    _columns(rows)
    going = sum(item.size for item in choice.goes)
    if rules.max_size is not None and total - going > rules.max_size:
        tell(f"still {size(total - going - rules.max_size)} too large: the rest is kept by the other rules or in use")
    if not options.yes:
        tell(
            f"would delete {len(choice.goes)} of {len(artifacts)} artifacts, {size(going)} of {size(total)}: add --yes"
        )
        return 0
    freed, left = delete(choice.goes, store, progress_for_terminal(), Newer(uses, runs, store))
    taken = f"; {len(left)} left, which a job has begun to build or to use meanwhile" if left else ""
    tell(f"deleted {len(choice.goes) - len(left)} artifacts, {size(freed)}{taken}")
    return 0


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for name, item in value.items() for leaf in _leaves(item, f"{path}.{name}" if path else str(name))]
    return [(path, value)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value) if not isinstance(value, dict | list) else json.dumps(value)
    return text if len(text) <= 90 else text[:87] + "..."


def _columns(rows: Sequence[Sequence[str]], indent: int = 0) -> None:
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        tell(" " * indent + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def age(seconds: float) -> str:
    """A span of time in one number."""
    seconds = max(0.0, seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
