"""How fast graftlm is beside what people would use instead, on this machine: one table.

    python -m benchmarks.speed [--quick] [--rounds N] [--json FILE] [--docs FILE] [CASE …]

A case is the name of a file in `cases/` or the path of one; without any, all run. Every side of a case works in a fresh
process pinned to a core, in turns, on the same batches from the same seed; a ratio is the median over the rounds,
memory the peak resident set of ours as a share of the peer's. `--quick` takes smaller shapes and fewer rounds: to see
that all runs, its ratios say little. What fails stands in the table as failed. Exit code 1 where something failed;
a goal that is missed is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.marks import put
from benchmarks.speed.case import CASES, load, names
from benchmarks.speed.machine import facts, foot
from benchmarks.speed.running import Outcome, pick_cores, run_case
from benchmarks.speed.table import Result, markdown, results


def main() -> int:
    options = _options()
    known = names()
    wanted = options.cases or known
    try:
        cases = {name: load(name) for name in wanted}
    except KeyError as missing:
        print(f"there is no case {missing}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    if options.list:
        for name, case in cases.items():
            print(name, *(f"  {row.measure}" for row in case.rows), sep="\n")
        return 0
    machine = facts(pick_cores(1, options.core))
    begun = time.monotonic()
    outcomes: dict[str, Outcome] = {}
    interrupted = False
    for name, case in cases.items():
        rounds = options.rounds or (case.quick_rounds if options.quick else case.rounds)
        outcomes[name] = Outcome(name, rounds)
        if interrupted:
            outcomes[name].failed = "interrupted"
            continue
        try:
            run_case(name, case, rounds, options.quick, pick_cores(case.cores, options.core), _say, outcomes[name])
        except KeyboardInterrupt:
            interrupted = True
    found = [result for name, case in cases.items() for result in results(case, outcomes[name])]
    minutes = (time.monotonic() - begun) / 60
    how = ", --quick: smaller shapes" if options.quick else ""
    each = ", ".join(f"{name} {outcome.seconds / 60:.1f}" for name, outcome in outcomes.items())
    shown = f"{markdown(found)}\n\n{foot(machine)}; {minutes:.1f} minutes ({each}){how}"
    print(shown)
    if options.docs:
        put(options.docs, "bench", shown)
    if options.json:
        _write(options.json, found, outcomes, machine, minutes, options.quick)
    return 130 if interrupted else int(any(result.failed for result in found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {CASES.name}/, or the path of a file")
    parser.add_argument("--quick", action="store_true", help="smaller shapes, fewer rounds")
    parser.add_argument("--rounds", type=int, help="rounds of every case, instead of its own number")
    parser.add_argument("--core", type=int, help="the first core to pin to (default: the last ones)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, and the machine")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="put the table between the marks in this file")
    parser.add_argument("--list", action="store_true", help="the cases and their measures")
    return parser.parse_args()


def _write(
    path: Path,
    found: list[Result],
    outcomes: dict[str, Outcome],
    machine: dict[str, object],
    minutes: float,
    quick: bool,
) -> None:
    content = {
        "machine": machine,
        "quick": quick,
        "minutes": round(minutes, 2),
        "rows": [result.to_json() for result in found],
        "cases": {
            name: {"seconds": round(outcome.seconds, 1), "failed": outcome.failed, "sides": outcome.sides}
            for name, outcome in outcomes.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
