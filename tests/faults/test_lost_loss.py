"""A loss that is no number, or beyond all measure: the step, its rows, and the batch to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aftermath import PICO, clear

# what an error of the memory, or a step that was far too large, makes of one tensor of weights
HURT = (
    "import torch; from graftlm.models.base import StageModule as M\n"
    "real = M.on_train_batch_start\n"
    "def begin(module, batch, index):\n"
    "    real(module, batch, index)\n"
    "    if module.stage == '{stage}' and int(batch['number']) == {number}:\n"
    "        with torch.no_grad(): next(module.model.parameters()).mul_({factor})\n"
    "M.on_train_batch_start = begin"
)


@pytest.mark.parametrize(("stage", "factor"), [("pretrain", "1e6"), ("finetune", "float('nan')")])
def test_the_batch_of_a_lost_loss_is_kept(stage: str, factor: str, forge: Any, mends: Any, tokenised: Path) -> None:
    ended = forge.run(tokenised, *PICO, code=HURT.format(stage=stage, number=3, factor=factor))
    line = clear(ended, f"failed ({stage}.lr=", "the loss of step 3 is ", "micro-batch 3 (rows ")
    value = float(line.partition("the loss of step 3 is ")[2].split()[0])
    assert value > 1000 if stage == "pretrain" else value != value
    assert f"lower {stage}.lr" in line
    (folder,) = tokenised.glob(f"multirun/store/{stage}/*.partial/scratch/stopped")
    assert str(folder) in line
    about = json.loads((folder / "batch.json").read_text())
    assert (about["step"], about["batch"], about["before"]["batch"]) == (3, 3, 2)
    from safetensors.torch import load_file

    batch = load_file(folder / "batch.safetensors")
    assert {"input_ids", "labels"} <= batch.keys()
    if stage == "finetune":
        (corpus,) = tokenised.glob("multirun/store/corpus/*")
        pairs = [json.loads(text) for text in (corpus / "pairs.train.jsonl").read_text().splitlines()]
        assert len(about["rows"]) == len(batch["input_ids"])
        told = [pairs[row]["target"].split() for row in about["rows"]]
        assert [target.split() for _, target in about["texts"]] == told, "the rows that it names are those of the batch"
        mended = mends(tokenised)
        assert mended is None or "going on from step 2" in mended.err


def test_weights_lost_at_the_last_step_are_no_artifact(forge: Any, tokenised: Path) -> None:
    """No loss of a training step tells of them."""
    code = HURT.format(stage="pretrain", number=5, factor="1.0") + (
        "\nend = M.optimizer_step\n"
        "def step(module, *rest):\n"
        "    end(module, *rest)\n"
        "    if module.stage == 'pretrain' and module.global_step == 5:\n"
        "        with torch.no_grad(): next(module.model.parameters()).mul_(float('nan'))\n"
        "M.optimizer_step = step"
    )
    ended = forge.run(tokenised, *PICO, code=code)
    clear(ended, "failed (pretrain.lr=", "the validation loss of step 6 is nan", "micro-batch 5 (rows ")
    assert not list(tokenised.glob("multirun/store/pretrain/*/artifact.json"))
