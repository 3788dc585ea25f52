"""How an XLM-R reads packed rows (`graftlm.data.packing`): attention inside a text, positions from each text's start.

A batch with `segments` [R, L] (the number of the text in its row, 0 for padding) has several texts in a row. Attention
gets a mask of blocks along the diagonal; on a GPU, flash attention gets the texts' borders instead, and computes no
block that the mask would only throw away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def text_inputs(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the encoder of an `XLMRobertaForMaskedLM` is called with for a batch, packed or not."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "segments" not in batch:
        return inputs
    segments = batch["segments"]
    offsets = batch["offsets"] + model.config.pad_token_id + 1  # fairseq counts positions from after <pad>
    inputs["position_ids"] = torch.where(segments > 0, offsets, model.config.pad_token_id)
    implementation = model.config._attn_implementation
    if implementation.startswith("flash_attention"):
        return {**inputs, "attention_mask": None, **borders(segments)}
    # padding attends to padding: a row of the mask without a place would be a division by zero
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    if implementation == "eager":
        least = torch.finfo(model.dtype).min
        mask = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, least)
    return {**inputs, "attention_mask": mask}


def borders(segments: Tensor) -> dict[str, Any]:
    """The texts' borders in the flattened batch, as flash attention takes them; padding counts as a text."""
    rows = torch.arange(len(segments), device=segments.device)[:, None]
    numbers = (segments + rows * (int(segments.max()) + 1)).flatten()
    edges = torch.nonzero(numbers[1:] != numbers[:-1])[:, 0] + 1
    starts = torch.cat([edges.new_zeros(1), edges, edges.new_full((1,), len(numbers))]).to(torch.int32)
    longest = int(starts.diff().max())
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def attend_by_borders(model: Any, precision: str) -> None:
    """Let an XLM-R use flash attention where it is there: a GPU, half precision, the `flash_attn` package."""
    from transformers.utils import is_flash_attn_2_available

    half = precision.startswith(("bf16", "16"))
    if half and torch.cuda.is_available() and is_flash_attn_2_available():
        model.set_attn_implementation("flash_attention_2")
