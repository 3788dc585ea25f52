"""Kills a sweep (-9) at random moments, gives the same command again until it ends, and compares with a calm run.

    python benchmarks/soak_kills.py --kills 50          what `make soak` runs
    python benchmarks/soak_kills.py --kills 5 --seed 7  the same moments again, as far as the machine allows

After each kill, and at the end: an artifact that was there is the very same one (nothing finished is trained again). At
the end: every file of the store has the bits of the calm run, times apart; nothing else is left in it; and the command
given once more trains nothing. A sweep that ended is followed by another in a new folder, until all kills are spent.
The processes are real ones, forked with the libraries loaded, so that the moments fall into the work and not into the
loading. A moment is so much processor time, not a time of the clock: on a busy machine they come as far as on an idle
one. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

LONG = 1800.0  # seconds after which a process is taken to hang
WORDS = [
    "run", "-m", "experiment=smoke", "trainer=cpu", "trainer.threads=1", "trainer.accumulate=2",
    "data.max_pairs=150", "data.max_texts=300", "model.vocab_size=500",
    "pretrain.max_steps=20", "pretrain.checkpoint_interval=3", "pretrain.batch_tokens=512",
    "finetune.max_steps=15", "finetune.checkpoint_interval=2", "finetune.batch_tokens=512", "finetune.val_pairs=16",
    "finetune.generate_pairs=2", "evaluate.max_pairs=8",
]  # fmt: skip

# of the long form: a graft that is killed in its own trainings
TRAINED = """
name: trained
steps:
  - step: embeddings
  - {step: encoder, tokens: 3000}
  - {step: distill, steps: 12}
  - {step: denoise, steps: 24, encoder_lr: 0.5, batch_tokens: 512}
