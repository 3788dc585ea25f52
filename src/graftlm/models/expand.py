"""A trained model of a trimmed vocabulary as a folder with the whole vocabulary again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graftlm.checkpoint import read_config
from graftlm.data.tokenizers import load_tokenizer
from graftlm.models.build import load_model, model_class
from graftlm.models.trim import expand

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def expand_folder(trimmed: Path, checkpoint: str, rows: npt.NDArray[np.int64], out: Path, host: bool = False) -> None:
    """Write a trained, trimmed model as a folder with the whole vocabulary of the checkpoint that it was cut from.

    Args:
        trimmed: folder of the trained model (`model/` of a pretrain or finetune artifact).
        checkpoint: what `model.donor.checkpoint` or `model.host.checkpoint` named.
        rows: `Corpus.donor_rows` or `Corpus.host_rows`.
        out: the folder to write: model and tokenizer.
        host: whether it is the host (mBART or BART), not the donor.

    Raises:
        CheckpointError: one of the two cannot be loaded.
        ValueError: they do not belong together.
    """
    role = "host" if host else "donor"
    path = f"model.{role}.checkpoint"
    with torch.random.fork_rng(devices=[]):  # loading a model draws numbers too
        kind = str(read_config(str(trimmed), None, str(trimmed)).get("model_type"))
        small = load_model(model_class(kind), str(trimmed), None, kind, str(trimmed))
        full = load_model(model_class(kind), checkpoint, None, kind, path)
    expand(small, full, rows).save_pretrained(out)
    load_tokenizer(checkpoint, None, path, role).save_pretrained(out)
