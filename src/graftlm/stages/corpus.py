"""Stage `corpus`: rows read, divided, deduplicated and turned into tokens."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from graftlm.data.corpus import build_corpus
from graftlm.loading import load
from graftlm.tracking import tracker

if TYPE_CHECKING:
    from graftlm.context import StageContext


def run(context: StageContext) -> None:
    """Build the corpus. An interrupted build is begun anew: it takes seconds, and half a file is worth nothing."""
    for path in context.work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    load("torch")  # which transformers would load for the tokenizers, more slowly
    with tracker(context) as track:
        build_corpus(context.settings, context.work, context.progress)
        track.summary(_figures(json.loads((context.work / "summary.json").read_text(encoding="utf-8"))))


def _figures(summary: dict[str, Any]) -> dict[str, int]:
    """Texts, pairs and tokens of each split."""
    rows = {
        f"{kind}/{split}": about["count"]
        for kind in ("texts", "pairs")
        for split, about in (summary.get(kind) or {}).items()
    }
    return {**rows, **{f"tokens/{name}": count for name, count in (summary.get("tokens") or {}).items()}}
