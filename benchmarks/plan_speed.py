"""What `graftlm plan` costs on a sweep of 100 jobs whose stages are all in the store: processor seconds of the process.

    python benchmarks/plan_speed.py [--runs 5] [--data docstrings]

The artifacts are stood in for by empty ones under the right keys, each with as many files as a real one has: planning
reads markers and looks at files. Prints, for a first plan (Hydra composes), and for later ones: user + system time, by
`getrusage` of the finished child, and the wall clock. On a busy machine the wall clock says little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# as a real artifact of each stage has
FILES = {"corpus": 12, "pretrain": 10, "graft": 10, "finetune": 11, "evaluate": 2}


def sweep(store: Path, data: str) -> list[str]:
    """The words of a sweep of 100 jobs: 5 strategies, 4 mask ratios, 5 seeds."""
    return [
        "-m",
        "model=pico",
        f"data={data}",
        f"store.dir={store}",
        "transfer=none,naive,embeddings,calibrated,encoder_decoder",
        "mask.ratio=0.15,0.2,0.3,0.4",
        "finetune.seed=1,2,3,4,5",
    ]


def fill(store: Path, words: list[str]) -> tuple[int, int]:
    """Artifacts of all stages of a sweep, with small files; how many jobs and artifacts there are."""
    from graftlm.commands.words import parse_words
    from graftlm.compose import compose_jobs
    from graftlm.plan import Fingerprints, stage_keys
    from graftlm.store import Store

    jobs = compose_jobs(parse_words(words))
    fingerprints = Fingerprints()
    found = {key.key: key for job in jobs for key in stage_keys(job.settings, fingerprints)}
    for key in found.values():

        def build(work: Path, count: int = FILES[key.stage]) -> None:
            for number in range(count):
                (work / f"file{number}.json").write_text("{}")

        Store(store).obtain(key, build)
    return len(jobs), len(found)


def measure(words: list[str]) -> tuple[float, float, str]:
    """Processor and wall seconds of one `graftlm plan`, and its last line."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "graftlm", "plan", *words], capture_output=True, text=True, check=True, env=os.environ
    )
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return processor, ended - begun, result.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="later plans to measure")
    parser.add_argument("--data", default="docstrings", help="the data group")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRAFTLM_CACHE"] = str(Path(folder) / "cache")
        words = sweep(Path(folder) / "store", options.data)
        first, wall, line = measure(words)
        print(f"first plan, nothing stored: {first:.2f} s of processor, {wall:.2f} s by the clock; {line[:60]}")
        jobs, artifacts = fill(Path(folder) / "store", words)
        print(f"{jobs} jobs, {artifacts} artifacts")
        later = [measure(words) for _ in range(options.runs)]
        assert all(line.startswith("stages: ") and "run" not in line for _, _, line in later), later
        spent = [processor for processor, _, _ in later]
        wall = statistics.median(wall for _, wall, _ in later)
        print(
            f"later plans, all stored: {statistics.median(spent):.3f} s of processor (median of {len(spent)}; "
            f"{min(spent):.3f} to {max(spent):.3f}), {wall:.2f} s by the clock"
        )


if __name__ == "__main__":
    main()
