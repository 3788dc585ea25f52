"""The command line of `run` and `plan`: overrides and the few flags of Hydra that matter, and the help on them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftlm.errors import SettingsError
from graftlm.groups import GROUPS, config_folder, first_comment
from graftlm.job import Job, Words

# flags of Hydra that show something and run nothing
_SHOW = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--resolve", "--package", "-p")

_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def parse_words(arguments: Sequence[str]) -> Words:
    """Take a Hydra command line apart. Flags that we do not know are left to Hydra, which knows them."""
    overrides: list[str] = []
    folders: list[str] = []
    shown: list[str] = []
    multirun = False
    items = iter(arguments)
    for item in items:
        name, equals, value = item.partition("=")
        if item in ("-m", "--multirun"):
            multirun = True
        elif name in ("--config-dir", "-cd"):
            folder = value if equals else next(items, "")
            if not folder or not Path(folder).is_dir():
                raise SettingsError.at(name, folder, "no such folder", "give the folder of your own config groups")
            folders.append(folder)
        elif name in _SHOW:
            takes_value = name in ("--cfg", "-c", "--info", "-i", "--package", "-p")
            value = next(items, "") if takes_value and not equals else value
            known = {"-c": _CFG, "--cfg": _CFG, "-i": _INFO, "--info": _INFO}.get(name, (value,))
            if value not in known:
                raise SettingsError.at(name, value, "is nothing that can be shown", "one of " + ", ".join(known))
            shown += [item, value] if takes_value and not equals else [item]
        elif item.startswith("-"):
            raise SettingsError.at("option", item, "is not known", "graftlm run --help lists the options")
        else:
            overrides.append(item)
    return Words(tuple(overrides), multirun, tuple(folders), tuple(shown))


def check_shown(words: Words, jobs: Sequence[Job]) -> None:
    """Refuse a part of the configuration that there is not (`--package`), where Hydra would end the process.

    Raises:
        SettingsError: then.
    """
    for flag, path in itertools.pairwise((*words.shown, "")):
        name, equals, value = flag.partition("=")
        value = value if equals else path
        if name not in ("--package", "-p") or value.partition(".")[0] in ("_global_", "hydra"):
            continue
        found: Any = dataclasses.asdict(jobs[0].settings)
        for part in value.split("."):
            if not isinstance(found, dict) or part not in found:
                groups = ", ".join(dataclasses.asdict(jobs[0].settings))
                raise SettingsError.at(name, value, "is no part of the configuration", f"parts are {groups}")
            found = found[part]


def run_help(command: str, about: str) -> str:
    folder = config_folder()
    lines = [
        f"usage: graftlm {command} [-m] [group=choice ...] [setting=value ...]",
        "",
        about,
        "",
        "groups and their choices:",
    ]
    for group in GROUPS:
        lines.append(f"  {group}")
        for path in sorted((folder / group).glob("*.yaml")):
            lines.append(f"    {path.stem:<12} {first_comment(path)}")
    lines += [
        "",
        "settings are reached by path: pretrain.max_steps=500 finetune.seed=2 mask.ratio=0.3 data.train=[my.jsonl]",
        "several values make a sweep: -m transfer=none,calibrated finetune.seed=1,2,3",
        "",
        "options:",
        "  -m, --multirun     run every combination of the values given",
        "  --cfg job          show the configuration that would run, and stop",
        "  --config-dir DIR   a folder of your own config groups (DIR/transfer/mine.yaml: transfer=mine)",
        "  --hydra-help       the options of Hydra itself",
    ]
    return "\n".join(lines)
