"""How long the report of 200 runs takes to make, and its page to open in headless Chromium.

    python benchmarks/report_speed.py [--runs 200] [--examples 200] [--profile] [--keep DIR]

The runs are made up, in the files and the format that real ones leave: learning curves of 61 validations, every test
row with its losses, transfer records of a host of 12 + 3 layers. Prints for `graftlm report` the wall clock and the
processor's seconds (on a busy machine only the second says much), and for the page the load event and the moment when
its first plot is drawn, both from the start of the navigation, and the processor's seconds of its main thread; the
fastest of three openings.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "self_attn_layer_norm"]
CROSS = [name.replace("self_attn", "encoder_attn") for name in LINES]
FFN = ["fc1", "fc2", "final_layer_norm"]


def tensors(grafted: bool) -> list[dict[str, Any]]:
    """The tensors of a host of 12 encoder and 3 decoder layers, as a calibrated graft reports them."""
    rows = []
    for side, layers, parts in (("encoder", 12, [*LINES, *FFN]), ("decoder", 3, [*LINES, *CROSS, *FFN])):
        for layer in range(layers):
            for part in parts:
                for kind in ("weight", "bias"):
                    done = grafted and side == "encoder"
                    rows.append(
                        {
                            "name": f"model.{side}.layers.{layer}.{part}.{kind}",
                            "shape": [384, 384] if kind == "weight" else [384],
                            "status": ("calibrated" if "out_proj" in part or part == "fc2" else "copied")
                            if done
                            else "initialised",
                            "source": f"roberta.encoder.layer.{layer}.{part}.{kind}" if done else None,
                            "step": "calibrate" if done else None,
                            "note": "ridge, 60,000 tokens" if done and part == "fc2" else "",
                        }
                    )
    return rows


def write(folder: Path, runs: int, examples: int) -> Path:
    """Five seeds of as many arms as make up the runs."""
    sys.path.insert(0, str(ROOT / "tests" / "report"))
    from conftest import FakeArm, FakeSweep

    sweep = FakeSweep(folder, steps=1200, examples=examples)
    sweep.validations = 60
    seeds = 5
    arms = [FakeArm("none")]
    arms += [FakeArm("naive", control=True, early=0.4, fidelity=0.1), FakeArm("shuffled", control=True, early=0.2)]
    arms += [FakeArm(f"graft{n}", early=-0.03 * n, late=-0.01 * n, fidelity=0.9) for n in range(runs // seeds - 3)]
    sweep.sweep(arms, seeds=range(1, seeds + 1))
    for path in folder.glob("store/*/*/transfer.json"):
        record = json.loads(path.read_text())
        record["host_tensors"] = tensors(record["strategy"] != "none")
        path.write_text(json.dumps(record))
    return folder / "sweep"


def opened(page: Path) -> tuple[float, float, float]:
    """Seconds to the load event, to the first plot, and of processor on the page's main thread until then."""
    from playwright.sync_api import sync_playwright

    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    times: list[tuple[float, float, float]] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=where, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            inside = tab.context.new_cdp_session(tab)
            inside.send("Performance.enable", {"timeDomain": "threadTicks"})
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
            metrics = {item["name"]: item["value"] for item in inside.send("Performance.getMetrics")["metrics"]}
            load, plot = tab.evaluate(
                "[performance.getEntriesByType('navigation')[0].loadEventEnd,"
                " performance.getEntriesByName('first-plot')[0].startTime]"
            )
            times.append((plot / 1000, load / 1000, metrics["TaskDuration"]))
            tab.close()
        browser.close()
    plot, load, spent = min(times)
    return load, plot, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--profile", action="store_true", help="where the time of the report goes")
    parser.add_argument("--keep", type=Path, help="write the runs and the report into this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        sweep = write(folder, options.runs, options.examples)
        if options.profile:
            from graftlm.report import build_report

            profile = cProfile.Profile()
            profile.runcall(build_report, [sweep], folder / "report")
            pstats.Stats(profile).sort_stats("cumulative").print_stats(35)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "graftlm", "report", str(sweep), "--out", str(folder / "report")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        page = folder / "report" / "report.html"
        print(f"{options.runs} runs of {options.examples} test rows, page of {page.stat().st_size / 1e6:.1f} MB")
        print(f"made in {wall:.1f} s ({spent:.1f} s of processor)")
        load, plot, spent = opened(page)
        print(f"opened: load event after {load:.2f} s, first plot after {plot:.2f} s ({spent:.2f} s of processor)")


if __name__ == "__main__":
    main()
