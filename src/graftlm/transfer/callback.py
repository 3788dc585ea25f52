"""The graft as a Lightning callback: what the stage `graft` made is put into the host that is about to be trained."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from graftlm.transfer import handover


class TransferCallback(pl.Callback):
    """Puts a grafted host into `pl_module.model` in `setup("fit")`, once, before a checkpoint would be restored.

    On several devices each process reads it. Torch's random state stays as it was: an arm draws what one without a
    graft draws.

    Args:
        graft: the folder that `graftlm.transfer.handover` wrote.
        resuming: the run goes on from a checkpoint, which brings the weights. Lightning does not tell a callback in
            `setup` which checkpoint `fit(ckpt_path=...)` was given, so the caller has to; values that are read all the
            same give way to those of the checkpoint.
    """

    def __init__(self, graft: Path, resuming: bool = False):
        self.graft = graft
        self.resuming = resuming
        self.done = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or self.done:
            return
        import torch

        with torch.random.fork_rng(devices=[]):  # a module that is added is initialised first
            handover.load(pl_module.model, self.graft, values=not self.resuming)
        self.done = True
