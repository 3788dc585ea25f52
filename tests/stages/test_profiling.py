"""The profile of a real training: every part has its time, forward and backward, and all of it is assigned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from graftlm.data.modules import MlmDataModule, Seq2SeqDataModule
from graftlm.models.mlm import MlmModule
from graftlm.models.seq2seq import Seq2SeqModule
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings, TransferSettings
from graftlm.stages.profiling import PARTS, ProfileSteps
from said import Said


@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
def test_a_steps_time_by_part(kind: str, corpus: Any, donor: Any, host: Any, tmp_path: Path) -> None:
    steps, trainer = 5, TrainerSettings(accelerator="cpu")
    if kind == "mlm":
        pretrain = PretrainSettings(max_steps=steps, batch_tokens=300, max_length=32)
        module: Any = MlmModule(donor, pretrain, MaskSettings())
        data: Any = MlmDataModule(corpus, pretrain, MaskSettings(), trainer)
    else:
        finetune = FinetuneSettings(max_steps=steps, batch_tokens=300, max_source_length=64, max_target_length=64)
        module = Seq2SeqModule(host, corpus.host_tokenizer, finetune, TransferSettings(name="t"))
        data = Seq2SeqDataModule(corpus, finetune, trainer)
    said: Any = Said()
    pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[ProfileSteps(2, tmp_path / "profile", said, "here")],
    ).fit(module, datamodule=data)
    table = (tmp_path / "profile" / "table.txt").read_text().splitlines()
    assert said.lines[0].startswith("here: 2 steps profiled")
    assert said.lines[1:] == table
    rows = {line[:14].strip(): line[14:].split() for line in table[1:]}
    assert list(rows) == [*PARTS, "all"]
    for part in ("embeddings", "attention", "ffn", "head + loss"):
        forward, backward = map(float, rows[part][:2])
        assert forward > 0, part
        assert backward > 0, part
    assert float(rows["optimizer"][0]) > 0
    assert sum(float(rows[part][3].rstrip("%")) for part in PARTS) == pytest.approx(100, abs=0.5)
    assert sum(float(rows[part][2]) for part in PARTS) == pytest.approx(float(rows["all"][0]), abs=0.1)
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert not any(module._forward_pre_hooks for module in module.model.modules())
