"""Every strategy of `conf/transfer` on real pretrained weights: fidelity, first loss, loss after a number of steps.

    python -m benchmarks.strategies TEXTS FOLDER [--docs docs/transfer.md] [--workers N] [--seeds N] [--only PART…]

TEXTS holds `{de,fr}.{train,validation,test}.jsonl` with the fields text, summary and lang; FOLDER gets store and
sweeps. Runs `experiment=strategies` (`model=e5_small`) in parts, since not all strategies fit one host:

    host        `none` and `denoising`, whose host, trained from a random start, stands in for a real mBART below
    pretrained  onto that one: `none`, `interpolated`, `stitched`
    delta       onto that one: `delta`, of 300 steps in the donor
    post_ln     `exact`, and `none`, in BART, whose LayerNorms stand where the donor's do
    adapter     `lora`, of a donor with an adapter trained in 300 steps
    built       all others, into a host that is built
    leading     `none`, the two that lead, and the first of those that train nothing before the task, with `--seeds`
    controls    their controls, with `--seeds`
    slower      `none` at half the rate of fine-tuning, and
    faster      at twice: whether the baseline has its best
    long        `none` for four times the steps, about the operations of `full` with its graft, at twice the rate, which
                is the best for that many, with `--seeds`
    long_slow, long_slower, long_faster
                the same at a half and a quarter of that rate, and at twice

Prints a table of all arms, and one of the leading and their controls against the two baselines and each other, paired
by seed; with `--docs` puts both between the marks of a file. All of it takes hours; what is done stays in the store, so
the same command goes on. `--only` runs some of the parts, and `--only table` none: the table says what was not run. One
thread a job.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.marks import check, put
from graftlm.composition import quoted
from graftlm.errors import ReportError
from graftlm.report.collect import Arm, collect
from graftlm.report.figures import READS, charged_before, figures_of
from graftlm.report.records import Run
from graftlm.report.statistics import paired

LEADING = ("none", "standardised", "standardised_denoised", "full")  # the second trains nothing before the task
CONTROLS = ("denoising", "shuffled_standardised_denoised")
COMPARED = (  # beside the baselines: what the graft, the order of its weights, and distillation add
    ("standardised_denoised", "denoising"),
    ("standardised_denoised", "shuffled_standardised_denoised"),
    ("full", "standardised_denoised"),
)
BUILT = (
    *("full", "standardised_denoised", "denoised", "shuffled_denoised", "shuffled_standardised_denoised"),
    *("standardised", "distilled", "calibrated", "embeddings", "encoder_decoder", "shuffled", "naive", "rates"),
)
LONG = "built, 1,200 steps, rate 2e-3"
LANGUAGES = ("de", "fr")
ENDED_BY_A_SIGNAL = (130, 143, -signal.SIGINT, -signal.SIGTERM)
DONOR_STEPS, TRAINED = "pretrain.max_steps=300", "donor trained for 300 steps"


@dataclass(frozen=True)
class Part:
    """A sweep of `experiment=strategies`: its overrides, and how the table tells its arms."""

    words: tuple[str, ...]
    arms: tuple[str, ...]
    setting: str = "built"  # the host, and what else it has of its own
    donor: str = ""  # what was done to it, where something was
    seeds: bool = False  # whether `--seeds` counts; else one
    on_stand_in: bool = False  # needs what the part `host` leaves


def parts(stand_in: Path) -> dict[str, Part]:
    """The sweeps by their names, in the order in which they run."""
    onto = f"model.host.checkpoint={quoted(str(stand_in))}"
    four_times = ("finetune.max_steps=1200",)
    return {
        "host": Part((), ("none", "denoising")),
        "pretrained": Part((onto,), ("none", "interpolated", "stitched"), "stand-in", on_stand_in=True),
        "delta": Part((onto, DONOR_STEPS), ("delta",), "stand-in", TRAINED, on_stand_in=True),
        "post_ln": Part(("model.host.architecture=bart",), ("none", "exact"), "BART"),
        "adapter": Part((DONOR_STEPS,), ("lora",), donor=TRAINED),
        "built": Part((), BUILT),
        "leading": Part((), LEADING, seeds=True),
        "controls": Part((), CONTROLS, seeds=True),
        "slower": Part(("finetune.lr=0.0005",), ("none",), "built, rate 5e-4"),
        "faster": Part(("finetune.lr=0.002",), ("none",), "built, rate 2e-3"),
        "long": Part((*four_times, "finetune.lr=0.002"), ("none",), LONG, seeds=True),
        "long_slow": Part(four_times, ("none",), "built, 1,200 steps"),
        "long_slower": Part((*four_times, "finetune.lr=0.0005"), ("none",), "built, 1,200 steps, rate 5e-4"),
        "long_faster": Part((*four_times, "finetune.lr=0.004"), ("none",), "built, 1,200 steps, rate 4e-3"),
    }


def main() -> int:
    options = _options()
    folder: Path = options.folder.resolve()
    stand_in = folder / "stand_in"
    known = parts(stand_in)
    problems = _problems(options)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 2
    failed = []
    for name, part in known.items():
        if options.only and name not in options.only:
            continue
        if part.on_stand_in and not (_link(stand_in, folder / "sweeps" / "host") or stand_in.is_dir()):
            print(f"-- {name}: left out, for there is no host of the part `host`", file=sys.stderr)
            failed.append(name)
        elif _sweep(folder, name, part, options):
            failed.append(name)
    shown = table(folder, known)
    print(shown)
    for name in failed:
        print(f"{name}: not all of its jobs were run and ended well", file=sys.stderr)
    if options.docs and "\n| `" not in shown:  # a mistyped folder would empty the page
        print(f"--docs: nothing has been run in {folder}, so {options.docs} is left as it was", file=sys.stderr)
        return 2
    if options.docs:
        put(options.docs, "strategies", shown)
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.strategies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="put the table between the marks in this file")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time, a core each")
    parser.add_argument("--seeds", type=int, default=3, help="of the leading arms and their controls")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        choices=[*parts(Path()), "table"],
        help="some of the parts above; `table` runs none",
    )
    return parser.parse_args()


def _problems(options: argparse.Namespace) -> list[str]:
    """What would end hours of work, or begin them in vain."""
    found = [
        f"{path}: no such file" for paths in _texts(options.texts).values() for path in paths if not path.is_file()
    ]
    found += [
        f"--{name}: {value}: must be at least 1"
        for name, value in (("workers", options.workers), ("seeds", options.seeds))
        if value < 1
    ]
    if options.docs:
        try:
            check(options.docs, "strategies")
        except (OSError, ValueError) as error:
            found.append(str(error))
    return found


def _texts(folder: Path) -> dict[str, list[Path]]:
    """The files of each split."""
    return {
        split: [folder.resolve() / f"{lang}.{split}.jsonl" for lang in LANGUAGES]
        for split in ("train", "validation", "test")
    }


def commands(folder: Path, part: Part, options: argparse.Namespace) -> list[list[str]]:
    """What runs a part: each job by itself, and the sweep of them all, which finds them done.

    Each job has a process of its own, for a long one is slow in the end (docs/performance.md, few shapes). With several
    workers the sweep runs at once, in theirs.
    """
    files = {split: ",".join(quoted(str(path)) for path in paths) for split, paths in _texts(options.texts).items()}
    words = [
        *("experiment=strategies", "data=files", "data.columns.source_lang=lang", "logger=none", "trainer.threads=1"),
        *(f"data.{split}=[{paths}]" for split, paths in files.items()),
        *(f"store.dir={quoted(str(folder / 'store'))}", *part.words),
    ]
    seeds = [str(seed) for seed in range(1, (options.seeds if part.seeds else 1) + 1)]
    sweep = ["run", "-m", *words, f"transfer={','.join(part.arms)}", f"finetune.seed={','.join(seeds)}"]
    if options.workers > 1:
        return [[*sweep, "launch=joblib", f"launch.workers={options.workers}", "launch.cores=1"]]
    alone = [["run", *words, f"transfer={arm}", f"finetune.seed={seed}"] for arm in part.arms for seed in seeds]
    return [*alone, sweep]


def _sweep(folder: Path, name: str, part: Part, options: argparse.Namespace) -> int:
    """Runs a part, what an earlier call finished is reused; the exit code of its sweep.

    Raises:
        KeyboardInterrupt: it was asked to end, and has saved and ended.
    """
    print(f"-- {name}", file=sys.stderr, flush=True)
    own = folder / "sweeps" / name
    own.mkdir(parents=True, exist_ok=True)
    code = 0
    for words in commands(folder, part, options):
        command = [sys.executable, "-m", "graftlm", *words]
        process = subprocess.Popen(command, cwd=own, env={**os.environ, "OMP_NUM_THREADS": "1"})
        asked = False
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # the command has the signal as well: it saves first, which takes its time
                asked = True
        if asked or process.returncode in ENDED_BY_A_SIGNAL:
            raise KeyboardInterrupt
        code = process.returncode  # of the sweep in the end: what failed by itself fails there too, and is told
    return code


def _newest(sweep: Path) -> Path | None:
    """The folder of a part's last sweep."""
    return max((path.parent for path in sweep.glob("multirun/*/sweep.json")), default=None)


