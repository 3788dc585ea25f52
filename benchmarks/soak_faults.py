"""Faults and races over a real sweep: after each, the same command leads to the very store of an undisturbed run.

    python benchmarks/soak_faults.py --minutes 20             what `make soak` runs
    python benchmarks/soak_faults.py --rounds 5 --seed 7 --short
    python benchmarks/soak_faults.py --only full --rounds 2   disk full: needs the right to mount (root)

A round is one of these, at moments and places that chance chooses:
- race     several processes give the command at once, in one folder; one may be killed, others go on with its work
- full     the store's disk is full: it ends with a line that says so; with more room the same command goes on
- flip     a byte of a finished store is another: the command finds it and makes anew what is damaged
- lost     an artifact, or a file of one, is gone
- vanish   an artifact is deleted in the midst of a run, which may fail; the command once more ends well
- stop     SIGTERM or SIGINT: it saves and ends

After each the same command is given until nothing is left to do. Then every file of the store has the bits of the calm
run, times apart; nothing else is left in it; the command given once more makes nothing; no traceback was told, and
nothing that is a mistake of ours. Needs Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from soak_kills import LONG, WORDS, artifacts, differences, load, rerun, start, wait

RIGHT = {
    "race": (0, -signal.SIGKILL),
    "full": (1, 2),
    "flip": (0,),
    "lost": (0,),
    "vanish": (0, 1, 2),
    "stop": (0, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM),  # the last: before any job began
}


class Soak:
    """One sweep's command, what it comes to if nothing disturbs it, and the rounds."""

    def __init__(self, root: Path, words: list[str], draw: random.Random):
        self.root, self.words, self.draw = root, words, draw
        self.calm = root / "calm"
        self.whole = 0.0  # seconds of processor time of the calm run

    def run_calm(self) -> list[str]:
        code, self.whole = self.end(start(self.calm, self.words))
        return [] if code == 0 else [f"the calm run ended with {code}: {self.said(self.calm)}"]

    def end(self, child: int, seconds: float = LONG, send: signal.Signals | None = None) -> tuple[int, float]:
        """Wait for its end; after so much processor time it gets a signal."""
        ended = wait(child, seconds)
        if ended is None and send is not None:
            os.killpg(child, send)
            ended = wait(child)
        assert ended is not None
        return ended

    def said(self, folder: Path) -> str:
        return (folder / "log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def moment(self) -> float:
        return self.draw.uniform(0.05, 0.9) * self.whole

    def copy(self, folder: Path) -> Path:
        """The calm folder once more, as if it had been run there; one of its artifacts."""
        shutil.copytree(self.calm, folder, symlinks=True)
        (folder / "log").unlink()
        return folder / self.draw.choice(sorted(artifacts(folder)))

    # --- rounds: the exit codes of what was disturbed, and words on what was done -----------------------------------

    def race(self, folder: Path) -> tuple[list[int], str]:
        children = [start(folder, self.words) for _ in range(self.draw.choice((2, 3, 4)))]
        killed = self.draw.random() < 0.7
        codes = []
        if killed:
            codes.append(self.end(children[0], self.moment() / len(children), signal.SIGKILL)[0])
        codes += [self.end(child)[0] for child in children[killed:]]
        return codes, f"{len(children)} processes" + (", one killed" if killed and codes[0] else "")

    def full(self, folder: Path) -> tuple[list[int], str]:
        store = folder / "multirun" / "store"
        store.mkdir(parents=True)
        size = sum(path.stat().st_size for path in (self.calm / "multirun" / "store").rglob("*") if path.is_file())
        room = max(40_000, int(self.draw.uniform(0.02, 0.8) * size))
        mount("-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(store))
        codes = [self.end(start(folder, self.words))[0]]
        told = self.said(folder)
        if "no space left on device" not in " ".join(told.lower().split()):
            raise WrongError(f"the disk of {room} bytes was full, and it was not told: {told}")
        mount("-o", f"remount,size={20 * size}", str(store))
        return codes, f"{room / 1e6:.2f} of {size / 1e6:.2f} MB"

    def flip(self, folder: Path) -> tuple[list[int], str]:
        artifact = self.copy(folder)
        file = self.draw.choice(sorted(path for path in artifact.rglob("*") if path.is_file() and path.stat().st_size))
        content = bytearray(file.read_bytes())
        place = self.draw.randrange(len(content))
        content[place] ^= 1 << self.draw.randrange(8)
        status = file.stat()
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk does it: no time tells
        code, _ = self.end(start(folder, self.words))
        return [code], f"byte {place} of {file.relative_to(folder / 'multirun' / 'store')}"

    def lost(self, folder: Path) -> tuple[list[int], str]:
        artifact = self.copy(folder)
        gone = artifact
        if self.draw.random() < 0.6:
            gone = self.draw.choice(sorted(path for path in artifact.rglob("*") if path.is_file()))
            gone.unlink()
        else:
            shutil.rmtree(artifact)
        code, _ = self.end(start(folder, self.words))
        return [code], str(gone.relative_to(folder / "multirun" / "store"))

    def vanish(self, folder: Path) -> tuple[list[int], str]:
        child = start(folder, self.words)
        ended, gone = wait(child, self.moment()), "nothing"
        if ended is None:
            made = sorted(artifacts(folder))
            if made:
                gone = self.draw.choice(made)
                shutil.rmtree(folder / gone, ignore_errors=True)
            ended = self.end(child)
        return [ended[0]], gone.removeprefix("multirun/store/")

    def stop(self, folder: Path) -> tuple[list[int], str]:
        send = self.draw.choice((signal.SIGTERM, signal.SIGINT))
        codes = [
            self.end(start(folder, self.words), self.moment(), send)[0] for _ in range(self.draw.choice((1, 2, 3)))
        ]
        return codes, f"{len(codes)} × {send.name}"

    # --- what holds after each ---------------------------------------------------------------------------------------

    def round(self, kind: str, folder: Path) -> list[str]:
        make: Callable[[Path], tuple[list[int], str]] = getattr(self, kind)
        begun = time.monotonic()
        try:
            codes, what = make(folder)
            wrong = [f"ended with {code}: {self.said(folder)}" for code in codes if code not in RIGHT[kind]]
            code = codes[-1] or None
            for _ in range(3):
                if code != 0:
                    code, _ = self.end(start(folder, self.words))
            if code != 0:
                wrong.append(f"the same command ended with {code}: {self.said(folder)}")
            else:
                wrong += differences(self.calm, folder)
                wrong += rerun(folder, self.words)
            told = (folder / "log").read_text(encoding="utf-8", errors="replace")
            wrong += [f"{name!r} was told" for name in ("Traceback", "mistake of graftlm") if name in told]
        except WrongError as error:
            wrong, what, codes = [str(error)], "", []
        finally:
            if os.path.ismount(folder / "multirun" / "store"):
                subprocess.run(["umount", str(folder / "multirun" / "store")], check=True)
        if not wrong:
            shutil.rmtree(folder)
        took = time.monotonic() - begun
        print(
            f"{kind}: {what}; ended with {codes}; {'as the calm run' if not wrong else 'WRONG'} ({took:.0f} s)",
            flush=True,
        )
        return [f"{folder.name} ({kind}): {line}" for line in wrong]


class WrongError(Exception):
    """A promise was not kept."""


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def may_mount(folder: Path) -> bool:
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=65536", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="no round is begun after so many")
    parser.add_argument("--rounds", type=int, default=10**6, help="at most so many")
    parser.add_argument("--only", choices=RIGHT, action="append", help="kinds of rounds (default: all)")
    parser.add_argument("--seed", type=int, default=None, help="of moments and places (default: another each time)")
    parser.add_argument("--short", action="store_true", help="a smaller sweep")
    parser.add_argument(
        "--keep", type=Path, default=None, help="a folder for everything; what went wrong is kept there"
    )
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    begun = time.monotonic()
    root = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    root.mkdir(parents=True, exist_ok=True)
    kinds = options.only or list(RIGHT)
    if "full" in kinds and not may_mount(root / "try"):
        print("full is left out: there is no right to mount here")
        kinds.remove("full")
    load()
    sweep = ["transfer=none,embeddings", f"finetune.seed={'1' if options.short else '1,2'}"]
    soak = Soak(root, [*WORDS, *sweep, "trainer.num_workers=0"], random.Random(seed))
    wrong = soak.run_calm()
    print(f"seed {seed}; calm: {soak.whole:.1f} s of processor time", flush=True)
    done: Counter[str] = Counter()
    while not wrong and sum(done.values()) < options.rounds and time.monotonic() - begun < 60 * options.minutes:
        kind = kinds[sum(done.values()) % len(kinds)]
        done[kind] += 1
        wrong += soak.round(kind, root / f"round{sum(done.values())}")
    for line in wrong:
        print(line)
    told = ", ".join(f"{count} {kind}" for kind, count in done.items())
    took = time.monotonic() - begun
    print(f"seed {seed}: {told} in {took:.0f} s: {f'WRONG, see {root}' if wrong else 'identical to the bit'}")
    if options.keep is None and not wrong:
        shutil.rmtree(root)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
