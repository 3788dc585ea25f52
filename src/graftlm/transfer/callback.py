"""The graft as a Lightning callback: applied in `setup("fit")`, before a checkpoint would be restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from graftlm.console import Progress, Silent
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.strategy import any_step, build_steps

if TYPE_CHECKING:
    from graftlm.transfer.graft import Texts
    from graftlm.transfer.report import TransferReport


class TransferCallback(pl.Callback):
    """Applies a strategy once to `pl_module.model` and writes `transfer.json`.

    Args:
        strategy: the steps.
        donor_path: folder of the donor (model and, unless given, tokenizer); None where no step reads the donor.
        host_tokenizer: the host's.
        calibration, held_out: texts as donor ids without special tokens.
        report_path: where `transfer.json` goes.
        host_pretrained: whether the host came from a checkpoint.
        donor_tokenizer: the donor's, where its folder has none, or there is no donor: the texts are in its ids.
        languages: see `graftlm.transfer.graft.Graft`.
        base: gives the donor as it was before the pretrain stage; called if a step needs that.
        adapter: folder of the adapter that the pretrain stage trained, or None.
        resuming: the run goes on from a checkpoint: its weights are kept and nothing is written. Lightning does not
            tell a callback in `setup` which checkpoint `fit(ckpt_path=...)` was given, so the caller has to.
    """

    def __init__(
        self,
        strategy: TransferSettings,
        donor_path: Path | None,
        host_tokenizer: Any,
        calibration: Texts,
        held_out: Texts,
        report_path: Path,
        host_pretrained: bool,
        donor_tokenizer: Any = None,
        progress: Progress | None = None,
        resuming: bool = False,
        languages: Sequence[str] = (),
        base: Callable[[], Any] | None = None,
        adapter: Path | None = None,
    ):
        self.strategy = strategy
        self.donor_path = donor_path
        self.host_tokenizer = host_tokenizer
        self.calibration = calibration
        self.held_out = held_out
        self.report_path = report_path
        self.host_pretrained = host_pretrained
        self.donor_tokenizer = donor_tokenizer
        self.progress = progress or Silent()
        self.resuming = resuming
        self.languages = languages
        self.base = base
        self.adapter = adapter
        self.report: TransferReport | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Rank 0 grafts; on the others the host gets the same parts, and the weights when the strategy shares them."""
        if stage != "fit" or self.report is not None:
            return
        import torch

        with torch.random.fork_rng(devices=[]):  # loading a model draws numbers too
            if self.resuming or trainer.ckpt_path is not None or not trainer.is_global_zero:
                for _, step in build_steps(self.strategy.steps, "transfer.steps", []):
                    step.restructure(pl_module.model, self.adapter)
                return
            donor, tokenizer = self._donor()
            self.report = apply_strategy(
                self.strategy,
                donor,
                pl_module.model,
                tokenizer,
                self.host_tokenizer,
                self.calibration,
                self.held_out,
                self.host_pretrained,
                self.progress,
                languages=self.languages,
                device=str(trainer.strategy.root_device),
                precision=str(trainer.precision),
                base=self.base() if self.base is not None and any_step(self.strategy, "needs_base") else None,
                adapter=self.adapter,
            )
        self.report.write(self.report_path)

    def _donor(self) -> tuple[Any, Any]:
        if self.donor_path is None or not self.strategy.steps:
            return None, self.donor_tokenizer
        from transformers import XLMRobertaForMaskedLM

        from graftlm.data.tokenizers import load_tokenizer
        from graftlm.models.build import load_model

        where = "model.donor.checkpoint"
        tokenizer = self.donor_tokenizer or load_tokenizer(str(self.donor_path), path=where)
        return load_model(XLMRobertaForMaskedLM, str(self.donor_path), None, "xlm-roberta", where), tokenizer
