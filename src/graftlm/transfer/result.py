"""The folder that `graftlm transfer` leaves: there as a whole or not at all, in the type of the host that was given."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graftlm import interrupt
from graftlm.checkpoint import local_folder, read_config
from graftlm.errors import GraftlmError, MachineError, Problem, TransferError, first_line


@contextmanager
def written(out: Path, keep: bool = True) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when that went well and is gone when not, and without `keep`.

    Raises:
        TransferError: it cannot be written.
        MachineError: a file elsewhere, which is used meanwhile, is gone or cannot be used.
    """
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"  # named before it is there: a signal may come between
    made = [folder for folder in out.parents if not folder.exists()]

    def clean() -> None:
        with suppress(OSError):  # of shutil itself, which a signal may have close a folder twice
            shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # what is not empty stays
                folder.rmdir()

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if keep:
            if out.exists():
                out.rmdir()
            partial.replace(out)
    except OSError as error:
        raise _told(error, partial, out) from error
    finally:
        try:
            clean()
        finally:
            clean()  # a signal ends a command once (`graftlm.interrupt`): what it cut short is done here
            interrupt.check()


def _told(error: OSError, partial: Path, out: Path) -> GraftlmError:
    """What is in the way: the folder that is written, or a file elsewhere that the error names."""
    reason = error.strerror or first_line(error)
    if isinstance(error.filename, str | Path):
        ours, named = partial.resolve(), Path(error.filename).resolve()
        if ours not in (named, *named.parents) and named not in (out.resolve(), *out.resolve().parents):
            remedy = "it must stay there, and whole, while it is used"
            return MachineError(Problem(str(error.filename), None, f"cannot be used: {reason}", remedy))
    elif error.errno is None:  # a library's own words
        return MachineError(Problem("files", None, reason, "nothing was written; look after what it names"))
    return TransferError.at("--out", out, f"cannot be written: {reason}", "name another folder")


def in_type_of(host: Any, seq2seq: str) -> None:
    """The host in the types that its folder has, each tensor in its own: float32 is for the work.

    Raises:
        TransferError: a value is beyond that type.
    """
    from graftlm.transfer.files import DTYPES, beyond, places_in
    from graftlm.transfer.weights import ModelWeights, finite

    folder = local_folder(seq2seq)
    places = places_in(folder) if folder is not None else None
    if places:  # what the files hold, whatever the configuration says
        kept = {tensor: DTYPES[place.dtype] for tensor, place in places.items()}
        (name, _), *_ = Counter(kept.values()).most_common()
    else:
        config = read_config(seq2seq, None, "--seq2seq")
        kept, name = {}, str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    if name not in DTYPES.values():
        name = "float32"
    if {name, *kept.values()} == {"float32"}:
        return
    import torch

    weights = ModelWeights(host)
    types = {weights.aliases[tensor]: of for tensor, of in kept.items() if tensor in weights.aliases}
    tensors = host.state_dict(keep_vars=True)
    for tensor in weights.shapes:
        of = types.get(tensor, name)
        tensors[tensor].data = tensors[tensor].data.to(getattr(torch, of))
        if not finite(weights.read(tensor)):
            raise beyond(tensor, of)
