"""Stage `pretrain`: masked-language modelling of the donor (XLM-R) on the corpus."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from graftlm.context import StageContext
from graftlm.data.corpus import Corpus
from graftlm.data.modules import MlmDataModule
from graftlm.models.build import build_donor
from graftlm.models.full_loss import CutRows
from graftlm.models.mlm import MlmModule
from graftlm.models.packed import attend_by_borders
from graftlm.stages.training import fit, write_cost
from graftlm.store import write_json
from graftlm.tracking import tracker
from graftlm.transfer import adapters

FRESH = "fresh.json"


def run(context: StageContext) -> None:
    """Train the donor and leave it as a Hugging Face folder in `model/`.

    With `transfer.adapter.rank` an adapter alone is trained: `adapter/` holds it, `model/` the donor with it merged in.
    A head that the checkpoint lacks and that was not trained either is random still: `fresh.json` names its tensors.
    """
    settings = context.settings
    corpus = Corpus(context.inputs["corpus"])
    pl.seed_everything(settings.pretrain.seed, verbose=False)
    tokenizer = corpus.donor_tokenizer
    fresh: list[str] = []
    donor = build_donor(settings.model, tokenizer, corpus.donor_rows, fresh)
    cost = {"seconds": 0.0, "steps": 0, "examples": 0, "tokens": 0, "flops": 0, "parameters": donor.num_parameters()}
    adapter = settings.transfer.adapter
    wrapped = adapters.wrap(donor, adapter) if adapter.rank else None
    with tracker(context) as track:
        if settings.pretrain.max_steps:
            if settings.pretrain.packing:
                attend_by_borders(donor, settings.trainer.precision)
            module = MlmModule(donor, settings.pretrain, settings.mask)
            module.cut = CutRows.of(settings.model.donor, "donor", "xlm-roberta", corpus.donor_rows)
            data = MlmDataModule(corpus, settings.pretrain, settings.mask, settings.trainer)
            cost = fit(context, module, data, settings.pretrain, track, f"pretrain {settings.mask.name}")
            track.summary({f"cost/{name}": value for name, value in cost.items()})
            donor = module.model if wrapped is None else donor
        if not context.leader:
            return
        if wrapped is not None:
            adapters.save(wrapped, context.work / adapters.FOLDER)
            adapters.merge(donor)
        with torch.no_grad():
            donor.eval().save_pretrained(context.work / "model")
        tokenizer.save_pretrained(context.work / "model")
        if fresh and not (settings.pretrain.max_steps and (wrapped is None or adapter.head)):
            write_json(context.work / FRESH, fresh)
        write_cost(context.work, cost)
