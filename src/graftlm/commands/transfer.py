"""`graftlm transfer`: a strategy applied to two folders."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graftlm.commands.parser import Parser
from graftlm.errors import SettingsError

ABOUT = "graft an encoder folder into a seq2seq folder, without an experiment"


def run(arguments: Sequence[str]) -> int:
    from graftlm.compose import compose_jobs
    from graftlm.console import progress_for_terminal
    from graftlm.groups import group_options
    from graftlm.interrupt import handled
    from graftlm.job import Words
    from graftlm.transfer import command

    parser = Parser(
        "graftlm transfer",
        description="Graft one model folder into another, without an experiment; plain transformers loads the result.",
        epilog="Settings of a step by its name: encoder.tokens=3000; of the strategy: transfer.control=true. Without "
        "--text no fidelity is measured; a strategy that only moves weights then goes from file to file where both "
        "are folders of safetensors, with one tensor at a time in memory.",
    )
    add = parser.add_argument
    add("--encoder", required=True, metavar="DIR", help="an XLM-R folder or hub name: the donor")
    add(
        "--seq2seq",
        required=True,
        metavar="DIR|config",
        help="an mBART folder or hub name, or `config`: built to the donor's shape, with random weights",
    )
    strategies = [name for name in group_options("transfer") if name not in ("none", "rates")]  # these carry nothing
    add("--strategy", required=True, metavar="NAME", help="one of " + ", ".join(strategies))
    add(
        "--text",
        metavar="FILE",
        help="text to calibrate on and to measure with: a text a line, or .jsonl with `text` and, if known, `lang`",
    )
    add(
        "--architecture",
        choices=("mbart", "bart"),
        help="of a host built by `config` (mbart): bart has its LayerNorms where the donor has them",
    )
    add("--base", metavar="DIR", help="the donor before it was trained, for steps that carry what training changed")
    add("--adapter", metavar="DIR", help="the adapter (peft) trained beside the donor, for steps that carry it")
    add("--out", required=True, metavar="DIR", help="where the grafted model is written")
    add("--config-dir", metavar="DIR", help="a folder of your own config groups (DIR/transfer/mine.yaml)")
    add("overrides", nargs="*", metavar="SETTING=VALUE", help="settings of the strategy")
    options = parser.parse_intermixed_args(arguments)
    if not re.fullmatch(r"[\w-]+", options.strategy):
        raise SettingsError.at("--strategy", options.strategy, "is no name of one", "one of " + ", ".join(strategies))
    if options.config_dir is not None and not Path(options.config_dir).is_dir():
        reason, remedy = "no such folder", "give the folder of your own config groups"
        raise SettingsError.at("--config-dir", options.config_dir, reason, remedy)
    folders = (options.config_dir,) if options.config_dir else ()
    # a pair of checkpoints, as the two folders are: what a strategy asks of an experiment's models is not asked here
    words = (
        f"transfer={options.strategy}",
        "model=large",
        "logger=none",
        *(f"++{item}" for item in options.overrides if item.startswith("transfer.")),  # one's own file may be short
    )
    try:
        (job,) = compose_jobs(Words(words, config_dirs=folders))
    except SettingsError as error:
        problems = [replace(item, path="--strategy") if item.path == "transfer" else item for item in error.problems]
        raise SettingsError(problems) from error

    request = command.Request(
        options.encoder,
        options.seq2seq,
        command.with_settings(
            job.settings.transfer, [item for item in options.overrides if not item.startswith("transfer.")]
        ),
        Path(options.out),
        text=Path(options.text) if options.text else None,
        base=options.base,
        adapter=Path(options.adapter) if options.adapter else None,
        architecture=options.architecture,
    )
    try:
        with handled():
            command.run(request, progress_for_terminal())
    except KeyboardInterrupt as interrupt:
        name = str(interrupt) or "SIGINT"
        print(f"graftlm: interrupted ({name}); nothing was written, the same command starts again", file=sys.stderr)
        return int(getattr(interrupt, "code", 130))
    print(f"model: {options.out}")
    return 0
