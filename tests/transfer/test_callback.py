from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from graftlm.schema import TransferSettings
from graftlm.transfer.callback import TransferCallback


class Frozen(pl.LightningModule):
    """A host whose decoder's last LayerNorm alone is trained."""

    def __init__(self, host: Any):
        super().__init__()
        self.model = host
        self.starts: list[torch.Tensor] = []

    def on_train_start(self) -> None:
        self.starts.append(self.model.model.encoder.layers[0].fc2.weight.detach().clone())

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.model.model.decoder.layer_norm.weight.square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Watched(TransferCallback):
    """Notes whether the graft left torch's random state alone."""

    untouched = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        state = torch.get_rng_state()
        super().setup(trainer, pl_module, stage)
        self.untouched = torch.equal(state, torch.get_rng_state())


def trainer(folder: Path, callback: TransferCallback, steps: int) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        default_root_dir=folder,
    )


def make(tmp_path: Path, host_tokenizer: Any, texts: Any, **others: Any) -> Watched:
    steps = [{"step": "embeddings"}, {"step": "encoder", "tokens": 3000}]
    settings = TransferSettings("calibrated", steps=steps)
    return Watched(
        settings,
        tmp_path / "donor",
        host_tokenizer,
        texts[20:],
        texts[:20],
        tmp_path / "transfer.json",
        False,
        **others,
    )


def test_applied_once_before_training_and_not_in_a_resumed_run(
    rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any, tmp_path: Path
) -> None:
    rough_donor.save_pretrained(tmp_path / "donor")
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    data = DataLoader(torch.zeros(8, 1), batch_size=2)
    module = Frozen(host)
    before = host.model.encoder.layers[0].fc2.weight.detach().clone()
    callback = make(tmp_path, host_tokenizer, texts)
    first = trainer(tmp_path, callback, 2)
    first.fit(module, data)
    assert callback.untouched
    assert not torch.equal(module.starts[0], before)
    written = json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8"))
    assert written["strategy"] == "calibrated"
    assert written["fidelity"]["after"]["cosine"] > 0.9
    with torch.no_grad():
        host.model.encoder.layers[0].fc2.weight.add_(1)  # what training would have made of it
    first.save_checkpoint(tmp_path / "last.ckpt")
    trained = host.model.encoder.layers[0].fc2.weight.detach().clone()

    # a second fit of the same callback does nothing
    report = callback.report
    trainer(tmp_path, callback, 4).fit(module, data)
    assert callback.report is report
    assert torch.equal(module.starts[1], trained)

    (tmp_path / "transfer.json").unlink()
    resumed = make(tmp_path, host_tokenizer, texts, resuming=True)
    again = Frozen(host)
    with torch.no_grad():
        host.model.encoder.layers[0].fc2.weight.zero_()
    trainer(tmp_path, resumed, 4).fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert torch.equal(again.starts[0], trained)
    assert resumed.report is None
    assert not (tmp_path / "transfer.json").exists()

    # even if nobody says so, the checkpoint's weights win
    careless = make(tmp_path, host_tokenizer, texts)
    again = Frozen(host)
    trainer(tmp_path, careless, 4).fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert torch.equal(again.starts[0], trained)


def test_the_baseline_leaves_a_report_too(host: Any, host_tokenizer: Any, tmp_path: Path) -> None:
    before = host.model.encoder.layers[0].fc2.weight.detach().clone()
    callback = TransferCallback(
        TransferSettings("none"), None, host_tokenizer, [], [], tmp_path / "transfer.json", host_pretrained=True
    )
    module = Frozen(host)
    trainer(tmp_path, callback, 1).fit(module, DataLoader(torch.zeros(4, 1), batch_size=2))
    written = json.loads((tmp_path / "transfer.json").read_text(encoding="utf-8"))
    assert written["fidelity"] is None
    assert {item["status"] for item in written["host_tensors"]} == {"kept"}
    assert torch.equal(module.starts[0], before)
