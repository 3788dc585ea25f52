"""The command line: `graftlm run | plan | report | transfer | data`.

Nothing heavy is imported before it is needed, so that help, plan and mistakes answer at once. Mistakes of a user end
in one line each on standard error and exit code 2; a failed job in exit code 1.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import graftlm
from graftlm.errors import GraftlmError, Problem, SettingsError

if TYPE_CHECKING:
    from graftlm.compose import Words

COMMANDS = {
    "run": "train, graft, fine-tune and evaluate: one job, or a sweep with -m",
    "plan": "what a run or sweep would do: which stages run, which are reused",
    "report": "compare the arms of finished sweeps: a page, JSON, Markdown and a table",
    "transfer": "graft an encoder folder into a seq2seq folder, without an experiment",
    "data": "show rows, lengths and languages of a source of text",
}
# flags of Hydra that show something and run nothing
_SHOW = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--resolve", "--package", "-p", "--shell-completion", "-sc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 a job failed, 2 a mistake, 130 interrupted."""
    # OpenMP's threads wait actively for each other: unbounded, a second busy process makes that many times slower
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_help())
            return 0
        if words[0] == "--version":
            print(graftlm.__version__)
            return 0
        command, rest = words[0], words[1:]
        if command not in COMMANDS:
            raise SettingsError.at("command", command, "is not known", "one of " + ", ".join(COMMANDS))
        handlers = {"run": _run, "plan": _plan, "report": _report, "transfer": _transfer, "data": _data}
        return handlers[command](rest)
    except GraftlmError as error:
        for problem in error.problems:
            print(f"graftlm: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("graftlm: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"graftlm {graftlm.__version__}: graft an XLM-R encoder into an mBART, and measure whether it helped\n\n"
        f"usage: graftlm COMMAND [...]\n\n{lines}\n\ngraftlm COMMAND --help tells more."
    )


# --- run and plan ---------------------------------------------------------------------------------------------------


def _words(arguments: Sequence[str]) -> Words:
    """Take a Hydra command line apart. Flags that we do not know are left to Hydra, which knows them."""
    from graftlm.compose import Words

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
            if not Path(folder).is_dir():
                raise SettingsError.at(name, folder, "no such folder", "give the folder of your own config groups")
            folders.append(folder)
        elif name in _SHOW:
            takes_value = name in ("--cfg", "-c", "--info", "-i", "--package", "-p")
            shown += [item, next(items, "")] if takes_value and not equals else [item]
        elif item.startswith("-"):
            raise SettingsError.at("option", item, "is not known", "graftlm run --help lists the options")
        else:
            overrides.append(item)
    return Words(tuple(overrides), multirun, tuple(folders), tuple(shown))


def _run(arguments: Sequence[str]) -> int:
    if any(item in ("-h", "--help") for item in arguments):
        print(_run_help("run"))
        return 0
    from graftlm.compose import compose_jobs, sweep_overrides

    words = _words(arguments)
    # Hydra reads flags before overrides only
    flags = [*(f"--config-dir={folder}" for folder in words.config_dirs), *words.shown]
    if words.shown:
        if "--hydra-help" not in words.shown:
            compose_jobs(words)  # a mistake is told in our words
        fixed = [item for item in words.overrides if not (words.multirun and "," in item)]
        return _hydra([*flags, *fixed], 0, shown=arguments)
    from graftlm.plan import check_inputs

    jobs = compose_jobs(words)
    check_inputs(jobs, to_run=True)
    overrides = ["--multirun", *sweep_overrides(words)] if words.multirun else words.overrides
    return _hydra([*flags, *overrides], len(jobs), shown=arguments)


