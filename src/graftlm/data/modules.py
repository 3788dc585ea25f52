"""The two Lightning data modules: text for masked-language modelling, pairs for sequence-to-sequence training.

A data set's item is a whole micro-batch, made from its number alone. So any number of workers gives the same batches,
and a resumed run starts its sampler at `global_step * accumulate`. The loaders bring their own sampler for several
devices: give the Trainer `use_distributed_sampler=False`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from graftlm.data.batches import BatchPlan, Rows, cut, subset
from graftlm.data.corpus import Corpus
from graftlm.data.masking import MaskVocabulary, fixed_mask, mask_batch, ratio_at
from graftlm.data.packing import Layout, PackPlan
from graftlm.data.pairs import PairRows, derangement
from graftlm.data.rows import Split
from graftlm.errors import DataError, SettingsError
from graftlm.interrupt import in_worker
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings

Batch = dict[str, Any]

SHORTEST_TEXT = 4  # tokens: a shorter one has nothing around a mask to learn from
_MASK_STREAM = 1  # apart from the stream that orders the batches


class Numbered(Dataset[Batch]):
    """Micro-batches by number."""

    def __init__(self, make: Callable[[int], Batch], total: int):
        self._make = make
        self._total = total

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, number: int) -> Batch:
        return self._make(number)


class From(Sampler[int]):
    """The numbers from `start` on; its length is that of the whole run.

    Lightning resumes inside an epoch with its own count of batches, and takes the length as the end of it.
    """

    def __init__(self, start: int, total: int):
        self._start, self._total = start, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._start, self._total))

    def __len__(self) -> int:
        return self._total


class Resumable(DataLoader[Batch]):
    """Tells Lightning that a resume inside an epoch is in order: the sampler starts where it must, without a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class Windows:
    """Parts of texts that fit into a model: text, first token, number of tokens."""

    text: Rows
    start: Rows
    length: Rows

    @classmethod
    def over(cls, lengths: npt.NDArray[np.int64], size: int) -> Windows:
        """Every text as windows of `size` tokens; a rest below `SHORTEST_TEXT` is dropped."""
        counts = lengths // size + (lengths % size >= min(SHORTEST_TEXT, size))
        text = np.repeat(np.arange(len(lengths)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        start = (np.arange(len(text)) - first) * size
        return cls(text, start, np.minimum(lengths[text] - start, size))

    def __len__(self) -> int:
        return len(self.text)


class _Numbered(pl.LightningDataModule, ABC):  # type: ignore[misc]
    """What both modules share: loaders over numbered micro-batches."""

    steps: int  # optimiser steps of the whole training
    val_batches: int

    def __init__(self, settings: TrainerSettings):
        super().__init__()
        self.settings = settings

    @abstractmethod
    def train_batch(self, number: int, rank: int = 0, world: int = 1) -> Batch:
        """Micro-batch `number` of the training, or the share of one of several devices.

        A share is every `world`-th row. `examples` and `tokens` count the whole micro-batch; `weight` is what the mean
        loss of a share counts times, so that the mean over the devices is the mean over the whole.
        """

    @abstractmethod
    def val_batch(self, number: int) -> Batch:
        """Validation batch `number`."""

    @abstractmethod
    def rows_of(self, number: int) -> list[int]:
        """The rows of the train split in micro-batch `number`, in its order."""

    @abstractmethod
    def texts_of(self, rows: Sequence[int]) -> list[Any]:
        """What some rows of the train split say, as their tokens tell it: to be looked at."""

    def train_dataloader(self) -> DataLoader[Batch]:
        rank, world = self._place()
        start = self.trainer.global_step * self.settings.accumulate if self.trainer is not None else 0
        total = self.steps * self.settings.accumulate
        make = partial(self.train_batch, rank=rank, world=world)
        return self._loader(Numbered(make, total), From(start, total))

    def val_dataloader(self) -> DataLoader[Batch]:
        rank, world = self._place()
        if world > self.val_batches:
            reason = f"is more than the {self.val_batches} batches of the validation rows"
            raise SettingsError.at("trainer.devices", world, reason, "lower it, or batch_tokens")
        return self._loader(Numbered(self.val_batch, self.val_batches), range(rank, self.val_batches, world))

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are spawned: everything but the trainer."""
        return {**self.__dict__, "trainer": None}

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _loader(self, rows: Numbered, sampler: Any) -> DataLoader[Batch]:
        workers = self.settings.num_workers
        return Resumable(
            rows,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=in_worker,
            pin_memory=torch.cuda.is_available(),
        )


class MlmDataModule(_Numbered):
    """Batches of masked text.

    A batch: `input_ids` [B, L], `attention_mask` [B, L], `positions` [M] (places of the chosen tokens in the flattened
    batch), `labels` [M] (what stood there), `number`, `ratio`, `weight`, `examples`, `tokens` (without padding).

    With `pretrain.packing` a training batch has several texts in a row, and so also `segments` [B, L] (the number of
    the text in its row, 0 for padding) and `offsets` [B, L] (the place of a token in its text). Its masks are those
    that the same texts would have in rows of their own. Validation is not packed: its figures are the same either way.
    """

    plan: BatchPlan | PackPlan

    def __init__(self, corpus: Corpus, pretrain: PretrainSettings, mask: MaskSettings, trainer: TrainerSettings):
        super().__init__(trainer)
        self.corpus, self.pretrain, self.mask = corpus, pretrain, mask
        self.steps = pretrain.max_steps
        tokenizer = corpus.donor_tokenizer
        self.vocabulary = MaskVocabulary.from_tokenizer(tokenizer)
        self._ends = (int(tokenizer.bos_token_id), int(tokenizer.eos_token_id))
        self._pad = int(tokenizer.pad_token_id)
        self._texts = {split: corpus.texts(split) for split in ("train", "validation")}
        size = pretrain.max_length - 2
        self._windows = {split: Windows.over(texts.lengths, size) for split, texts in self._texts.items()}
        for split, windows in self._windows.items():
            if not len(windows):
                raise DataError.at(
                    "data", None, f"no text of the {split} split has {SHORTEST_TEXT} tokens", "give more text"
                )
        lengths = self._windows["train"].length + 2
        self.plan = (
            PackPlan(lengths, pretrain.max_length, pretrain.batch_tokens, pretrain.seed)
            if pretrain.packing
            else BatchPlan(lengths, pretrain.batch_tokens, pretrain.seed)
        )
        held_out = self._windows["validation"]
        rows = subset(len(held_out), pretrain.val_texts)
        rows = rows[np.lexsort((rows, held_out.length[rows]))]
        self._val_batches = cut(rows, held_out.length + 2, pretrain.batch_tokens)
        self.val_batches = len(self._val_batches)

    def train_batch(self, number: int, rank: int = 0, world: int = 1) -> Batch:
        rows: Sequence[Rows] | Rows  # the texts of each row, or a text a row
        rows = self.plan.rows(number) if isinstance(self.plan, PackPlan) else self.plan.indices(number)
        texts = rows if isinstance(rows, np.ndarray) else np.concatenate(rows)
        ids = self._padded("train", texts)
        ratio = ratio_at(self.mask, number // self.settings.accumulate, self.steps)
        rng = np.random.default_rng((self.pretrain.seed, _MASK_STREAM, number))
        masked, chosen = mask_batch(ids, self.vocabulary, self.mask, rng, ratio)  # the same masks for any number
        if not isinstance(rows, np.ndarray):
            ids, masked, chosen, layout = self._packed(rows, ids, masked, chosen)
        batch = self._batch(ids, masked, chosen)
        batch |= {"examples": len(texts), "number": number, "ratio": ratio, "weight": 1.0}
        own = np.arange(len(ids))
        if world > 1:
            own, weight = share_of(chosen.sum(axis=1), rank, world)
            whole = {name: batch[name] for name in ("examples", "tokens")}
            batch |= {**self._batch(ids[own], masked[own], chosen[own]), **whole, "weight": weight}
        if not isinstance(rows, np.ndarray):
            batch["segments"] = torch.from_numpy(layout.segments[own])
            batch["offsets"] = torch.from_numpy(layout.offsets[own])
        return batch

    def rows_of(self, number: int) -> list[int]:
        found: list[int] = self._windows["train"].text[self.plan.indices(number)].tolist()
        return found

    def texts_of(self, rows: Sequence[int]) -> list[Any]:
        return [self.corpus.donor_tokenizer.decode(self._texts["train"][row].tolist()) for row in rows]

    def _packed(
        self,
        rows: Sequence[Rows],
        ids: npt.NDArray[np.int64],
        masked: npt.NDArray[np.int64],
        chosen: npt.NDArray[np.bool_],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_], Layout]:
        """Texts in rows of their own [n, longest], brought into rows together [R, L]."""
        lengths = self._windows["train"].length
        layout = Layout.of([lengths[row] + 2 for row in rows])
        real = ids != self._pad
        return (
            layout.put(ids[real], self._pad),
            layout.put(masked[real], self._pad),
            layout.put(chosen[real], False).astype(np.bool_),
            layout,
        )

    def val_batch(self, number: int) -> Batch:
        """Validation batch `number`: always the same rows and masks."""
        rows = self._val_batches[number]
        ids = self._padded("validation", rows)
        masked, chosen = fixed_mask(ids, rows, self.vocabulary)
        return self._batch(ids, masked, chosen)

    def _padded(self, split: Split, rows: Rows) -> npt.NDArray[np.int64]:
        windows, texts = self._windows[split], self._texts[split]
        ids = np.full((len(rows), int(windows.length[rows].max()) + 2), self._pad, dtype=np.int64)
        ids[:, 0] = self._ends[0]
        for place, row in enumerate(rows):
            start, length = windows.start[row], windows.length[row]
            ids[place, 1 : length + 1] = texts[int(windows.text[row])][start : start + length]
            ids[place, length + 1] = self._ends[1]
        return ids

    def _batch(self, ids: npt.NDArray[np.int64], masked: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> Batch:
        positions = np.flatnonzero(chosen)
        attention = ids != self._pad
        return {
            "input_ids": torch.from_numpy(masked),
            "attention_mask": torch.from_numpy(attention.astype(np.int64)),
            "positions": torch.from_numpy(positions),
            "labels": torch.from_numpy(ids.reshape(-1)[positions]),
            "examples": len(ids),
            "tokens": int(attention.sum()),
        }


class Seq2SeqDataModule(_Numbered):
    """Batches of pairs.

    A batch: `input_ids`, `attention_mask` [B, S], `decoder_input_ids`, `labels` [B, T] (padding: -100), `number`,
    `weight`, `examples`, `tokens` (of source and target, without padding). A validation batch has besides
    `shuffled_input_ids`, `shuffled_attention_mask` (for each row the source of another), `target_langs`, `references`
    (texts) and `generate` (which rows belong to the subset that is generated).
    """

    def __init__(self, corpus: Corpus, finetune: FinetuneSettings, trainer: TrainerSettings):
        super().__init__(trainer)
        self.corpus, self.finetune = corpus, finetune
        self.steps = finetune.max_steps
        self.format = corpus.format
        self._pairs = {split: PairRows(corpus, split, finetune) for split in ("train", "validation")}
        for split, pairs in self._pairs.items():
            if not len(pairs.sources):
                raise DataError.at("data", None, f"the {split} split has no pair", "give more pairs")
        train, held_out = self._pairs["train"], self._pairs["validation"]
        self.plan = BatchPlan(train.longest, finetune.batch_tokens, finetune.seed, tie=train.target_lengths)
        self.val_rows = subset(len(held_out.sources), finetune.val_pairs)
        self._generated = frozenset(self.val_rows[: finetune.generate_pairs].tolist())
        self._other = derangement(self.val_rows, held_out.source_langs, held_out.target_langs)
        order = self.val_rows[np.lexsort((self.val_rows, held_out.longest[self.val_rows]))]
        self._val_batches = cut(order, held_out.longest, finetune.batch_tokens)
        self.val_batches = len(self._val_batches)
        self._references = [pair.target for pair in corpus.pairs("validation")]

    def train_batch(self, number: int, rank: int = 0, world: int = 1) -> Batch:
        rows, pairs = self.plan.indices(number), self._pairs["train"]
        if world == 1:
            return {**pairs.batch(rows), "number": number, "weight": 1.0}
        share, weight = share_of(pairs.target_lengths[rows], rank, world)
        whole = {"examples": len(rows), "tokens": pairs.tokens(rows)}
        return {**pairs.batch(rows[share]), **whole, "number": number, "weight": weight}

    def rows_of(self, number: int) -> list[int]:
        found: list[int] = self.plan.indices(number).tolist()
        return found

    def texts_of(self, rows: Sequence[int]) -> list[Any]:
        decode, pairs = self.corpus.host_tokenizer.decode, self._pairs["train"]
        return [[decode(side[row].tolist()) for side in (pairs.sources, pairs.targets)] for row in rows]

    def val_batch(self, number: int) -> Batch:
        """Validation batch `number`: always the same rows, with the same wrong sources."""
        rows, pairs = self._val_batches[number], self._pairs["validation"]
        batch = pairs.batch(rows)
        wrong = pairs.wrong_sources(rows, [self._other[int(row)] for row in rows])
        batch["shuffled_input_ids"], batch["shuffled_attention_mask"] = wrong
        batch["target_langs"] = [pairs.target_langs[row] for row in rows]
        batch["references"] = [self._references[row] for row in rows]
        batch["generate"] = [int(row) in self._generated for row in rows]
        return batch


def share_of(labels: npt.NDArray[np.integer], rank: int, world: int) -> tuple[Rows, float]:
    """The rows of one of several devices, given the labels of each row, and what its mean loss counts times.

    A device that would have no label computes a row of another for nothing: all must take part in each exchange.
    """
    share = np.arange(rank, len(labels), world)
    counted = int(labels[share].sum())
    if not counted:
        return np.asarray([int(labels.argmax())]), 0.0
    return share, counted * world / int(labels.sum())
