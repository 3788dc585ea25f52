"""Records that jobs left, damaged in any way: a report, an export or a list of a store tells, and never breaks."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from examples import JSON, examples
from hypothesis import given
from hypothesis import strategies as st

from graftlm.errors import GraftlmError
from graftlm.export.source import find
from graftlm.inventory import described, take
from graftlm.record import RECORD, Outcome, read_record
from graftlm.report.collect import collect
from graftlm.report.compare import compare
from graftlm.report.markdown import to_markdown
from graftlm.search.summary import SUMMARY
from graftlm.store import MARKER
from graftlm.sweep import describe

STAGES = ("corpus", "pretrain", "graft", "finetune", "evaluate")
CURVE = [{"step": step, "val/loss": 3 - step / 10, "tokens": step, "seconds": step} for step in range(5)]
SCORES = {"all": {"rougeL": 20.0, "loss": 2.0}, "languages": {"de_DE": {"rougeL": 20.0}}}
# the place of a value in a record, and anything that may stand there instead
NAMES = ["status", "settings", "stages", "choices", "overrides", "seeds", "error", "seconds", "command", "version"]
INNER = [
    "transfer",
    "finetune",
    "report",
    "search",
    "data",
    "name",
    "steps",
    "seed",
    "primary",
    "contrasts",
    "key",
    "path",
]


def record(number: int) -> dict[str, Any]:
    return {
        "version": 1,
        "status": "done",
        "error": None,
        "seconds": 2.0,
        "command": "graftlm run",
        "choices": {"transfer": "naive" if number else "none"},
        "overrides": [f"finetune.seed={number}"],
        "seeds": {"pretrain": 1, "finetune": number},
        "settings": {
            "transfer": {"name": "naive" if number else "none", "steps": [{"step": "naive"}] * number},
            "finetune": {"seed": 1},
            "report": {"primary": "auc", "contrasts": []},
            "data": {"task": "summarization"},
        },
        "stages": [
            {"stage": stage, "key": f"{stage}{number}", "path": f"../store/{stage}/{stage}{number}"} for stage in STAGES
        ],
    }


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")


@st.composite
def damages(draw: Any) -> list[tuple[str, list[str], Any]]:
    files = [RECORD, MARKER, "metrics.jsonl", "scores.json", "examples.jsonl", "cost.json", "transfer.json", SUMMARY]
    one = st.tuples(
        st.sampled_from(files),
        st.lists(st.sampled_from([*NAMES, *INNER, "all", "files", "inputs", "fidelity"]), max_size=3),
        st.one_of(JSON, st.just("cut")),
    )
    found: list[tuple[str, list[str], Any]] = draw(st.lists(one, min_size=1, max_size=4))
    return found


def damaged(value: Any, path: list[str], odd: Any) -> Any:
    if not path:
        return odd
    node = value if isinstance(value, dict) else {}
    return {**node, path[0]: damaged(node.get(path[0]), path[1:], odd)}


@examples(60)
@given(found=damages())
def test_any_damage(tmp_path_factory: Any, found: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    wanted: dict[Path, Any] = {}
    for number in (0, 1):
        wanted[folder / str(number) / RECORD] = record(number)
        for stage in STAGES:
            place = folder / "store" / stage / f"{stage}{number}"
            wanted[place / MARKER] = {
                "stage": stage,
                "settings": {},
                "inputs": {"corpus": f"corpus{number}"},
                "files": {},
            }
            wanted[place / "cost.json"] = {"seconds": 1.0, "flops": 1e9}
        at = folder / "store"
        wanted[at / "finetune" / f"finetune{number}" / "metrics.jsonl"] = "\n".join(map(json.dumps, CURVE))
        wanted[at / "graft" / f"graft{number}" / "transfer.json"] = {
            "strategy": "naive",
            "counts": {},
            "control": False,
        }
        wanted[at / "evaluate" / f"evaluate{number}" / "scores.json"] = SCORES
        wanted[at / "evaluate" / f"evaluate{number}" / "examples.jsonl"] = json.dumps({"index": 0, "loss": 2.0})
    wanted[folder / SUMMARY] = {"trials": [{"job": "0"}], "best": []}
    for name, path, odd in found:
        for file in [file for file in wanted if file.name == name][:2]:
            before = wanted[file]
            if odd == "cut":
                text = before if isinstance(before, str) else json.dumps(before)
                wanted[file] = text[: len(text) // 2]
            elif isinstance(before, str):
                wanted[file] = before + "\n" + json.dumps(damaged({}, path, odd))
            else:
                wanted[file] = damaged(before, path, odd)
    for file, value in wanted.items():
        write(file, value)
    with contextlib.suppress(GraftlmError):
        report = compare(collect([folder]))
        json.dumps(report.to_json(), allow_nan=False)
        to_markdown(report)
    for number in (0, 1):
        assert describe(Outcome.of(read_record(folder / str(number) / RECORD)))
        with contextlib.suppress(GraftlmError):
            find(folder / str(number), folder / "store")
    items = take(folder / "store", [folder])
    by_key = {item.key: item for item in items}
    for item in items:
        assert described(item, by_key) is not None
        assert item.used >= 0
