"""Stage `evaluate`: teacher-forced loss and generated text on the test split."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graftlm.checkpoint import read_config
from graftlm.context import StageContext
from graftlm.data.batches import cut, subset
from graftlm.data.corpus import Corpus
from graftlm.data.format import HostFormat
from graftlm.data.pairs import PairRows, derangement
from graftlm.models.build import load_model, model_class
from graftlm.models.generate import generate_by_language
from graftlm.models.loss import per_example_nll
from graftlm.probes import probe, summary
from graftlm.scores import corpus_scores, row_scores
from graftlm.stages.training import make_trainer, write_cost
from graftlm.store import write_json
from graftlm.tracking import tracker

_WORST = 20  # examples of the largest loss that the scores name


def run(context: StageContext) -> None:
    """Leave `scores.json` and, row by row, `examples.jsonl`."""
    settings = context.settings
    begun = time.monotonic()
    corpus = Corpus(context.inputs["corpus"])
    one = dataclasses.replace(settings.trainer, devices=1, strategy="auto")
    device = make_trainer(one, logger=False).strategy.root_device
    folder = context.inputs["finetune"] / "model"
    kind = str(read_config(str(folder), None, "store.dir").get("model_type"))
    model = load_model(model_class(kind), str(folder), None, kind, "store.dir").to(device).eval()
    format = HostFormat.from_tokenizer(corpus.host_tokenizer)
    with tracker(context) as track:
        rows = _rows(context, corpus, model, format, device)
        scores = _scores(rows, settings.data.task)
        with (context.work / "examples.jsonl").open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_json(context.work / "scores.json", scores)
        probes = {f"probe/{name}": value for name, value in scores["probes"]["all"].items()}
        flat = {name: value for name, value in {**scores["all"], **probes}.items() if isinstance(value, int | float)}
        track.summary(
            {f"test/{name}": value for name, value in {**flat, "loss": scores["loss"], "gap": scores["gap"]}.items()}
        )
        shown = ["source", "reference", "prediction", "target_lang", "loss", "chrf"]
        track.table("predictions", shown, [[row[name] for name in shown] for row in rows[:100]])
        tokens = sum(row["tokens"] for row in rows)
        seconds = round(time.monotonic() - begun, 3)
        write_cost(context.work, {"seconds": seconds, "examples": len(rows), "tokens": tokens})


def _rows(
    context: StageContext, corpus: Corpus, model: Any, format: HostFormat, device: torch.device
) -> list[dict[str, Any]]:
    """One row an example of the test split, with losses and the generated text, in the order of the split."""
    settings, evaluate = context.settings, context.settings.evaluate
    pairs = PairRows(corpus, "test", settings.finetune)
    chosen = subset(len(pairs.sources), evaluate.max_pairs)
    other = derangement(chosen, pairs.source_langs, pairs.target_langs)
    order = chosen[np.argsort(pairs.longest[chosen], kind="stable")]
    label = f"{settings.transfer.name} seed {settings.finetune.seed}"
    losses: dict[int, tuple[float, float, int]] = {}
    with torch.inference_mode(), context.progress.task(f"test loss of {label}", len(order)) as advance:
        for rows in cut(order, pairs.longest, settings.finetune.batch_tokens):
            batch = {name: _to(value, device) for name, value in pairs.batch(rows).items()}
            wrong = pairs.wrong_sources(rows, [other[int(row)] for row in rows])
            nll, tokens = per_example_nll(model, batch)
            shuffled, _ = per_example_nll(model, batch, *(_to(value, device) for value in wrong))
            for row, one, two, count in zip(
                rows.tolist(), nll.tolist(), shuffled.tolist(), tokens.tolist(), strict=True
            ):
                losses[row] = (one / count, two / count, count)
            advance(len(rows))
    texts = corpus.pairs("test")
    rows_in_order = sorted(losses)
    written = generate_by_language(
        model,
        format,
        [pairs.source(row) for row in rows_in_order],
        [pairs.target_langs[row] for row in rows_in_order],
        num_beams=evaluate.num_beams,
        max_new_tokens=evaluate.max_new_tokens,
        length_penalty=evaluate.length_penalty,
        no_repeat_ngram_size=evaluate.no_repeat_ngram_size,
        kept=_used(corpus) if evaluate.vocabulary == "corpus" else None,
        batch_size=evaluate.batch_size,
        progress=context.progress,
    )
    examples: list[dict[str, Any]] = []
    for row, ids in zip(rows_in_order, written, strict=True):
        pair, prediction = texts[row], corpus.host_tokenizer.decode(ids).strip()
        loss, loss_shuffled, count = losses[row]
        examples.append(
            {
                "index": row,
                "source": pair.source,
                "reference": pair.target,
                "prediction": prediction,
                "source_lang": pair.source_lang,
                "target_lang": pair.target_lang,
                "loss": loss,
                "loss_shuffled": loss_shuffled,
                "tokens": count,
                **row_scores(prediction, pair.target, pair.target_lang, settings.data.task),
                **probe(prediction, pair.source, pair.target, pair.target_lang),
            }
        )
    return examples


def _used(corpus: Corpus) -> npt.NDArray[np.int64]:
    """The tokens of the training pairs."""
    return np.union1d(corpus.sources("train").used, corpus.targets("train").used)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


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
        "gaps": _gaps(rows),
        "worst": [row["index"] for row in sorted(rows, key=lambda row: -row["loss"])[:_WORST]],
        **corpus_scores(rows, task),
        "probes": summary(rows),
    }


def _gaps(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By target language, how much the loss rises when sources are shuffled."""
    gaps: dict[str, float] = {}
    for lang in sorted({row["target_lang"] for row in rows}):
        some = [row for row in rows if row["target_lang"] == lang]
        risen = sum((row["loss_shuffled"] - row["loss"]) * row["tokens"] for row in some)
        gaps[lang] = risen / sum(row["tokens"] for row in some)
    return gaps
