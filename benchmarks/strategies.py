"""Every strategy of `conf/transfer` on real pretrained weights: fidelity, first loss, loss after a number of steps.

    python -m benchmarks.strategies TEXTS FOLDER [--docs docs/transfer.md] [--workers N] [--seeds N] [--only SWEEP…]

TEXTS holds `{de,fr}.{train,validation,test}.jsonl` with the fields text, summary and lang; FOLDER gets store and
sweeps. Runs `experiment=strategies` (`model=e5_small`) in parts, since not all strategies fit one host:

    host        `none` and `denoising`, whose host, trained from a random start, stands in for a real mBART below
    pretrained  onto that one: `none`, `interpolated`, `stitched`, and `delta` of 300 steps in the donor
    post_ln     `exact`, and `none`, in BART, whose LayerNorms stand where the donor's do
    adapter     `lora`, of a donor with an adapter trained in 300 steps
    built       all others, into a host that is built
    leading     `none` and the two that lead, with `--seeds`

Prints the table, and with `--docs` puts it between the marks of a file. All of it takes hours; what is done stays in
the store, so the same command goes on. `--only` runs some of the parts, and `--only table` none: the table says what
has not been run. One thread a job.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.marks import put
from graftlm.errors import ReportError
from graftlm.report.collect import Arm, collect
from graftlm.report.figures import READS, figures_of
from graftlm.report.records import Run

LEADING = ("none", "standardised_denoised", "full")
BUILT = (
    *("full", "standardised_denoised", "denoised", "shuffled_denoised", "standardised", "distilled", "calibrated"),
    *("embeddings", "encoder_decoder", "shuffled", "naive", "rates"),
)
DONOR_STEPS = "pretrain.max_steps=300"


@dataclass(frozen=True)
class Part:
    """A sweep of `experiment=strategies`: its overrides, and how the table tells its arms."""

    words: tuple[str, ...]
    arms: tuple[str, ...]
    host: str = "built"
    seeds: bool = False  # whether `--seeds` counts; else one


def parts(stand_in: Path) -> dict[str, Part]:
    """The sweeps by their names, in the order in which they run."""
    onto = f"model.host.checkpoint={stand_in}"
    return {
        "host": Part((), ("none", "denoising")),
        "pretrained": Part((onto,), ("none", "interpolated", "stitched"), "stand-in"),
        "delta": Part((onto, DONOR_STEPS), ("delta",), "stand-in"),
        "post_ln": Part(("model.host.architecture=bart",), ("none", "exact"), "BART"),
        "adapter": Part((DONOR_STEPS,), ("lora",)),
        "built": Part((), BUILT),
        "leading": Part((), LEADING, seeds=True),
    }


def main() -> int:
    options = _options()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stand_in = folder / "stand_in"
    failed = []
    known = parts(stand_in)
    for name, part in known.items():
        if options.only and name not in options.only:
            continue
        if _sweep(folder, name, part, options):
            failed.append(name)
        elif name == "host":
            _link(stand_in, folder / "sweeps" / name)
    shown = table(folder, known)
    print(shown)
    if options.docs:
        put(options.docs, "strategies", shown)
    for name in failed:
        print(f"not all jobs of {name} ended well", file=sys.stderr)
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
    parser.add_argument("--seeds", type=int, default=3, help="of the leading arms")
    parser.add_argument("--only", nargs="+", metavar="SWEEP", help="some of the parts above; `table` runs none")
    return parser.parse_args()


def _sweep(folder: Path, name: str, part: Part, options: argparse.Namespace) -> int:
    """Runs a part; what an earlier call finished is reused."""
    texts = options.texts.resolve()
    files = {
        split: ",".join(str(texts / f"{lang}.{split}.jsonl") for lang in ("de", "fr"))
        for split in ("train", "validation", "test")
    }
    seeds = ",".join(map(str, range(1, (options.seeds if part.seeds else 1) + 1)))
    words = [
        *("experiment=strategies", "data=files", "data.columns.source_lang=lang", "logger=none", "trainer.threads=1"),
        *(f"data.{split}=[{paths}]" for split, paths in files.items()),
        *(f"transfer={','.join(part.arms)}", f"finetune.seed={seeds}", f"store.dir={folder / 'store'}"),
        *part.words,
    ]
    if options.workers > 1:
        words += ["launch=joblib", f"launch.workers={options.workers}", "launch.cores=1"]
    print(f"-- {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "graftlm", "run", "-m", *words]
    own = folder / "sweeps" / name
    own.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command, cwd=own, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def _link(stand_in: Path, sweep: Path) -> None:
    """A short way to the host of the job with `denoising`, which lies in the store under its key."""
    jobs = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sweep.glob("multirun/*/*/job.json")]
    job, record = next(item for item in jobs if item[1]["choices"]["transfer"] == "denoising")
    made = next((job.parent / stage["path"]).resolve() for stage in record["stages"] if stage["stage"] == "graft")
    stand_in.unlink(missing_ok=True)
    stand_in.symlink_to(made / "model")


HEADER = (
    *("arm", "host", "seeds", "CKA, cosine", "first validation loss", "last", "test loss", "gap: first → last"),
    *(f"gap of {READS} after", "ROUGE-L", "donor + graft + fine-tuning"),
)


def table(folder: Path, known: Mapping[str, Part]) -> str:
    """Markdown: an arm a row, means over its seeds, the best test loss first; then what has not been run."""
    rows: list[tuple[float, list[str]]] = []
    missing = []
    for host, names in _by_host(known).items():
        found = _arms([folder / "sweeps" / name for name in names])
        for arm in dict.fromkeys(arm for name in names for arm in known[name].arms):
            if arm in found:
                rows.append(_row(found[arm], host))
            else:
                missing.append(f"`{arm}` ({host})")
    lines = [HEADER, ("---",) * len(HEADER), *(row for _, row in sorted(rows))]
    shown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return shown + (f"\n\nNot run: {', '.join(missing)}." if missing else "")


def _by_host(known: Mapping[str, Part]) -> dict[str, list[str]]:
    """The parts of each host: what stands in several of them is one arm."""
    found: dict[str, list[str]] = {}
    for name, part in known.items():
        found.setdefault(part.host, []).append(name)
    return found


def _arms(sweeps: list[Path]) -> dict[str, Arm]:
    """The arms of these sweeps by their strategies; none where nothing has been run."""
    try:
        return {arm.transfer: arm for arm in collect([sweep for sweep in sweeps if sweep.is_dir()]).arms}
    except ReportError:
        return {}


def _row(arm: Arm, host: str) -> tuple[float, list[str]]:
    figures = [figures_of(run, None) for run in arm.runs]

    def mean(name: str) -> float:
        return fmean(math.nan if each.get(name) is None else each[name] for each in figures)

    test = mean("test_loss")
    return test, [
        f"`{arm.transfer}`" + (" (control)" if arm.control else ""),
        host,
        str(len(arm.runs)),
        _fidelity(arm.runs),
        f"{mean('first_loss'):.2f}",
        f"{mean('val_loss'):.2f}",
        f"{test:.2f}",
        f"{_gap(arm.runs, 0)} → {_gap(arm.runs, -1)}",
        _reads(figures),
        f"{mean('rougeL'):.1f}",
        " + ".join(_operations(arm.runs, cost) for cost in ("donor", "graft", "finetune")),
    ]


def _fidelity(runs: list[Run]) -> str:
    """Of the last layer after the graft; a strategy that reads no donor has none."""
    after = [((run.transfer or {}).get("fidelity") or {}).get("after") or {} for run in runs]
    if not all({"cka", "cosine"} <= found.keys() for found in after):
        return "–"
    return ", ".join(f"{fmean(found[name] for found in after):.2f}" for name in ("cka", "cosine"))


def _gap(runs: list[Run], place: int) -> str:
    return f"{fmean(float(run.curve['gap'][place]) for run in runs):.3f}"


def _reads(figures: list[dict[str, Any]]) -> str:
    """Steps until wrong sources cost it `READS`, of each seed where they differ."""
    told = [
        f"{each['read_steps']:.0f}" if each["read_steps"] is not None else f"> {each['read_steps_above']:.0f}"
        for each in figures
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
