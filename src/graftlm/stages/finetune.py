"""Stage `finetune`: sequence-to-sequence training of the host (mBART), grafted or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from graftlm.context import StageContext
from graftlm.data.corpus import Corpus
from graftlm.data.format import HostFormat
from graftlm.data.modules import Seq2SeqDataModule
from graftlm.models.build import set_generation
from graftlm.models.full_loss import CutRows
from graftlm.models.seq2seq import Seq2SeqModule
from graftlm.search.pruning import make_watch
from graftlm.stages.graft import fidelity, initial_host
from graftlm.stages.saving import saved
from graftlm.stages.training import fit, write_cost
from graftlm.tracking import Tracker, tracker
from graftlm.transfer import adapters
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.callback import TransferCallback


def run(context: StageContext) -> None:
    """Train the host and leave it with its tokenizer; without a graft, `transfer.json` too, which says so."""
    settings = context.settings
    corpus = Corpus(context.inputs["corpus"])
    tokenizer = corpus.host_tokenizer
    # the weights of a graft are put in by the callback: up to there all arms do the same and draw the same
    host = initial_host(settings, corpus)
    graft = context.inputs.get("graft")
    callbacks = []
    if graft is not None:
        callbacks.append(TransferCallback(graft, resuming=saved(context.work, context.progress) is not None))
    elif context.leader:
        pretrained = settings.model.host.checkpoint is not None
        untouched = apply_strategy(settings.transfer, None, host, None, tokenizer, [], [], pretrained, context.progress)
        untouched.write(context.work / "transfer.json")
    format = HostFormat.from_tokenizer(tokenizer)
    with tracker(context) as track:
        module = Seq2SeqModule(host, tokenizer, settings.finetune, settings.transfer)
        module.cut = CutRows.of(settings.model.host, "host", settings.model.host.architecture, corpus.host_rows)
        data = Seq2SeqDataModule(corpus, settings.finetune, settings.trainer)
        label = f"finetune {settings.transfer.name} seed {settings.finetune.seed}"
        cost = fit(
            context,
            module,
            data,
            settings.finetune,
            track,
            label,
            callbacks=callbacks,
            early_validation=True,
            watch=make_watch(settings, context.progress, context.leader),
        )
        if not context.leader:
            return
        host = module.model
        _summarise(track, cost, graft)
        if module.samples:
            names = list(module.samples[0])
            track.table("samples", names, [[sample[name] for name in names] for sample in module.samples])
        adapters.merge(host)
        targets = sorted(set(corpus.target_langs("train")))
        set_generation(host, format, targets[0] if len(targets) == 1 else None)
        sources = set(corpus.source_langs("train"))
        if len(sources) == 1:
            tokenizer.src_lang = next(iter(sources))  # a reader of the folder need not name it
        with torch.no_grad():
            host.eval().save_pretrained(context.work / "model")
        tokenizer.save_pretrained(context.work / "model")
        write_cost(context.work, cost)


def _summarise(track: Tracker, cost: dict[str, Any], graft: Path | None) -> None:
    """Cost and fidelity for the dashboards; those of the graft too, so that runs can be sorted by them."""
    track.summary({f"cost/{name}": value for name, value in cost.items()})
    if graft is not None:
        grafted = json.loads((graft / "cost.json").read_text(encoding="utf-8"))
        track.summary({f"cost/graft_{name}": grafted[name] for name in ("seconds", "flops")})
        track.summary(fidelity(json.loads((graft / "transfer.json").read_text(encoding="utf-8"))))
