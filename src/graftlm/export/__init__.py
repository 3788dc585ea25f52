"""A trained model as a Hugging Face folder with a model card that says where it comes from.

    folder = export(Path("multirun/2026-01-01/3"), Path("mine"))

writes model, tokenizer, generation settings, README.md and transfer.json. Imports no torch.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from graftlm.errors import ReportError, first_line
from graftlm.export.card import model_card
from graftlm.export.source import TRANSFER, find
from graftlm.store import write_json

__all__ = ["export"]
CARD = "README.md"


def export(run: Path, out: Path, store: Path = Path("multirun/store"), force: bool = False) -> Path:
    """Write the model of a job, or of an artifact, to `out`; returns it.

    Args:
        run: a job's folder, that of a finetune artifact, or the beginning of such an artifact's key in `store`.
        force: replace an earlier model folder.

    Raises:
        ReportError: `run` has no finished model, or `out` is there and may not be replaced, or cannot be written.
        StoreError: the artifact is damaged.
    """
    out = out.expanduser()
    _check_target(out, force)
    source = find(run, store)
    source.verify()
    partial = out.absolute().parent / f".{out.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        partial.mkdir(parents=True)
        for name in sorted(source.marker["files"]):  # what else lies there was not made by the stage
            if Path(name).parts[0] == "model":
                target = partial / Path(name).relative_to("model")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.finetune / name, target)
        if source.transfer:
            write_json(partial / TRANSFER, source.transfer)
        (partial / CARD).write_text(model_card(source, out.name), encoding="utf-8", errors="replace")
        _put(partial, out)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or first_line(error)})"
        raise ReportError.at("--out", out, reason, "name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _check_target(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ReportError.at("--out", out, "is a file", "name another folder")
    if out.resolve() == Path.cwd():  # it is replaced, and this process stands in it
        raise ReportError.at("--out", out, "is the folder that you are in", "name another one")
    if not any(out.iterdir()):
        return
    if not force:
        raise ReportError.at("--out", out, "is there and not empty", "name another folder, or --force")
    if not (out / "config.json").is_file():
        raise ReportError.at("--out", out, "holds no model, and is not replaced, --force or not", "name another folder")


def _put(partial: Path, out: Path) -> None:
    """Give the folder its name; what had it before goes only when the new one stands there."""
    if not out.exists():
        partial.rename(out)
        return
    before = partial.with_suffix(".old")
    out.rename(before)
    try:
        partial.rename(out)
    except OSError:
        before.rename(out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