control: true
"""


def start(folder: Path, words: list[str]) -> int:
    """The command in a process group of its own; its id."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from graftlm.cli import main

        code = main(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def spent(child: int) -> float:
    """Seconds of processor time that a process has had, its threads included."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it is gone
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait(child: int, seconds: float = LONG) -> tuple[int, float] | None:
    """Its exit code and processor time, or None once it has had so many seconds of that and runs still."""
    deadline = time.monotonic() + LONG
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if spent(child) >= seconds:
            return None
        if time.monotonic() >= deadline:
            os.killpg(child, signal.SIGKILL)
            raise TimeoutError(f"process {child} runs since {LONG:.0f} s: it hangs")
        time.sleep(0.002)


def artifacts(folder: Path) -> dict[str, tuple[int, int]]:
    """Each finished artifact with what changes if it is made again."""
    return {
        str(marker.parent.relative_to(folder)): (marker.stat().st_ino, marker.stat().st_mtime_ns)
        for marker in folder.glob("multirun/store/*/*/artifact.json")
        if not marker.parent.name.endswith(".partial")
    }


def under_way(folder: Path) -> str:
    """What a kill has cut off."""
    found = []
    for partial in sorted(folder.glob("multirun/store/*/*.partial")):
        metrics = partial / "metrics.jsonl"
        steps = metrics.read_text().count("\n") if metrics.exists() else 0
        kept = [f"{steps} lines"] if steps else [path.stem for path in partial.glob("scratch/*.pt")]
        found.append(f"{partial.parent.name} ({', '.join(kept)})" if kept else partial.parent.name)
    return ", ".join(found) or "nothing"


def timeless(value: Any) -> Any:
    """JSON without what a clock told."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if "seconds" not in name}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def differences(calm: Path, disturbed: Path) -> list[str]:
    """Files of the two stores that are not the same."""
    places = [folder / "multirun" / "store" for folder in (calm, disturbed)]
    names = [{str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} for place in places]
    found = [f"only in one: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if not name.endswith("artifact.json") and content(places[0] / name) != content(places[1] / name):
            found.append(f"differs: {name}")
    return found


def rerun(folder: Path, words: list[str]) -> list[str]:
    """The finished command once more: what is wrong with that; says how long it took."""
    before, begun = artifacts(folder), time.monotonic()
    ended = wait(start(folder, words))
    seconds = time.monotonic() - begun
    (newest,) = sorted(folder.glob("multirun/2*"))[-1:]
    records = [json.loads(path.read_text()) for path in newest.glob("*/job.json")]
    reused = sum(all(stage["reused"] for stage in record["stages"]) for record in records)
    print(
        f"  once more: {reused} of {len(records)} jobs reused in {seconds:.2f} s ({seconds / len(records):.2f} s a job)"
    )
    return (
        []
        if ended and ended[0] == 0 and reused == len(records) and artifacts(folder) == before
        else ["something was made again"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--minutes", type=float, default=35, help="no sweep is begun, and nothing killed, after so many"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the moments (default: another each time)")
    parser.add_argument("--workers", type=int, default=0, help="of the data loaders")
    parser.add_argument("--short", action="store_true", help="a smaller sweep, for the test suite")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for everything, kept")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    draw = random.Random(seed)
    root = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    sweep = ["transfer=none,embeddings", "finetune.seed=1"]
    if not options.short:
        folder = root.absolute() / "groups" / "transfer"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trained.yaml").write_text(TRAINED, encoding="utf-8")
        sweep = ["--config-dir", str(folder.parent), "transfer=none,embeddings,trained", "finetune.seed=1,2"]
    words = [*WORDS, *sweep, f"trainer.num_workers={options.workers}"]
    load()
    begun = time.monotonic()
    child = start(root / "calm", words)
    ended: tuple[int, float] | None = None
    while ended is None and not list((root / "calm").glob("multirun/store/*/*.partial")):
        ended = wait(child, 0.0)
    work = spent(child)  # when the work began
    ended = ended or wait(child)
    if ended is None or ended[0] != 0:
        print((root / "calm" / "log").read_text(), f"the calm run ended with {ended and ended[0]}")
        return 1
    whole = ended[1]
    print(
        f"calm: {len(artifacts(root / 'calm'))} artifacts in {time.monotonic() - begun:.1f} s, of processor time "
        f"{whole:.1f} s, work from {work:.1f} s",
        flush=True,
    )
    wrong = [f"calm: {line}" for line in rerun(root / "calm", words)]
    kills = sweeps = 0

    def going_on() -> bool:
        return kills < options.kills and time.monotonic() - begun < 60 * options.minutes

    while going_on() and not wrong:
        sweeps += 1
        folder = root / f"sweep{sweeps}"
        there: dict[str, tuple[int, int]] = {}
        here = 0
        while True:
            # one in five while it starts, the others in the midst of the work; that goes on where it was cut off, so
            # moments of the first part alone come to all of it, and a sweep takes several
            moment = draw.uniform(0, work) if draw.random() < 0.2 else draw.uniform(work, work + 0.4 * (whole - work))
            child = start(folder, words)
            ended = wait(child, moment if going_on() else LONG)
            if ended is None:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills, here = kills + 1, here + 1
                print(f"  kill {kills} after {moment:.2f} s: {under_way(folder)}", flush=True)
            found = artifacts(folder)
            wrong += [f"sweep {sweeps}: made again: {name}" for name in there if found.get(name) != there[name]]
            there = found
            if ended is not None:
                break
        if ended[0] != 0:
            wrong.append(f"sweep {sweeps} ended with {ended[0]}: {(folder / 'log').read_text()[-2000:]}")
            break
        wrong += [f"sweep {sweeps}: {line}" for line in differences(root / "calm", folder)]
        wrong += [f"sweep {sweeps}: {line}" for line in rerun(folder, words)]
        print(f"sweep {sweeps}: {here} kills, {'as the calm run' if not wrong else 'WRONG'}", flush=True)
    for line in wrong:
        print(line)
    took = time.monotonic() - begun
    print(
        f"seed {seed}: {kills} kills of {sweeps} sweeps in {took:.0f} s: {'WRONG' if wrong else 'identical to the bit'}"
    )
    if options.keep is None and not wrong:
        shutil.rmtree(root)
    return 1 if wrong else 0


def load() -> None:
    """What every process would load first."""
    import importlib

    import torch

    from graftlm.transfer import halfway

    halfway.EVERY = 0.1  # seconds: a kill finds something to go on from
    torch.set_num_threads(1)
    for name in (
        "hydra", "pytorch_lightning", "sacrebleu", "rouge_score.rouge_scorer", "graftlm.report",
        "transformers.models.mbart.modeling_mbart",
        "transformers.models.xlm_roberta.modeling_xlm_roberta", "graftlm.sweep", "graftlm.stages.corpus",
        "graftlm.stages.pretrain", "graftlm.stages.graft", "graftlm.stages.finetune",
        "graftlm.stages.evaluate",
    ):  # fmt: skip
        importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
