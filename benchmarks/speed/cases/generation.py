"""Validation by generation with 4 beams, mBART-large's width and 2 + 2 layers, beside Seq2SeqTrainer.predict.

The Trainer is what run_summarization.py sets up with --predict_with_generate --num_beams 4: float32, 8 rows a batch in
the order of the file, and its loss of each batch besides. Ours is `graftlm.models.generate` with the tokens of the
training pairs (`evaluate.vocabulary=corpus`, 20,000 kept), float32 too. All other tokens are forbidden by the model's
bias, so both sides must write the same; nothing ends before its 48 tokens, so the longest text costs neither side more.
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _seq2seq

ROWS, SOURCE, BEAMS = 16, 400, 4


def _tokens(run: Run) -> int:
    return 12 if run.quick else 48


def _model(run: Run) -> tuple[Any, int]:
    """Weights with which beams differ, and how many of its tokens are kept: the first ones."""
    import torch

    model = _seq2seq.model(run, _seq2seq.FULL, layers=2, scale=0.06)
    kept = _seq2seq.TRIMMED // 8 if run.quick else _seq2seq.TRIMMED
    with torch.no_grad():
        model.final_logits_bias[0, kept:] = -1e9
        model.final_logits_bias[0, :4] = -1e9  # no </s>: all rows are as long as they may be
    return model.eval(), kept


def _sources() -> list[dict[str, list[int]]]:
    return _seq2seq.rows(0, ROWS, SOURCE, 64)


def trainer(run: Run) -> dict[str, float]:
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    model, _ = _model(run)
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder, predict_with_generate=True, use_cpu=True, report_to=[], disable_tqdm=True
        )
        made = Seq2SeqTrainer(
            model=model, args=arguments, data_collator=DataCollatorForSeq2Seq(_seq2seq.Tokenizer(), model=model)
        )
        begun = time.perf_counter()
        found = made.predict(_sources(), max_length=_tokens(run) + 1, num_beams=BEAMS)  # type: ignore[arg-type]
        seconds = time.perf_counter() - begun
    written = [[id_ for id_ in row if id_ > 3] for row in found.predictions.tolist()]
    (run.folder / "trainer.json").write_text(json.dumps(written))
    return {"seconds": seconds}


def ours(run: Run) -> dict[str, float]:
    import numpy as np

    from graftlm.data.format import HostFormat
    from graftlm.models.generate import generate

    model, kept = _model(run)
    # no language codes: the model is of random weights, and the Trainer's side forces none
    format = HostFormat(kind="cc25", pad_id=1, bos_id=0, eos_id=2, mask_id=3, languages={"en_XX": 2})
    sources = [row["input_ids"] for row in _sources()]
    begun = time.perf_counter()
    written = generate(
        model, format, sources, "en_XX", num_beams=BEAMS, max_new_tokens=_tokens(run), kept=np.arange(4, kept)
    )
    figures = {"seconds": time.perf_counter() - begun}
    theirs = run.folder / "trainer.json"
    if theirs.exists():
        pairs = zip(written, json.loads(theirs.read_text()), strict=True)
        figures["same"] = sum(one == two for one, two in pairs) / len(written)
    return figures


CASE = Case(
    sides={"trainer": trainer, "ours": ours},
    rows=[
        Row("generation, 4 beams, mBART-large width, 2+2 layers, against Seq2SeqTrainer", peer="trainer", goal=10),
        Row("texts that are the same on both sides", "same", peer=None, more=True, goal=1, unit="%", scale=100),
    ],
    memory_gb=8.0,
    quick_memory_gb=2.0,
    seconds=400,
)
