"""A model cut to some rows of its vocabulary, and put back: the tokens of a corpus are a small part of 250,000.

`rows[i]` is the full id of the trimmed id i. Only tensors with a row a token change: word embeddings, output projection
and its bias (`lm_head.bias`, `final_logits_bias`). What is tied stays tied.

Source of the idea: Abdaoui et al. 2020, "Load What You Need: Smaller Versions of Multilingual BERT".
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftlm.models.tied import untie

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# names in XLM-R's, mBART's and BART's state_dict of what has a row a token
TABLES = (
    "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "lm_head.bias",
    "model.shared.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
    "final_logits_bias",
)
_IDS = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


def trim(model: Any, rows: npt.NDArray[np.int64]) -> Any:
    """The model itself, an XLM-R, mBART or BART, with only the given rows of its vocabulary, in their order.

    Raises:
        ValueError: a row is named twice or not there, or `<pad>` is not kept at its place.
    """
    index = _checked(rows, model.config.vocab_size)
    _keep_padding(model, index)
    places: dict[int, list[tuple[Any, str]]] = {}
    tables: list[Tensor] = []
    for name in TABLES:
        owner, attribute = _owner(model, name)
        table = getattr(owner, attribute, None)
        if table is not None:
            if id(table) not in places:
                tables.append(table)
            places.setdefault(id(table), []).append((owner, attribute))
    while tables:  # one full table at a time beside its rows
        table = tables.pop()
        values = table.detach()[:, index] if table.dim() == 2 and len(table) == 1 else table.detach()[index]
        cut = nn.Parameter(values, table.requires_grad) if isinstance(table, nn.Parameter) else values
        for owner, attribute in places[id(table)]:
            setattr(owner, attribute, cut)
            for size in ("num_embeddings", "out_features"):
                if hasattr(owner, size):
                    setattr(owner, size, len(index))
    model.config.vocab_size = len(index)
    new = {int(full): place for place, full in enumerate(rows)}
    for config in _configs(model):
        _renumber(config, new)
    return model


def expand(trimmed: Any, full: Any, rows: npt.NDArray[np.int64]) -> Any:
    """`full` with everything that `trimmed` has learnt: its rows where they came from, all other tensors whole.

    Rows that were cut off stay as they are in `full`, bit by bit.

    Args:
        trimmed: the model of `trim`, trained since.
        full: the same kind of model with its whole vocabulary; it is changed in place.

    Raises:
        ValueError: the two do not belong together.
    """
    index = _checked(rows, full.config.vocab_size)
    if full.config.is_encoder_decoder and not trimmed.config.tie_word_embeddings:
        untie(full)
    theirs, ours = trimmed.state_dict(), full.state_dict(keep_vars=True)
    if set(theirs) != set(ours) or trimmed.config.vocab_size != len(index):
        raise ValueError(f"no trimmed form of the other: {trimmed.config.vocab_size} tokens, {len(index)} rows")
    with torch.no_grad():
        for name, tensor in ours.items():
            if name not in TABLES:
                tensor.copy_(theirs[name])
            elif name == "final_logits_bias":
                tensor[:, index] = theirs[name].to(tensor.dtype)
            else:
                tensor[index] = theirs[name].to(tensor.dtype)
    old = {place: int(row) for place, row in enumerate(rows)}
    for config, source in zip(_configs(full), _configs(trimmed), strict=True):
        for name in _IDS:
            if hasattr(source, name):
                setattr(config, name, getattr(source, name))
        _renumber(config, old)
    return full


@contextlib.contextmanager
def narrowed(model: Any, rows: Tensor) -> Iterator[None]:
    """Within, an mBART or BART writes with the given rows of its vocabulary alone, and reads with all of it.

    Its decoder's ids are places in `rows` meanwhile, its encoder's stay. Nothing is trained so.
    """
    decoder, index = model.model.decoder, rows.to(model.device)
    before = (decoder.embed_tokens, model.lm_head, model.final_logits_bias)
    try:
        decoder.embed_tokens = _cut(decoder.embed_tokens, index)
        model.lm_head = _cut(model.lm_head, index)
        model.final_logits_bias = model.final_logits_bias[:, index]
        yield
    finally:
        decoder.embed_tokens, model.lm_head, model.final_logits_bias = before


def _cut(module: nn.Module, index: Tensor) -> nn.Module:
    """The same kind of module with some rows of its weight."""
    small = copy.copy(module)
    weight: Tensor = module.weight.detach()[index]  # type: ignore[operator, assignment]
    small._parameters = {**module._parameters, "weight": nn.Parameter(weight, False)}
    return small


def _checked(rows: npt.NDArray[np.int64], size: int) -> Tensor:
    index = torch.as_tensor(rows, dtype=torch.long)
    if len(index) == 0 or int(index.min()) < 0 or int(index.max()) >= size:
        raise ValueError(f"rows must lie between 0 and {size - 1}")
    if len(set(index.tolist())) != len(index):
        raise ValueError("a row is named twice")
    return index


def _keep_padding(model: Any, index: Tensor) -> None:
    padding = model.config.pad_token_id
    if padding is not None and (padding >= len(index) or int(index[padding]) != padding):
        raise ValueError(f"the row of <pad>, {padding}, must keep its place")


def _owner(model: Any, name: str) -> tuple[Any, str]:
    """The module that holds a tensor, or None where the model has no such part."""
    *parts, attribute = name.split(".")
    owner = model
    for part in parts:
        owner = getattr(owner, part, None)
    return owner, attribute


def _configs(model: Any) -> list[Any]:
    generation = getattr(model, "generation_config", None)
    return [model.config] if generation is None else [model.config, generation]


def _renumber(config: Any, new: dict[int, int]) -> None:
    """Ids of special tokens as the new vocabulary has them; None where the token is gone."""
    for name in _IDS:
        id_ = getattr(config, name, None)
        if isinstance(id_, int):
            setattr(config, name, new.get(id_))
