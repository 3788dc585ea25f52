"""What the tables of the page are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from graftlm.report.collect import Arm, Collection
from graftlm.report.compare import ArmReport
from graftlm.report.tensormap import tensor_map


def grafts(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    rows = []
    for arm in arms:
        record = next((run.transfer for run in arm.runs if run.transfer), None)
        if not record:
            continue
        counts, fidelity = record["counts"], record["fidelity"] or {}
        tensors = record["host_tensors"]
        unused = [item for item in record["donor_tensors"] if item["status"] == "unused"]
        rows.append(
            {
                "name": arm.name,
                "host": counts.get("host", {}),
                "parameters": counts.get("host_parameters", {}),
                "donor": counts.get("donor", {}),
                "before": fidelity.get("before", {}),
                "before_layers": fidelity.get("before_layers", {}),
                "after": fidelity.get("after", {}),
                "texts": fidelity.get("texts"),
                "tensors": tensors,
                "unused": unused,
                "map": tensor_map(tensors),
                "norms": fidelity.get("norms", []),
            }
        )
    return rows


def codes(arms: Sequence[ArmReport]) -> list[str]:
    codes = dict.fromkeys(code for arm in arms for code in arm.languages)
    return sorted(codes, key=lambda code: (code != "all", code))


def scores(arms: Sequence[ArmReport]) -> list[dict[str, Any]]:
    """The scores that any language has; with the lead-1 line where it is recorded."""
    found = []
    for name, label in {
        "rougeL": "ROUGE-L",
        "rouge1": "ROUGE-1",
        "rouge2": "ROUGE-2",
        "chrf": "chrF",
        "bleu": "BLEU",
    }.items():
        tables = [table for arm in arms for table in arm.languages.values()]
        if any(name in table for table in tables):
            found.append({"id": name, "label": label, "lead": any(f"lead1.{name}" in table for table in tables)})
    return found


def varying(collection: Collection) -> list[dict[str, Any]]:
    """A row a setting that differs between arms: whether it is part of the comparison, and its value in each arm."""
    return [
        {
            "setting": key,
            "expected": key.startswith(("transfer.", "mask.", "pretrain.")),
            "values": [_setting(arm.identity.get(key, "")) for arm in collection.arms],
        }
        for key in collection.varying
    ]


def _setting(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else text[:297] + "..."
