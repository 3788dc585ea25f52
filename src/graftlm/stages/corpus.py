"""Stage `corpus`: rows read, divided, deduplicated and turned into tokens."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from graftlm.data.corpus import build_corpus

if TYPE_CHECKING:
    from graftlm.jobs import StageContext


def run(context: StageContext) -> None:
    """Build the corpus. An interrupted build is begun anew: it takes seconds, and half a file is worth nothing."""
    for path in context.work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    build_corpus(context.settings, context.work, context.progress)
