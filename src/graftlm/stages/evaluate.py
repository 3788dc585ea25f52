"""Stage `evaluate`: teacher-forced loss and generated text on the test split."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from transformers import MBartForConditionalGeneration

from graftlm.data.corpus import Corpus
from graftlm.data.format import HostFormat
from graftlm.data.modules import evaluation_batches
from graftlm.jobs import StageContext
from graftlm.models.generate import generate
from graftlm.models.loss import per_example_nll
from graftlm.scores import corpus_scores, row_scores
from graftlm.stages.training import make_trainer, write_cost
from graftlm.store import write_json
from graftlm.tracking import tracker


def run(context: StageContext) -> None:
    """Leave `scores.json` and, row by row, `examples.jsonl`."""
    settings = context.settings
    begun = time.monotonic()
    corpus = Corpus(context.inputs["corpus"])
    device = make_trainer(settings.trainer, logger=False).strategy.root_device
    model = MBartForConditionalGeneration.from_pretrained(context.inputs["finetune"] / "model").to(device).eval()
    format = HostFormat.from_tokenizer(corpus.host_tokenizer)
    with tracker(context) as track:
        rows = _rows(context, corpus, model, format, device)
        scores = _scores(rows, settings.data.task)
        with (context.work / "examples.jsonl").open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_json(context.work / "scores.json", scores)
        flat = {name: value for name, value in scores["all"].items() if isinstance(value, int | float)}
        track.summary({f"test/{name}": value for name, value in {**flat, "loss": scores["loss"], "gap": scores["gap"]}.items()})
        shown = ["source", "reference", "prediction", "target_lang", "loss", "chrf"]
        track.table("predictions", shown, [[row[name] for name in shown] for row in rows[:100]])
    tokens = sum(row["tokens"] for row in rows)
    write_cost(context.work, {"seconds": round(time.monotonic() - begun, 3), "examples": len(rows), "tokens": tokens})


def _rows(
    context: StageContext, corpus: Corpus, model: Any, format: HostFormat, device: torch.device
) -> list[dict[str, Any]]:
    """One row an example of the test split, with losses and the generated text, in the order of the split."""
    settings = context.settings
    pairs = corpus.pairs("test")
    batches = evaluation_batches(
        corpus, "test", settings.finetune, settings.evaluate.max_pairs, settings.evaluate.batch_size
    )
    total = sum(len(batch["index"]) for batch in batches)
    rows: dict[int, dict[str, Any]] = {}
    label = f"evaluate {settings.transfer.name} seed {settings.finetune.seed}"
    with torch.inference_mode(), context.progress.task(label, total) as advance:
        for batch in batches:
            batch = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
            nll, tokens = per_example_nll(model, batch)
            shuffled, _ = per_example_nll(model, batch, shuffled=True)
            written = generate(
                model,
                format,
                batch["input_ids"],
                batch["attention_mask"],
                batch["target_langs"],
                num_beams=settings.evaluate.num_beams,
                max_new_tokens=settings.evaluate.max_new_tokens,
                length_penalty=settings.evaluate.length_penalty,
                no_repeat_ngram_size=settings.evaluate.no_repeat_ngram_size,
            )
            texts = corpus.host_tokenizer.batch_decode(written, skip_special_tokens=True)
            for place, index in enumerate(int(index) for index in batch["index"]):
                pair, prediction = pairs[index], texts[place].strip()
                rows[index] = {
                    "index": index,
                    "source": pair.source,
                    "reference": pair.target,
                    "prediction": prediction,
                    "source_lang": pair.source_lang,
                    "target_lang": pair.target_lang,
                    "loss": float(nll[place] / tokens[place]),
                    "loss_shuffled": float(shuffled[place] / tokens[place]),
                    "tokens": int(tokens[place]),
                    **row_scores(prediction, pair.target, pair.target_lang, settings.data.task),
                }
            advance(len(batch["index"]))
    return [rows[index] for index in sorted(rows)]


def _scores(rows: list[dict[str, Any]], task: str) -> dict[str, Any]:
    tokens = sum(row["tokens"] for row in rows)
    loss = sum(row["loss"] * row["tokens"] for row in rows) / tokens
    shuffled = sum(row["loss_shuffled"] * row["tokens"] for row in rows) / tokens
    return {
        "split": "test",
        "pairs": len(rows),
        "loss": loss,
        "loss_shuffled": shuffled,
        "gap": shuffled - loss,
        **corpus_scores(rows, task),
    }
