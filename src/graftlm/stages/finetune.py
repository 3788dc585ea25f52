"""Stage `finetune`: the graft, then sequence-to-sequence training of the host (mBART)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from transformers import XLMRobertaConfig

from graftlm.checkpoint import donor_shape, read_config
from graftlm.data.corpus import Corpus
from graftlm.data.format import HostFormat
from graftlm.data.modules import Seq2SeqDataModule
from graftlm.data.tokens import TokenFile
from graftlm.jobs import StageContext
from graftlm.models.build import build_donor, build_host, set_generation
from graftlm.models.seq2seq import Seq2SeqModule
from graftlm.schema import ModelSettings
from graftlm.search.pruning import make_watch
from graftlm.stages.saving import saved
from graftlm.stages.training import fit, write_cost
from graftlm.tracking import tracker
from graftlm.transfer import adapters
from graftlm.transfer.callback import TransferCallback

# more calibration texts than any strategy asks tokens for are not read
_CALIBRATION_TEXTS = 20_000


def run(context: StageContext) -> None:
    """Graft and train the host; leave it, its tokenizer and `transfer.json`."""
    settings = context.settings
    corpus = Corpus(context.inputs["corpus"])
    tokenizer = corpus.host_tokenizer
    donor = context.inputs.get("pretrain")
    # the same seed gives every arm the same initial host, whatever the graft then writes into it
    pl.seed_everything(settings.finetune.seed, verbose=False)
    host = build_host(settings.model, tokenizer, _donor_config(settings.model), corpus.host_rows)
    report = context.work / "transfer.json"
    held_out = corpus.texts("validation")
    texts, langs = corpus.texts("train"), corpus.text_langs("train")
    places = _places(texts, _CALIBRATION_TEXTS)
    adapter = donor / adapters.FOLDER if donor is not None and settings.transfer.adapter.rank else None
    graft = TransferCallback(
        settings.transfer,
        donor / "model" if donor is not None else None,
        tokenizer,
        calibration=_sample(texts, places),
        held_out=_sample(held_out, _places(held_out, settings.transfer.fidelity_texts)),
        report_path=report,
        host_pretrained=settings.model.host.checkpoint is not None,
        donor_tokenizer=corpus.donor_tokenizer if donor is None and settings.transfer.steps else None,
        progress=context.progress,
        base=lambda: build_donor(settings.model, corpus.donor_tokenizer, corpus.donor_rows),
        adapter=adapter,
        languages=[langs[place] for place in places],
        resuming=report.is_file() and saved(context.work, context.progress) is not None,
    )
    format = HostFormat.from_tokenizer(tokenizer)
    with tracker(context) as track:
        module = Seq2SeqModule(host, tokenizer, settings.finetune, settings.transfer)
        data = Seq2SeqDataModule(corpus, settings.finetune, settings.trainer)
        label = f"finetune {settings.transfer.name} seed {settings.finetune.seed}"
        cost = fit(
            context,
            module,
            data,
            settings.finetune,
            track,
            label,
            callbacks=[graft],
            early_validation=True,
            watch=make_watch(settings, context.progress, context.leader),
        )
        if not context.leader:
            return
        host = module.model
        transfer = json.loads(report.read_text(encoding="utf-8"))
        cost["graft_seconds"] = round(float(transfer["seconds"]), 3)
        cost["graft_flops"] = transfer.get("flops", 0)
        track.summary({f"cost/{name}": value for name, value in cost.items()})
        if transfer.get("fidelity"):
            track.summary({f"fidelity/{name}": value for name, value in transfer["fidelity"]["after"].items()})
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
