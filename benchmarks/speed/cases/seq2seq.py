"""A training step of an mBART of 12 + 12 layers at mBART-large's shape, beside `transformers.Seq2SeqTrainer`.

The Trainer is what run_summarization.py sets up (float32, DataCollatorForSeq2Seq, 8 rows). Same rows on all sides:
sources of 32 to 128 tokens, targets of 16 to 64. Trimmed (`model.trim`): ours with a vocabulary of 20,000.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _mlm, _seq2seq

ROWS, SOURCE, TARGET = 8, 128, 64


def _layers(run: Run) -> int:
    return 2 if run.quick else 12


def trainer(run: Run) -> dict[str, float]:
    import torch
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    steps = 2
    model = _seq2seq.model(run, _seq2seq.FULL, _layers(run))
    begun: list[float] = []
    ended: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            begun.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(time.perf_counter())

    class InOrder(Seq2SeqTrainer):
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(range(ROWS * steps))

    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            max_steps=steps,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        InOrder(
            model=model,
            args=arguments,
            train_dataset=[row for number in range(steps) for row in _seq2seq.rows(number, ROWS, SOURCE, TARGET)],
            data_collator=DataCollatorForSeq2Seq(_seq2seq.Tokenizer(), model=model),
            callbacks=[Stopwatch()],
        ).train()
    return {"seconds": (ended[-1] - begun[1]) / (steps - 1)}


def _batch(number: int, count: int = ROWS) -> dict[str, Any]:
    from graftlm.data.pairs import IGNORED, pad, pad_sources

    rows = _seq2seq.rows(number, ROWS, SOURCE, TARGET)[:count]
    ids, attention = pad_sources([row["input_ids"] for row in rows], 1)
    labels = [row["labels"] for row in rows]
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "decoder_input_ids": pad([[row[-1], *row[:-1]] for row in labels], 1),
        "labels": pad(labels, IGNORED),
        "number": number,
        "weight": 1.0,
        "examples": len(rows),
        "tokens": int(attention.sum()) + sum(map(len, labels)),
    }


def _ours(run: Run, vocabulary: int) -> dict[str, float]:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from graftlm.console import Silent
    from graftlm.data.tokenizers import build_host_tokenizer
    from graftlm.models.seq2seq import Seq2SeqModule
    from graftlm.running import TrainerSettings
    from graftlm.schema import FinetuneSettings, TransferSettings
    from graftlm.stages.training import fit
    from graftlm.tracking import Tracker

    steps = 3
    settings = FinetuneSettings(
        max_steps=steps, lr=5e-5, warmup=0.0, label_smoothing=0.0, val_interval=steps, checkpoint_interval=10**6
    )
    tokenizer = build_host_tokenizer([("▁a", -1.0)], "mbart50")
    module = Seq2SeqModule(
        _seq2seq.model(run, vocabulary, _layers(run)), tokenizer, settings, TransferSettings(name="none")
    )
    begun: list[float] = []
    ended: list[float] = []

    class Stopwatch(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            begun.append(time.perf_counter())

        def on_train_batch_end(self, *args: Any) -> None:
            ended.append(time.perf_counter())

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader([_batch(number) for number in range(steps)], batch_size=None)  # type: ignore[arg-type]

        def val_dataloader(self) -> Any:
            one = _batch(0, 1)
            wrong = {"shuffled_input_ids": one["input_ids"], "shuffled_attention_mask": one["attention_mask"]}
            text = {"target_langs": ["en_XX"], "references": ["a"], "generate": [False]}
            return DataLoader([{**one, **wrong, **text}], batch_size=None)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trainer = TrainerSettings(accelerator="cpu", precision=_mlm.mixed())
        context: Any = SimpleNamespace(settings=SimpleNamespace(trainer=trainer), work=work, progress=Silent())
        (work / ".scratch").mkdir()
        fit(context, module, Data(), settings, Tracker(work, [], Silent()), "bench", [Stopwatch()])
    return {"seconds": (ended[-1] - begun[1]) / (steps - 1)}


def trimmed(run: Run) -> dict[str, float]:
    return _ours(run, _seq2seq.TRIMMED)


def full(run: Run) -> dict[str, float]:
    return _ours(run, _seq2seq.FULL)


CASE = Case(
    sides={"trainer": trainer, "trimmed": trimmed, "full": full},
    rows=[
        Row(
            "mBART-large shape, 12+12, step with 20k tokens, against Seq2SeqTrainer",
            peer="trainer",
            ours="trimmed",
            goal=5,
            memory_goal=0.5,
        ),
        Row("the same with all 250k tokens", peer="trainer", ours="full"),
    ],
    rounds=3,
    memory_gb=14.5,
    quick_memory_gb=3.0,
    seconds=400,
)
