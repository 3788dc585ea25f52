"""Sequence-to-sequence fine-tuning of the mBART host."""

from __future__ import annotations

from typing import Any

import torch

from graftlm.data.format import HostFormat
from graftlm.models.base import StageModule
from graftlm.models.flops import seq2seq_flops
from graftlm.models.full_loss import CutRows, is_chosen
from graftlm.models.generate import generate_by_language
from graftlm.models.loss import per_example_nll, seq2seq_loss
from graftlm.models.optim import Part, host_parts
from graftlm.schema import FinetuneSettings, TransferSettings

_SAMPLES = 5


class Seq2SeqModule(StageModule):
    """Logs `train/loss` (smoothed), `train/lr`; `val/loss`, `val/loss_shuffled`, `val/gap`, `val/chrf`.

    Validation losses are the mean NLL per target token, not smoothed. Shuffled: each row with the source of another.
    A model that reads its source has a gap; a language model that ignores it has none. With `model.trim` all of these
    are over the tokens that were kept; `val/loss_full` is `val/loss` over the whole vocabulary, by some of its places.

    Attributes:
        cut: what a trimmed model lacks; None logs no `val/loss_full`.
        samples: a few generations of the last validation: `source`, `reference`, `prediction`, `target_lang`.
    """

    stage = "finetune"
    cut: CutRows | None = None

    def __init__(self, model: Any, tokenizer: Any, finetune: FinetuneSettings, transfer: TransferSettings):
        super().__init__(model, finetune)
        self.finetune = finetune
        self.transfer = transfer
        frozen = (transfer.encoder_rate()[1], transfer.freeze_embeddings, transfer.freeze_decoder)
        self.freezes = any(share > 0 for share in frozen)
        self.tokenizer = tokenizer
        self.format = HostFormat.from_tokenizer(tokenizer)
        self.samples: list[dict[str, str]] = []
        self._to_generate: list[tuple[int, list[int], str, str]] = []

    def parts(self) -> list[Part]:
        return host_parts(self.model, self.transfer, self.finetune.max_steps)

    def step_flops(self, batch: dict[str, Any]) -> int:
        return seq2seq_flops(self.model, batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.finish_step(seq2seq_loss(self.model, batch, self.finetune.label_smoothing), batch)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._to_generate = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        nll, tokens = per_example_nll(self.model, batch)
        shuffled, _ = per_example_nll(self.model, batch, batch["shuffled_input_ids"], batch["shuffled_attention_mask"])
        self.add(loss=float(nll.sum()), shuffled=float(shuffled.sum()), tokens=float(tokens.sum()))
        if self.cut is not None and is_chosen(batch_idx, int(self.trainer.num_val_batches[0])):
            added = self.cut.added_seq2seq(self.model, batch)
            self.add(added=float(added.sum()), added_at=len(added))
        for place, wanted in enumerate(batch["generate"]):
            if wanted:
                length = int(batch["attention_mask"][place].sum())
                source = batch["input_ids"][place, :length].tolist()
                row = (batch_idx, source, batch["target_langs"][place], batch["references"][place])
                self._to_generate.append(row)

    def on_validation_epoch_end(self) -> None:
        tokens = max(self.total("tokens"), 1.0)
        right, shuffled = self.total("loss") / tokens, self.total("shuffled") / tokens
        self.log_value("val/loss", right)
        if self.cut is not None:
            self.log_value("val/loss_full", right + self.total("added") / max(self.total("added_at"), 1.0))
        self.log_value("val/loss_shuffled", shuffled)
        self.log_value("val/gap", shuffled - right)
        self._gather()
        if self._to_generate:
            self._generate()

    def _gather(self) -> None:
        """Every device writes all texts that are wanted, in the order of a single one."""
        world = self.trainer.world_size
        if world > 1:
            found: list[Any] = [None] * world
            mine = [(number * world + self.trainer.global_rank, *rest) for number, *rest in self._to_generate]
            torch.distributed.all_gather_object(found, mine)
            self._to_generate = sorted((row for rows in found for row in rows), key=lambda row: row[0])

    def _generate(self) -> None:
        from sacrebleu import corpus_chrf

        _, sources, langs, references = (list(column) for column in zip(*self._to_generate, strict=True))
        written = generate_by_language(
            self.model, self.format, sources, langs, num_beams=1, max_new_tokens=self.finetune.max_target_length
        )
        predictions = [self.tokenizer.decode(ids) for ids in written]
        self.samples = [
            {
                "source": self.tokenizer.decode(self.format.strip_source(source)),
                "reference": reference,
                "prediction": prediction,
                "target_lang": lang,
            }
            for source, reference, prediction, lang in zip(
                sources[:_SAMPLES], references, predictions, langs, strict=False
            )
        ]
        self.log_value("val/chrf", float(corpus_chrf(predictions, [references]).score))
