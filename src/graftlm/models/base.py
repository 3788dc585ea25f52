"""What the two Lightning modules share: exact resumption, counters, the check of the loss, sums over a validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import FSDPStrategy

from graftlm.errors import TrainingError
from graftlm.models.blocked_loss import forget
from graftlm.models.optim import Part, build_optimizer, clip_in_step, end_step, freeze, is_fused
from graftlm.schema import OptimSettings

_RANKS = 2**40  # the units that one device drops are not those of another
EXPLODED = 1000.0  # nats a token; guessing from 250,000 tokens costs 12
_STREAMS = 1_000_003  # keeps the seeds of two runs apart for as many micro-batches


class StageModule(pl.LightningModule, ABC):  # type: ignore[misc]
    """A model under training.

    Attributes:
        examples_seen, tokens_seen, flops_spent: counts over the whole training; they survive a resume.
    """

    stage = ""  # of the settings, to name in an error
    freezes = False  # whether some parts are not trained from the first step on

    def __init__(self, model: Any, settings: OptimSettings):
        super().__init__()
        self.model = model
        self.settings = settings
        self.examples_seen = 0
        self.tokens_seen = 0
        self.flops_spent = 0
        self._parts: list[Part] | None = None
        self._sums: dict[str, float] = defaultdict(float)

    # --- training

    @abstractmethod
    def parts(self) -> list[Part]:
        """Parameter groups; decided at the first call, when the graft is done."""

    def configure_optimizers(self) -> dict[str, Any]:
        if self._parts is None:
            self._parts = self.parts()
        # the loss scaler of float16 and clipping both want the scale of a fused step
        fused = self.trainer.precision != "16-mixed" and self.device.type in ("cpu", "cuda")
        return build_optimizer(self._parts, self.settings, fused)

    def on_fit_start(self) -> None:
        self.model.train()  # from_pretrained leaves eval mode, and Lightning keeps what it finds
        if self.trainer.world_size > 1:
            # DDP shares parameters at its start, but buffers (the graft's output bias) only if it does so each step
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_train_start(self) -> None:
        self.model.train()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seeds dropout by the number of the micro-batch, and freezes what is not trained yet.

        A checkpoint does not hold the state of torch's generator. With a seed for each micro-batch a resumed run drops
        the same units as one that was never stopped, whatever was drawn in between (validation, generation).
        """
        stream = self.settings.seed * _STREAMS + int(batch["number"]) + self.global_rank * _RANKS
        if self.device.type == "cpu":  # torch.manual_seed writes down the call stack for each device that is not there
            torch.default_generator.manual_seed(stream % 2**63)
        else:
            torch.manual_seed(stream % 2**63)
        freeze(self._parts or (), self.global_step)

    @abstractmethod
    def step_flops(self, batch: dict[str, Any]) -> int:
        """Floating-point operations of a training step on this batch."""

    def finish_step(self, loss: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """Checks, counts and logs a training loss, and hands it on.

        Raises:
            TrainingError: the loss is not a number, or has exploded.
        """
        loss = loss * batch["weight"] if self.trainer.world_size > 1 else loss
        value, flops = self._over_devices(float(loss.detach()), self.step_flops(batch))
        rate = self.optimizers().param_groups[0]["lr"]
        if not value <= EXPLODED:
            raise TrainingError.at(
                f"{self.stage}.lr",
                self.settings.lr,
                f"the loss of step {self.global_step} is {value:.5g} (the rate there: {rate:.3g})",
                f"lower {self.stage}.lr, raise {self.stage}.warmup, or set {self.stage}.grad_clip=1",
            )
        self.examples_seen += batch["examples"]
        self.tokens_seen += batch["tokens"]
        self.flops_spent += flops
        # not to the logger: Lightning would write the line after the checkpoint of its step (`graftlm.stages.saving`)
        self.log("train/loss", value, on_step=True, on_epoch=False, logger=False, batch_size=1)
        self.log("train/lr", rate, on_step=True, on_epoch=False, logger=False, batch_size=1)
        return loss

    def is_logged(self) -> bool:
        """Whether Lightning hands what this step logs to the loggers; `self.log` for nothing costs as much."""
        return bool((self.global_step + 1) % self.trainer.log_every_n_steps == 0)

    def _over_devices(self, loss: float, flops: int) -> tuple[float, int]:
        """The mean loss and the operations of a step over all devices."""
        world = self.trainer.world_size
        if world == 1:
            return loss, flops
        values = torch.tensor([loss / world, float(flops)], dtype=torch.float64, device=self.device)
        loss, spent = self.trainer.strategy.reduce(values, reduce_op="sum").tolist()
        return loss, int(spent)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if isinstance(self.trainer.strategy, FSDPStrategy) and gradient_clip_val:
            # each process holds a part of every gradient, so only FSDP itself knows the norm
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)
            return
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if is_fused(plain) and gradient_clip_algorithm in (None, "norm"):
            if gradient_clip_val:
                clip_in_step(plain, gradient_clip_val)
            return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        end_step(optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer)

    def on_fit_end(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Frees what is kept for the next gradient."""
        for parameter in self.model.parameters():
            forget(parameter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seen"] = {
            "examples": self.examples_seen,
            "tokens": self.tokens_seen,
            "flops": self.flops_spent,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seen = checkpoint.get("seen", {})
        self.examples_seen, self.tokens_seen = seen.get("examples", 0), seen.get("tokens", 0)
        self.flops_spent = seen.get("flops", 0)

    # --- validation: sums over all rows, so that a figure does not depend on how rows were put into batches

    def on_validation_epoch_start(self) -> None:
        self._forget()  # a validation has the whole output layer in half precision, or a beam's caches
        self._sums = defaultdict(float)

    def add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self._sums[name] += float(amount)

    def total(self, name: str) -> float:
        """The sum over all batches and devices."""
        if self.trainer.world_size == 1:
            return self._sums[name]
        value = torch.tensor(self._sums[name], dtype=torch.float64, device=self.device)
        return float(self.trainer.strategy.reduce(value, reduce_op="sum"))

    def log_value(self, name: str, value: float) -> None:
        self.log(name, value, on_step=False, on_epoch=True, batch_size=1)
