"""A training step of an mBART of 12 + 12 layers at mBART-large's shape, beside `transformers.Seq2SeqTrainer`.

The Trainer is what run_summarization.py sets up (float32, DataCollatorForSeq2Seq, 8 rows). Same rows on all sides:
sources of 32 to 128 tokens, targets of 16 to 64. Trimmed (`model.trim`): ours with a vocabulary of 20,000.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _mlm, _seq2seq
from benchmarks.speed.cases._loops import Clock, fit_batches, in_order, of_script

ROWS, SOURCE, TARGET = 8, 128, 64


def _layers(run: Run) -> int:
    return 2 if run.quick else 12


def trainer(run: Run) -> dict[str, float]:
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    steps = 2  # the first, on short rows, is not counted
    model = _seq2seq.model(run, _seq2seq.FULL, _layers(run))
    clock = Clock()

    with tempfile.TemporaryDirectory() as folder:
        in_order(Seq2SeqTrainer)(
            model=model,
            args=Seq2SeqTrainingArguments(output_dir=folder, **of_script(ROWS, steps)),
            train_dataset=[*_seq2seq.rows(0, ROWS, 8, 4), *_seq2seq.rows(1, ROWS, SOURCE, TARGET)],
            data_collator=DataCollatorForSeq2Seq(_seq2seq.Tokenizer(), model=model),
            callbacks=[clock.of_trainer()],
        ).train()
    return {"seconds": clock.seconds() / (steps - 1)}


def _batch(number: int, count: int = ROWS) -> dict[str, Any]:
    from graftlm.data.pairs import IGNORED, pad, pad_sources

    rows = _seq2seq.rows(number, ROWS, SOURCE, TARGET)[:count]
    ids, attention = pad_sources([row["input_ids"] for row in rows], 1, SOURCE)
    labels = [row["labels"] for row in rows]
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "decoder_input_ids": pad([[row[-1], *row[:-1]] for row in labels], 1, TARGET),
        "labels": pad(labels, IGNORED, TARGET),
        "number": number,
        "weight": 1.0,
        "examples": len(rows),
        "tokens": int(attention.sum()) + sum(map(len, labels)),
    }


def _ours(run: Run, vocabulary: int) -> dict[str, float]:
    from graftlm.data.tokenizers import build_host_tokenizer
    from graftlm.models.seq2seq import Seq2SeqModule
    from graftlm.schema import FinetuneSettings, TransferSettings

    steps = 2  # the second is counted, on the Trainer's rows
    settings = FinetuneSettings(
        max_steps=steps, lr=5e-5, warmup=0.0, label_smoothing=0.0, val_interval=steps, checkpoint_interval=10**6
    )
    tokenizer = build_host_tokenizer([("▁a", -1.0)], "mbart50")
    module = Seq2SeqModule(
        _seq2seq.model(run, vocabulary, _layers(run)), tokenizer, settings, TransferSettings(name="none")
    )
    clock = Clock()
    one = _batch(0, 1)
    wrong = {"shuffled_input_ids": one["input_ids"], "shuffled_attention_mask": one["attention_mask"]}
    text = {"target_langs": ["en_XX"], "references": ["a"], "generate": [False]}
    batches = [_batch(number) for number in range(steps)]
    fit_batches(module, settings, batches, {**one, **wrong, **text}, _mlm.mixed(), [clock.of_lightning()])
    return {"seconds": clock.seconds() / (steps - 1)}


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
    memory_gb=14.5,
    quick_memory_gb=3.0,
    seconds=400,
)
