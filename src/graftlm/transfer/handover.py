"""A grafted host on disk: all its tensors, and what a step changed in its structure, which no tensor tells.

The folder `model/` is one of transformers, too. An adapter that is kept beside the maps (`lora`, `mode: train`) lies in
its file with them, and who reads it as a plain model gets the host without the adapter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graftlm.errors import StoreError
from graftlm.models.tied import untie
from graftlm.transfer import adapters
from graftlm.transfer.weights import ModelWeights, plain

STRUCTURE = "structure.json"
VERSION = 1


def save(host: Any, folder: Path) -> None:
    """Write a host into `folder`: `model/`, and `structure.json`."""
    weights = ModelWeights(host)
    told = {
        "version": VERSION,
        "untied": not host.config.tie_word_embeddings,
        "adapter": adapters.attached(host),
        "frozen": sorted(plain(name) for name, parameter in host.named_parameters() if not parameter.requires_grad),
    }
    host.save_pretrained(folder / "model", state_dict={name: weights.read(name) for name in weights.shapes})
    (folder / STRUCTURE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def load(host: Any, folder: Path, values: bool = True) -> None:
    """Make a host that was built or loaded as the saved one was before its graft into the saved one.

    `values`: False gives it the structure alone, for a checkpoint that brings the values.

    Raises:
        StoreError: the folder holds another host.
    """
    from safetensors import safe_open

    told = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
    if told["untied"]:
        untie(host)
    if told["adapter"] is not None:
        adapters.attach(host, **told["adapter"])
    if values:
        weights = ModelWeights(host)
        with safe_open(folder / "model" / "model.safetensors", framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            apart = sorted({name for name, _ in found.items() ^ weights.shapes.items()})
            if apart:
                reason = f"holds another host than was built: {len(apart)} tensors differ, first {apart[0]}"
                raise StoreError.at("store.dir", folder, reason, "remove that folder")
            for name in found:
                weights.write(name, file.get_tensor(name))
    frozen = set(told["frozen"])
    for name, parameter in host.named_parameters():
        parameter.requires_grad_(plain(name) not in frozen)
