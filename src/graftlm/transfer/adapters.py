"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) by peft: on the donor in pretraining, and on the host.

The extra `graftlm[lora]` brings peft. Reading a folder of peft needs no peft.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.errors import Problem, TransferError
from graftlm.transfer.anatomy import donor_block

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftlm.schema import AdapterSettings
    from graftlm.transfer.weights import Weights

FOLDER = "adapter"  # of the pretrain stage's artifact
_NAME = "default"  # peft's name for the one adapter of a model
_PREFIX = "base_model.model."  # of the tensors in a folder of peft
# what is trained of the MLM head beside an adapter; its output matrix is the word embeddings, which stay
_LAYER = re.compile(r"\.layer\.(\d+)\.")
_HEAD = ("lm_head.dense.", "lm_head.layer_norm.", "lm_head.bias")


def missing(path: str) -> list[Problem]:
    """The problem that peft is not installed, if it is not."""
    if importlib.util.find_spec("peft") is not None:
        return []
    return [Problem(path, None, "adapters need peft, which is not installed", "pip install 'graftlm[lora]'")]


@dataclass(frozen=True)
class Adapter:
    """The low-rank changes in a folder of peft: ΔW = scaling · B·A for each adapted module of the donor.

    Attributes:
        rank: of A [rank, in] and B [out, rank].
        scaling: alpha / rank (alpha / √rank with rsLoRA).
        dropout: of its inputs in training.
        maps: module name → (A, B), in float32.
    """

    rank: int
    scaling: float
    dropout: float
    maps: Mapping[str, tuple[Tensor, Tensor]]

    def change(self, module: str) -> Tensor:
        """ΔW [out, in] of an adapted module."""
        a, b = self.maps[module]
        return self.scaling * (b @ a)


def read(folder: Path, path: str = "transfer.adapter") -> Adapter:
    """The adapter of a folder of peft.

    Raises:
        TransferError: there is none, it is damaged, or it is of a kind that is more than a low-rank change.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        kind, rank, alpha = str(config["peft_type"]), int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TransferError.at(path, folder, f"holds no adapter that can be read ({type(error).__name__})") from error
    odd = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias") if config.get(name)]
    if kind != "LORA" or odd:
        raise TransferError.at(
            path, folder, f"is more than a plain LoRA ({kind}, {', '.join(odd)})", "take a plain one"
        )
    maps = {}
    for name, tensor in tensors.items():
        if ".lora_A." not in name and ".lora_B." not in name and "lm_head." not in name:  # a head is not carried
            raise TransferError.at(path, folder, f"is more than a plain LoRA: it changes {name}", "take a plain one")
        module, found, _ = name.removeprefix(_PREFIX).partition(".lora_A.")
        if found:
            other = tensors.get(name.replace(".lora_A.", ".lora_B."))
            if other is None or (tensor.ndim, other.ndim) != (2, 2) or not len(tensor) == other.shape[1] == rank:
                raise TransferError.at(
                    path, folder, f"has no two factors of rank {rank} for {module}", "write the adapter again"
                )
            maps[module] = (tensor.float(), other.float())
    scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Adapter(rank, scaling, float(config.get("lora_dropout") or 0.0), maps)


def check_fit(adapter: Adapter, donor: Weights, folder: Path, path: str = "transfer.adapter") -> None:
    """Whether an adapter is of this donor, by the maps of its layers and their shapes.

    Raises:
        TransferError: naming the first map that the donor lacks or has in another shape.
    """
    for module, (a, b) in adapter.maps.items():
        if not _LAYER.search(module):
            continue  # not carried: a head that was trained beside the layers
        name = f"{module}.weight"
        have, want = (b.shape[0], a.shape[1]), donor.shape(name) if name in donor else None
        if have != want:
            what = f"has shape {have}, in the donor {want}" if want else "is not in the donor"
            raise TransferError.at(
                path,
                folder,
                f"is the adapter of another model: its {module} {what}",
                "name the one that was trained beside this donor",
            )


def wrap(donor: Any, settings: AdapterSettings) -> Any:
    """Give an XLM-R adapters in place and freeze the rest of it; returns peft's wrapper.

    With `settings.head` the MLM head's dense map, LayerNorm and bias are trained as well: a checkpoint may come
    without a head, and a random one would keep the adapter from learning. They end up in the merged model, not in the
    adapter's folder. The output matrix is the word embeddings and stays frozen with them.
    """
    from peft import LoraConfig, get_peft_model

    layers = range(donor.config.num_hidden_layers)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[getattr(donor_block(layer), name) for layer in layers for name in settings.targets],
    )
    wrapped = get_peft_model(donor, config)
    if settings.head:
        for name, parameter in donor.named_parameters():
            if name.startswith(_HEAD):
                parameter.requires_grad_(True)
    return wrapped


def save(wrapped: Any, folder: Path) -> None:
    """Write the adapter as a folder of peft."""
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card


def attach(host: Any, modules: Iterable[str], rank: int, alpha: float, dropout: float) -> None:
    """Give linear maps of an mBART's encoder adapters in place, and freeze the rest of the encoder.

    The shared embeddings and the decoder are trained as before. An adapter that was just attached changes nothing; a
    second call on the same host does nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    modules = list(modules)
    if not hasattr(host, "peft_config"):
        trained = {id(parameter) for parameter in host.parameters() if parameter.requires_grad}
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules)
        inject_adapter_in_model(config, host)
        for name, parameter in host.named_parameters():
            if "lora_" not in name:
                parameter.requires_grad_(id(parameter) in trained and not name.startswith("model.encoder."))
        for name in modules:
            host.get_submodule(name).train(host.training)


def attached(host: Any) -> dict[str, Any] | None:
    """What `attach` was called with on this host, as plain values; None where it was not."""
    if not hasattr(host, "peft_config"):
        return None
    config = host.peft_config[_NAME]
    return {
        "modules": sorted(config.target_modules),
        "rank": config.r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
    }


def factors(module: str) -> tuple[str, str]:
    """Names of the tensors A [rank, in] and B [out, rank] of a module that `attach` gave an adapter."""
    return f"{module}.lora_A.{_NAME}.weight", f"{module}.lora_B.{_NAME}.weight"


def merge(model: nn.Module) -> None:
    """Add the adapters that `attach` gave a model to its weights, and take the modules of peft out; else do nothing."""
    if not hasattr(model, "peft_config"):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    del model.peft_config
