"""A donor that is not a toy: LayerNorm scales that vary, outlier tokens, and no two layers alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def rough_donor(donor: Any) -> Any:
    """What a small random XLM-R lacks and a trained one has: sizes of tokens and dimensions that differ widely."""
    import torch

    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "LayerNorm.weight" in name:
                parameter.mul_(torch.exp(0.4 * torch.randn(parameter.shape, generator=draw)))
            elif "LayerNorm.bias" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
            elif name.endswith("dense.weight") or (".self." in name and name.endswith("weight")):
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5, generator=draw)
            elif "embeddings.weight" in name:
                parameter.normal_(0, 0.1, generator=draw)
        # few tokens make two neurons fire, which blow them up
        layer = donor.roberta.encoder.layer[0]
        layer.intermediate.dense.bias[:2] = -2.0
        layer.output.dense.weight[:, :2].mul_(60)
        donor.lm_head.bias.normal_(0, 1, generator=draw)
    return donor.eval()


@pytest.fixture
def texts(rows: Any, donor_tokenizer: Any) -> list[np.ndarray]:
    """Texts as donor ids without special tokens."""
    from graftlm.data.tokenizers import encode

    return [np.asarray(ids) for ids in encode(donor_tokenizer, [text.text for text in rows[1]])]