def _link(stand_in: Path, sweep: Path) -> bool:
    """A short way to the host of `denoising`, which lies in the store under its key; whether there is one."""
    newest = _newest(sweep)
    for path in newest.glob("*/job.json") if newest else ():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] == "done" and record["choices"]["transfer"] == "denoising":
            made = next(
                (path.parent / stage["path"]).resolve() for stage in record["stages"] if stage["stage"] == "graft"
            )
            stand_in.unlink(missing_ok=True)
            stand_in.symlink_to(made / "model")
            return True
    return False


HEADER = (
    *("arm", "host, settings", "seeds", "CKA, cosine", "first validation loss", "last", "test loss"),
    *("gap: first → last", f"gap of {READS} after", "ROUGE-L", "10¹³ operations: donor + graft + fine-tuning"),
)


def table(folder: Path, known: Mapping[str, Part]) -> str:
    """Markdown: an arm a row, means over its seeds, the best test loss first; the leading arms and their controls
    against the baselines and each other; then what has not been run."""
    rows: list[tuple[tuple[bool, float], list[str]]] = []
    missing = []
    arms = {
        setting: _arms([folder / "sweeps" / name for name in names]) for setting, names in _by_setting(known).items()
    }
    for setting, names in _by_setting(known).items():
        for arm in dict.fromkeys(arm for name in names for arm in known[name].arms):
            if arm in arms[setting]:
                donor = next(known[name].donor for name in names if arm in known[name].arms)
                rows.append(_row(arms[setting][arm], f"{setting}; {donor}" if donor else setting))
            else:
                missing.append(f"`{arm}` ({setting})")
    shown = _markdown(HEADER, [row for _, row in sorted(rows)])
    built = arms["built"]
    pairs = [
        *(
            (built.get(name), arms[setting].get("none"), f"`none`, {setting}")
            for setting in ("built", LONG)
            for name in (*CONTROLS, *LEADING)
            if name != "none"
        ),
        *((built.get(name), built.get(base), f"`{base}`") for name, base in COMPARED),
    ]
    beside = [_against(arm, base, label) for arm, base, label in pairs if arm and base]
    if beside:
        shown += "\n\n" + _markdown(AGAINST, beside)
    return shown + (f"\n\nNot run: {', '.join(missing)}." if missing else "")


