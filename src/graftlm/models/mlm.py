"""Masked-language modelling with the XLM-R donor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from graftlm.models.base import StageModule
from graftlm.models.flops import mlm_flops
from graftlm.models.full_loss import CutRows, is_chosen
from graftlm.models.loss import mlm_logits, mlm_loss
from graftlm.models.optim import Part, whole
from graftlm.schema import MaskSettings, PretrainSettings


class MlmModule(StageModule):
    """Logs `train/loss`, `train/lr`, `train/mask_ratio`; `val/loss`, `val/accuracy`, `val/perplexity` per masked token.

    `train/fill` is the share of a batch's places that hold a token, the rest being padding.
    Validation masks are fixed (15% of single tokens), whatever the training masks. With `model.trim` all of these are
    over the tokens that were kept; `val/loss_full` is `val/loss` over the whole vocabulary, by some of its places.

    Attributes:
        cut: what a trimmed model lacks; None logs no `val/loss_full`.
    """

    stage = "pretrain"
    cut: CutRows | None = None

    def __init__(self, model: Any, pretrain: PretrainSettings, mask: MaskSettings):
        super().__init__(model, pretrain)
        self.mask = mask

    def parts(self) -> list[Part]:
        return whole(self.model)

    def step_flops(self, batch: dict[str, Any]) -> int:
        return mlm_flops(self.model, batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        loss = mlm_loss(self.model, batch)
        if self.is_logged():
            self.log("train/mask_ratio", float(batch["ratio"]), on_step=True, on_epoch=False, batch_size=1)
            fill = float(batch["attention_mask"].sum()) / batch["attention_mask"].numel()
            self.log("train/fill", fill, on_step=True, on_epoch=False, batch_size=1)
        return self.finish_step(loss, batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        logits = mlm_logits(self.model, batch).float()
        labels = batch["labels"]
        if self.cut is not None and is_chosen(batch_idx, int(self.trainer.num_val_batches[0])):
            added = self.cut.added_mlm(self.model, batch)
            self.add(added=float(added.sum()), added_at=len(added))
        self.add(
            loss=float(F.cross_entropy(logits, labels, reduction="sum")),
            right=float((logits.argmax(dim=-1) == labels).sum()),
            tokens=len(labels),
        )

    def on_validation_epoch_end(self) -> None:
        tokens = max(self.total("tokens"), 1.0)
        loss = self.total("loss") / tokens
        self.log_value("val/loss", loss)
        if self.cut is not None:
            self.log_value("val/loss_full", loss + self.total("added") / max(self.total("added_at"), 1.0))
        self.log_value("val/accuracy", self.total("right") / tokens)
        self.log_value("val/perplexity", math.exp(min(loss, 700.0)))
