"""A stage's artifact as trackers know it: its name, the small files that tell what it is, its cost with all before it.

The name is the store's key, which stands for the content: whoever builds on an artifact can name it without a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftlm.store import MARKER

# what is told of each stage besides the model: small, and the same whenever it is read
_RECORDS = {
    "corpus": ("summary.json",),
    "pretrain": ("cost.json", "metrics.jsonl"),
    "graft": ("cost.json", "transfer.json"),
    "finetune": ("cost.json", "transfer.json", "metrics.jsonl"),
    "evaluate": ("cost.json", "scores.json"),
}
TYPES = {"corpus": "corpus", "pretrain": "donor", "graft": "graft", "finetune": "host", "evaluate": "evaluation"}
_MODELS = ("model", "adapter")


@dataclass(frozen=True)
class Produced:
    """An artifact of the store. `folder` is where its files are now, `final` where they will be."""

    stage: str
    key: str
    folder: Path
    final: Path
    records: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in a tracker: stage and key."""
        return f"{self.stage}-{self.key}"

    @property
    def type(self) -> str:
        return TYPES.get(self.stage, self.stage)

    def models(self) -> Iterator[tuple[str, Path]]:
        """The files of the model folders, by their names in the artifact."""
        for name in _MODELS:
            for path in sorted((self.folder / name).rglob("*")):
                if path.is_file():
                    yield path.relative_to(self.folder).as_posix(), path


def of_folder(folder: Path) -> Produced:
    """The artifact in `<store>/<stage>/<key>`, or in the folder `<key>….partial` in which it is being built."""
    stage, key = folder.parent.name, folder.name.partition(".")[0]
    records = {name: folder / name for name in _RECORDS.get(stage, ()) if (folder / name).is_file()}
    return Produced(stage, key, folder, folder.parent.absolute() / key, records)


def flops_before(inputs: Mapping[str, Path]) -> float:
    """What was spent before a stage's own training begins: on the donor that its graft reads, and on the graft.

    For `evaluate` it is all that the model cost.
    """
    if "finetune" in inputs:
        finetune = inputs["finetune"]
        return _number(_read(finetune / "cost.json").get("flops")) + flops_before(_inputs_of(finetune))
    if "graft" not in inputs:
        return 0.0
    graft = inputs["graft"]
    used = ((_read(graft / "transfer.json").get("counts") or {}).get("donor") or {}).get("used")
    donor = _inputs_of(graft).get("pretrain")
    spent = _read(donor / "cost.json").get("flops") if donor is not None and used != 0 else 0
    return _number(spent) + _number(_read(graft / "cost.json").get("flops"))


def _inputs_of(folder: Path) -> dict[str, Path]:
    """What a finished artifact was built on, beside it in its store."""
    found = _read(folder / MARKER).get("inputs")
    store = folder.parent.parent
    return {stage: store / stage / str(key) for stage, key in found.items()} if isinstance(found, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