def _markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ("---",) * len(header), *rows])


def _by_setting(known: Mapping[str, Part]) -> dict[str, list[str]]:
    """The parts of each setting: what stands in several of them is one arm."""
    found: dict[str, list[str]] = {}
    for name, part in known.items():
        found.setdefault(part.setting, []).append(name)
    return found


def _arms(sweeps: list[Path]) -> dict[str, Arm]:
    """The arms of the last sweep of each of these parts by their strategies; none where nothing has been run.

    What the jobs warn of is told, and a strategy of which there are two arms (other texts, other settings) is none.
    """
    newest = [folder for sweep in sweeps if (folder := _newest(sweep))]
    try:
        found = collect(newest)
    except ReportError:
        return {}
    for warning in found.warnings:
        print(warning, file=sys.stderr)
    for job in found.failed:
        print(f"{job['arm']}, seed {job['finetune_seed']}: {job['error']}", file=sys.stderr)
    arms: dict[str, Arm] = {}
    twice = {arm.transfer for arm in found.arms if arms.setdefault(arm.transfer, arm) is not arm}
    for name in twice:
        print(f"{name}: was run with two settings; remove the sweeps of one, of {newest}", file=sys.stderr)
    return {name: arm for name, arm in arms.items() if name not in twice}


def _row(arm: Arm, setting: str) -> tuple[tuple[bool, float], list[str]]:
    figures = [figures_of(run, None) for run in arm.runs]

    def mean(name: str) -> float:
        return fmean(_known(each.get(name)) for each in figures)

    test = mean("test_loss")
    return (math.isnan(test), test), [
        f"`{arm.transfer}`" + (" (control)" if arm.control else ""),
        setting,
        str(len(arm.runs)),
        _fidelity(arm.runs),
        _shown(mean("first_loss"), 2),
        _shown(mean("val_loss"), 2),
        _shown(test, 2),
        f"{_gap(arm.runs, 0)} → {_gap(arm.runs, -1)}",
        _reads(figures),
        _shown(mean("rougeL"), 1),
        " + ".join(_operations(arm.runs, cost) for cost in ("donor", "graft", "finetune")),
    ]


