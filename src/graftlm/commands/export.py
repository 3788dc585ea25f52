"""`graftlm export`: a trained model as a Hugging Face folder with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftlm.commands.parser import Parser
from graftlm.console import tell

ABOUT = "a trained model as a Hugging Face folder with a model card"


def run(arguments: Sequence[str]) -> int:
    parser = Parser("graftlm export", description=ABOUT[:1].upper() + ABOUT[1:] + ".")
    parser.add_argument("run", metavar="RUN", help="a job's folder, a finetune artifact, or the beginning of its key")
    parser.add_argument("--out", metavar="DIR", required=True, help="where it goes: a new folder, or an empty one")
    store = "multirun/store"
    parser.add_argument("--store", metavar="DIR", default=store, help=f"where keys are looked up (default: {store})")
    parser.add_argument("--force", action="store_true", help="replace a model that is there")
    options = parser.parse_args(arguments)
    from graftlm.commands.store import size
    from graftlm.export import export, size_of

    folder = export(Path(options.run), Path(options.out), Path(options.store), options.force)
    tell(f"model: {folder} ({size(size_of(folder))}); its card: {folder / 'README.md'}")
    return 0
