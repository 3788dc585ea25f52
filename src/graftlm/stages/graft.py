"""Stage `graft`: the steps of the strategy, from the donor into the host that fine-tuning begins with.

It runs once, in the process of the job, however many devices train afterwards.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from graftlm.checkpoint import donor_shape, read_config
from graftlm.context import StageContext
from graftlm.data.corpus import Corpus
from graftlm.data.tokens import TokenFile
from graftlm.models.build import build_donor, build_host, load_model
from graftlm.schema import ModelSettings, Settings
from graftlm.stages.pretrain import FRESH
from graftlm.stages.training import make_trainer, write_cost
from graftlm.store import SCRATCH
from graftlm.tracking import tracker
from graftlm.tracking.tables import transfer_tables
from graftlm.transfer import adapters, handover
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.strategy import any_step


def run(context: StageContext) -> None:
    """Leave the grafted host, its tokenizer and `transfer.json`."""
    settings = context.settings
    strategy = settings.transfer
    corpus = Corpus(context.inputs["corpus"])
    host = initial_host(settings, corpus)
    pretrained = context.inputs.get("pretrain")
    donor = base = adapter = None
    fresh: list[str] = []
    if pretrained is not None:
        where = "model.donor.checkpoint"
        donor = load_model(XLMRobertaForMaskedLM, str(pretrained / "model"), None, "xlm-roberta", where)
        adapter = pretrained / adapters.FOLDER if strategy.adapter.rank else None
        if (pretrained / FRESH).is_file():
            fresh = json.loads((pretrained / FRESH).read_text(encoding="utf-8"))
    if any_step(strategy, "needs_base"):
        base = build_donor(settings.model, corpus.donor_tokenizer, corpus.donor_rows)
    texts, langs, held_out = corpus.texts("train"), corpus.text_langs("train"), corpus.texts("validation")
    held_out_langs = corpus.text_langs("validation")
    places = _places(texts, strategy.calibration_texts)
    held_out_places = _places(held_out, strategy.fidelity_texts)
    trainer = make_trainer(dataclasses.replace(settings.trainer, devices=1, strategy="auto"), logger=False)
    device = trainer.strategy.root_device
    with tracker(context) as track:
        report = apply_strategy(
            strategy,
            donor,
            host,
            corpus.donor_tokenizer,
            corpus.host_tokenizer,
            _sample(texts, places),
            _sample(held_out, held_out_places),
            settings.model.host.checkpoint is not None,
            context.progress,
            languages=[langs[place] for place in places],
            held_out_languages=[held_out_langs[place] for place in held_out_places],
            fresh=fresh,
            base=base,
            adapter=adapter,
            device=str(device),
            precision=str(trainer.precision),
            scratch=context.work / SCRATCH,
        )
        cost = {
            "seconds": round(report.seconds, 3),
            "flops": report.flops,
            "parameters": sum(parameter.numel() for parameter in host.parameters()),
        }
        track.summary({f"cost/{name}": value for name, value in cost.items()})
        track.summary(fidelity(report.as_dict()))
        for table in transfer_tables(report.as_dict()):
            track.table(*table)
        report.write(context.work / "transfer.json")
        handover.save(host, context.work)
        corpus.host_tokenizer.save_pretrained(context.work / "model")
        write_cost(context.work, cost)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the processes that train are others


def initial_host(settings: Settings, corpus: Corpus) -> Any:
    """The host as it is before any graft: the same one for every arm of a fine-tuning seed."""
    pl.seed_everything(settings.finetune.seed, verbose=False)
    return build_host(settings.model, corpus.host_tokenizer, _donor_config(settings.model), corpus.host_rows)


def fidelity(transfer: dict[str, Any]) -> dict[str, Any]:
    """What a dashboard shows of a `transfer.json`."""
    found = transfer.get("fidelity")
    return {f"fidelity/{name}": value for name, value in found["after"].items()} if found else {}


def _donor_config(model: ModelSettings) -> XLMRobertaConfig:
    """The sizes that a host to be built takes where its own are null; an arm without a donor needs them too."""
    donor = model.donor
    if donor.checkpoint is None:
        return XLMRobertaConfig(**donor_shape(donor))
    return XLMRobertaConfig(**read_config(donor.checkpoint, donor.revision, "model.donor.checkpoint"))


def _places(texts: TokenFile, most: int) -> list[int]:
    """Places of texts spread over the whole file, always the same ones."""
    return [int(place) for place in np.sort(np.random.default_rng(0).permutation(len(texts))[:most])]


def _sample(texts: TokenFile, places: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    return [np.asarray(texts[place], dtype=np.int64) for place in places]