AGAINST = (
    *("arm", "the other", "pairs of seeds", "first loss − the other's best", "steps to reach it / the other's"),
    *("operations to reach it / the other's", "first gap", f"steps to a gap of {READS}", "the other's"),
    *("test loss − the other's", "all operations / the other's"),
)


def _against(arm: Arm, base: Arm, label: str) -> list[str]:
    """An arm beside another, paired by the seed of fine-tuning: means with t-intervals of 95%."""
    mine, theirs = ({run.finetune_seed: run for run in each.runs} for each in (arm, base))
    pairs = [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]
    figures = [(figures_of(run, other), figures_of(other, None)) for run, other in pairs]
    return [
        f"`{arm.transfer}`",
        label,
        str(len(pairs)),
        _interval([own["first_loss"] - other["val_loss_best"] for own, other in figures]),
        _share([own for own, _ in figures], "steps_share"),
        _share([own for own, _ in figures], "compute_share"),
        _interval([float(run.curve["gap"][0]) for run, _ in pairs if "gap" in run.curve]),
        _reads([own for own, _ in figures]),
        _reads([other for _, other in figures]),
        _interval([_known(own["test_loss"]) - _known(other["test_loss"]) for own, other in figures]),
        _interval([_charged(run) / _charged(other) for run, other in pairs]),
    ]


def _share(figures: list[dict[str, Any]], name: str) -> str:
    """What it took to come as low as the other came, of what that one took: its interval, or where not all came there,
    each seed's own."""
    shares = [(own.get(name), own.get(f"{name}_above")) for own in figures]
    reached = [share for share, _ in shares if share is not None]
    if len(reached) == len(shares):
        return _interval(reached, least=0)
    return ", ".join(f"> {_shown(_known(above), 2)}" if share is None else _shown(share, 2) for share, above in shares)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _charged(run: Run) -> float:
    """All operations of a run: donor, graft and fine-tuning."""
    return charged_before(run) + float(run.cost.get("flops", math.nan))


def _interval(values: list[float], least: float = -math.inf) -> str:
    """A mean with its t-interval of 95%, none of it below what can be; without one where there is one value, or all are
    the same."""
    found = paired(values)
    if found is None or math.isnan(found.mean):
        return "–"
    if found.low is None or found.high is None:
        return _shown(found.mean, 2)
    return f"{_shown(found.mean, 2)} [{_shown(max(found.low, least), 2)}, {_shown(found.high, 2)}]"


def _shown(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.000


def _fidelity(runs: list[Run]) -> str:
    """Of the last layer after the graft; a strategy that reads no donor has none."""
    after = [((run.transfer or {}).get("fidelity") or {}).get("after") or {} for run in runs]
    if not all({"cka", "cosine"} <= found.keys() for found in after):
        return "–"
    return ", ".join(f"{fmean(found[name] for found in after):.2f}" for name in ("cka", "cosine"))


def _gap(runs: list[Run], place: int) -> str:
    return _shown(fmean(float(run.curve["gap"][place]) if "gap" in run.curve else math.nan for run in runs), 3)


def _reads(figures: list[dict[str, Any]]) -> str:
    """Steps until wrong sources cost it `READS`, of each seed where they differ."""
    told = [
        f"{reached:.0f}" if reached is not None else "–" if above is None else f"> {above:.0f}"
        for reached, above in ((each["read_steps"], each["read_steps_above"]) for each in figures)
    ]
    return ", ".join(dict.fromkeys(told))


def _operations(runs: list[Run], cost: str) -> str:
    """In 10¹³, as charged to a run."""
    found = {
        "donor": [run.donor_cost.get("flops", 0.0) for run in runs],
        "graft": [run.cost.get("graft_flops", 0.0) for run in runs],
        "finetune": [run.cost.get("flops", 0.0) for run in runs],
    }
    return f"{fmean(found[cost]) / 1e13:.1f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
