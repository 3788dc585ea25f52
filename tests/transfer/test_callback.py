from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from graftlm.errors import StoreError
from graftlm.models.tied import untie
from graftlm.transfer import adapters, handover
from graftlm.transfer.anatomy import host_block
from graftlm.transfer.callback import TransferCallback
from graftlm.transfer.weights import ModelWeights


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


def changed(host: Any) -> Any:
    """A copy with other values everywhere."""
    other = copy.deepcopy(host)
    with torch.no_grad():
        for name, value in other.state_dict().items():
            value.add_(torch.arange(value.numel()).reshape(value.shape) * 1e-3 + len(name))
    return other


def with_adapter(host: Any) -> None:
    modules = [host_block(layer).query for layer in range(host.config.encoder_layers)]
    adapters.attach(host, modules, rank=3, alpha=6.0, dropout=0.25)
    with torch.no_grad():
        for name, parameter in host.named_parameters():
            if ".lora_" in name:
                parameter.normal_()


def same(one: Any, other: Any) -> None:
    """Every tensor to the bit, which are trained, which are one, and what stands in the adapters."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert ModelWeights(one).aliases == ModelWeights(other).aliases
    trained = [{name: item.requires_grad for name, item in host.named_parameters()} for host in (one, other)]
    assert trained[0] == trained[1]
    assert adapters.attached(one) == adapters.attached(other)


@pytest.mark.parametrize("kind", ["plain", "untied", "adapter", "both"])
def test_a_host_survives_the_way_between_two_stages(kind: str, host: Any, tmp_path: Path) -> None:
    """Buffers, output words of their own, and an adapter with its dropout and what is frozen around it."""
    grafted = changed(host)
    if kind in ("adapter", "both"):
        with_adapter(grafted)
    if kind in ("untied", "both"):
        untie(grafted)
        with torch.no_grad():
            grafted.lm_head.weight.add_(1)
    assert float(grafted.final_logits_bias.abs().sum()) > 0
    handover.save(grafted, tmp_path)
    fresh = copy.deepcopy(host)
    handover.load(fresh, tmp_path)
    same(fresh, grafted)
    # the structure alone: the values are those that were there
    shell = copy.deepcopy(host)
    handover.load(shell, tmp_path, values=False)
    assert list(shell.state_dict()) == list(grafted.state_dict())
    assert torch.equal(shell.model.decoder.layers[0].fc1.weight, host.model.decoder.layers[0].fc1.weight)
    # and what is on the disk is a folder of transformers
    plain, told = type(host).from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not told["missing_keys"]
    assert torch.equal(plain.lm_head.weight, grafted.lm_head.weight)
    assert torch.equal(plain.final_logits_bias, grafted.final_logits_bias)


def test_another_host_is_refused(host: Any, tmp_path: Path) -> None:
    handover.save(host, tmp_path)
    other = copy.deepcopy(host)
    other.model.decoder.layers = other.model.decoder.layers[:0]
    with pytest.raises(StoreError, match="holds another host than was built"):
        handover.load(other, tmp_path)
    other = copy.deepcopy(host)
    other.final_logits_bias = torch.zeros(1, 3)
    with pytest.raises(StoreError, match="1 tensors differ, first final_logits_bias"):
        handover.load(other, tmp_path)


def test_put_in_once_before_training_and_not_in_a_resumed_run(host: Any, tmp_path: Path) -> None:
    grafted = changed(host)
    with_adapter(grafted)
    handover.save(grafted, tmp_path / "graft")
    weight = grafted.model.encoder.layers[0].fc2.weight.detach().clone()
    fresh = copy.deepcopy(host)
    data = DataLoader(torch.zeros(8, 1), batch_size=2)
    module = Frozen(host)
    callback = Watched(tmp_path / "graft")
    first = trainer(tmp_path, callback, 2)
    first.fit(module, data)
    assert callback.untouched
    assert torch.equal(module.starts[0], weight)
    with torch.no_grad():
        host.model.encoder.layers[0].fc2.weight.add_(1)  # what training would have made of it
    first.save_checkpoint(tmp_path / "last.ckpt")
    trained = host.model.encoder.layers[0].fc2.weight.detach().clone()

    # a second fit of the same callback does nothing
    trainer(tmp_path, callback, 4).fit(module, data)
    assert torch.equal(module.starts[1], trained)

    # a resumed run needs the modules that the graft added, and keeps its own values, even if nobody says that it is one
    for resuming in (True, False):
        again = Frozen(copy.deepcopy(fresh))
        resumed = Watched(tmp_path / "graft", resuming=resuming)
        trainer(tmp_path, resumed, 4).fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
        assert torch.equal(again.starts[0], trained)
        assert resumed.untouched
