"""Training steps of a sweep with the store against the same jobs each by itself, and with a search that prunes first.

    python benchmarks/sweep_sharing.py [FOLDER] [--pretrain 300] [--finetune 40]

5 strategies x 5 fine-tuning seeds x 4 mask ratios of pico models. Three figures, counted from what the jobs left, not
from what was planned:

    alone      every job trains its own donor (where it has one) and its own host: how it would be without a store
    store      the steps that were really trained for the same 100 jobs; then the same command again
    pruning    a search with pruning over the 20 choices at one seed, and the best and the baseline with the 5 seeds:
               another way to the same question, which never runs most of the 100 jobs to their end

The ratios depend on how long a donor is trained against a host, so both lengths are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STRATEGIES = ("none", "naive", "embeddings", "calibrated", "standardised")
RATIOS = ("r15", "r30", "r40", "span")
SEEDS = "1,2,3,4,5"


def run(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The records of the jobs of a sweep that was run now."""
    before = set(folder.glob("multirun/*/*/job.json"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graftlm", "run", "-m", "experiment=smoke", "trainer=cpu", *words]
    with (folder / "log").open("a") as log:
        code = subprocess.run(command, cwd=folder, stdout=log, stderr=log, env=environment).returncode
    if code:
        raise SystemExit(f"a job failed: see {folder / 'log'}")
    paths = sorted(set(folder.glob("multirun/*/*/job.json")) - before)
    return [{**json.loads(path.read_text()), "folder": str(path.parent)} for path in paths]


def steps_of(record: dict[str, Any], stage: dict[str, Any]) -> int:
    """Optimiser steps of a stage that a job used, whoever trained it."""
    cost = Path(record["folder"], stage["path"], "cost.json")
    return int(json.loads(cost.read_text())["steps"]) if stage["stage"] in ("pretrain", "finetune") else 0


def trained(records: list[dict[str, Any]]) -> int:
    """Steps that these jobs trained themselves; a pruned one counts up to where it ended."""
    total = 0
    for record in records:
        total += sum(steps_of(record, stage) for stage in record["stages"] if not stage["reused"])
        total += int(record.get("pruned_step") or 0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pretrain", type=int, default=300)
    parser.add_argument("--finetune", type=int, default=40)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="graftlm-sharing-"))
    folder.mkdir(parents=True, exist_ok=True)
    lengths = (f"pretrain.max_steps={options.pretrain}", f"finetune.max_steps={options.finetune}")
    # little to validate and to write: steps are counted here, not learnt from
    small = (
        "pretrain.val_interval=1000",
        "finetune.val_interval=10",
        "finetune.generate_pairs=1",
        "data.max_pairs=200",
    )
    grid = (f"transfer={','.join(STRATEGIES)}", f"mask={','.join(RATIOS)}", f"finetune.seed={SEEDS}")

    records = run(folder, *lengths, *small, *grid, "store.dir=shared")
    alone = sum(steps_of(record, stage) for record in records for stage in record["stages"])
    shared = trained(records)
    again = trained(run(folder, *lengths, *small, *grid, "store.dir=shared"))
    print(f"{len(records)} jobs; donors of {options.pretrain} steps, hosts of {options.finetune}")
    print(f"alone      {alone:>7} steps")
    print(f"store      {shared:>7} steps   {alone / shared:.1f} times fewer; the same command again: {again}")

    space = (f"transfer={','.join(STRATEGIES)}", f"mask={','.join(RATIOS)}", "finetune.seed=1", "store.dir=searched")
    search = ("sweep=random", "search.trials=20", "search.pruner.kind=median", "search.pruner.startup_trials=3")
    trials = run(folder, *lengths, *small, *space, *search)
    best = min((record for record in trials if record["status"] == "done"), key=last_loss)
    picked = [f"{group}={best['choices'][group]}" for group in ("mask", "transfer")]
    rest = run(folder, *lengths, *small, *picked, f"finetune.seed={SEEDS}", "store.dir=searched")
    rest += run(folder, *lengths, *small, "transfer=none", f"finetune.seed={SEEDS}", "store.dir=searched")
    pruned = sum(record["status"] == "pruned" for record in trials)
    steps = trained(trials) + trained(rest)
    print(f"pruning    {steps:>7} steps   {alone / steps:.1f} times fewer; {pruned} of {len(trials)} trials pruned")


def last_loss(record: dict[str, Any]) -> float:
    """The last validation loss of a job."""
    path = next(stage["path"] for stage in record["stages"] if stage["stage"] == "finetune")
    lines = [json.loads(line) for line in Path(record["folder"], path, "metrics.jsonl").read_text().splitlines()]
    return float([line["val/loss"] for line in lines if "val/loss" in line][-1])


if __name__ == "__main__":
    main()