def _hydra(arguments: Sequence[str], total: int, shown: Sequence[str]) -> int:
    """Hand over to Hydra, which launches the jobs; then tell how each ended, and report on a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from graftlm import sweep
    from graftlm.compose import Job, to_mapping
    from graftlm.console import progress_for_terminal
    from graftlm.jobs import Outcome, run_job
    from graftlm.schema import Settings

    command = "graftlm run " + " ".join(shlex.quote(item) for item in shown)
    progress = progress_for_terminal()
    ends: list[Outcome] = []

    @hydra.main(version_base="1.3", config_path="pkg://graftlm.conf", config_name="config")
    def task(config: object) -> None:
        hydra_config = HydraConfig.get()
        full = config.copy()  # type: ignore[attr-defined]
        full._set_flag("struct", False)
        full.hydra = hydra_config
        mapping, choices = to_mapping(full)
        overrides = tuple(str(item) for item in hydra_config.overrides.task)
        job = Job(overrides, choices, Settings.from_mapping(mapping))
        folder = Path(hydra_config.runtime.output_dir)
        swept = hydra_config.mode is not None and str(hydra_config.mode).endswith("MULTIRUN")
        name = folder.parent.name if swept else folder.name
        label = f"job {len(ends) + 1}/{max(total, 1)}: {' '.join(overrides) or 'the defaults'}"
        progress.say(label)
        try:
            outcome = run_job(job, folder, command, name, progress)
        except Exception as error:  # a mistake of ours: the other jobs of a sweep go on
            logging.getLogger(__name__).exception("job %s", label)
            log = folder / f"{hydra_config.job.name}.log"
            outcome = Outcome("failed", f"{type(error).__name__}: {error}; please report it with {log}", (), 0.0)
        ends.append(outcome)
        progress.say(f"{label}: {describe(outcome)}")
        if not swept and outcome.status == "done":
            progress.say(f"record: {folder / 'job.json'}; compare with: graftlm report {folder}")

    if total:
        os.environ["GRAFTLM_RUN"] = _new_folder(Path("multirun"))
    sys.argv = ["graftlm run", *arguments]
    sweep.ended.clear()
    task()
    for folder in sweep.ended:
        _make_report([folder], folder)
    return 1 if any(outcome.status != "done" for outcome in ends) else 0


def _new_folder(root: Path) -> str:
    """The name of a folder made for this run, by the time; with a number where another run of this second has it."""
    name = first = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(2):
        try:
            (root / name).mkdir(parents=True)
            return name
        except FileExistsError:
            name = f"{first}_{number}"
        except OSError as error:
            raise SettingsError.at("multirun", root.absolute(), f"cannot be written ({error.strerror})") from error
    raise AssertionError("unreachable")


def describe(outcome: object) -> str:
    """How a job ended, in a few words."""
    from graftlm.jobs import Outcome

    assert isinstance(outcome, Outcome)
    if outcome.status != "done":
        return f"failed ({outcome.error})"
    return "reused" if outcome.reused else f"done in {outcome.seconds:.1f} s"


def _run_help(command: str) -> str:
    from graftlm.compose import GROUPS, config_folder, first_comment

    folder = config_folder()
    lines = [
        f"usage: graftlm {command} [-m] [group=choice ...] [setting=value ...]",
        "",
        COMMANDS[command],
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


def _plan(arguments: Sequence[str]) -> int:
    if any(item in ("-h", "--help") for item in arguments):
        print(_run_help("plan"))
        return 0
    from graftlm.compose import compose_jobs
    from graftlm.plan import VERSIONS, check_inputs, plan

    jobs = compose_jobs(_words(arguments))
    check_inputs(jobs, to_run=False)
    planned = plan(jobs)
    width = max([3, *(len(" ".join(job.overrides)) for job in jobs)])
    names = list(VERSIONS)
    print(f"{'job':<{width}}  " + "  ".join(f"{name:<16}" for name in names).rstrip())
    counts: dict[str, int] = {}
    for job, stages in zip(jobs, planned, strict=True):
        cells = {stage.key.stage: f"{stage.state} {stage.key.key[:8]}" for stage in stages}
        print(
            f"{' '.join(job.overrides) or '-':<{width}}  "
            + "  ".join(f"{cells.get(name, '-'):<16}" for name in names).rstrip()
        )
        for stage in stages:
            counts[stage.state] = counts.get(stage.state, 0) + 1
    print(
        "stages: "
        + ", ".join(f"{counts[state]} {state}" for state in ("reuse", "resume", "run", "waiting") if state in counts)
    )
    return 0


# --- the other commands -----------------------------------------------------------------------------------------------


def _report(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("graftlm report", description=COMMANDS["report"])
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="a sweep's folder, a job's, or any folder above them")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: the first DIR)")
    options = parser.parse_args(arguments)
    folders = [Path(name) for name in options.dirs]
    return _make_report(folders, Path(options.out) if options.out else folders[0])


def _make_report(folders: Sequence[Path], out: Path) -> int:
    from rich.console import Console

    from graftlm.report import build_report
    from graftlm.report.terminal import print_report

    report = build_report(folders, out)
    print_report(report, Console())
    print(f"report: {out / 'report.html'}")
    return 0


def _transfer(arguments: Sequence[str]) -> int:
    from graftlm.compose import Words, compose_jobs, group_options

    parser = argparse.ArgumentParser(
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
        default="mbart",
        help="of a host built by `config`: bart has its LayerNorms where the donor has them",
    )
    add("--base", metavar="DIR", help="the donor before it was trained, for steps that carry what training changed")
    add("--adapter", metavar="DIR", help="the adapter (peft) trained beside the donor, for steps that carry it")
    add("--out", required=True, metavar="DIR", help="where the grafted model is written")
    add("--config-dir", metavar="DIR", help="a folder of your own config groups (DIR/transfer/mine.yaml)")
    add("overrides", nargs="*", metavar="SETTING=VALUE", help="settings of the strategy")
    options = parser.parse_intermixed_args(arguments)
    if options.config_dir is not None and not Path(options.config_dir).is_dir():
        reason, remedy = "no such folder", "give the folder of your own config groups"
        raise SettingsError.at("--config-dir", options.config_dir, reason, remedy)
    folders = (options.config_dir,) if options.config_dir else ()
    # a pair of checkpoints, as the two folders are: what a strategy asks of an experiment's models is not asked here
    words = (
        f"transfer={options.strategy}",
        "model=large",
        "logger=none",
        *(item for item in options.overrides if item.startswith("transfer.")),
    )
    (job,) = compose_jobs(Words(words, config_dirs=folders))
    from graftlm.console import progress_for_terminal
    from graftlm.transfer import command

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
    command.run(request, progress_for_terminal())
    print(f"model: {options.out}")
    return 0


def _data(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("graftlm data", description=COMMANDS["data"])
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows shown a split (default: 3)")
    parser.add_argument("overrides", nargs="*", metavar="override", help="data=files data.train=[my.jsonl] ...")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from graftlm.compose import Words, compose_jobs
    from graftlm.data.inspect import show
    from graftlm.data.sources import check_source

    (job,) = compose_jobs(Words(tuple(options.overrides)))
    problems = check_source(job.settings.data, "data")
    if options.rows < 0:
        problems.append(Problem("--rows", options.rows, "must be at least 0"))
    if problems:
        raise SettingsError(problems)
    show(job.settings.data, options.rows, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
