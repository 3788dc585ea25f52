from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from graftlm.errors import TransferError
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.strategy import check_steps

KEEPING = {"step": "embeddings", "output": "keep"}
ENCODER = {"step": "encoder", "tokens": 500}


def graft(donor: Any, host: Any, tokenizers: Any, texts: Any, *steps: Any, pretrained: bool = True) -> Any:
    settings = TransferSettings(name="mine", steps=list(steps), control=True)
    return apply_strategy(settings, donor, host, *tokenizers, texts[20:], texts[:5], pretrained)


@pytest.fixture
def tokenizers(donor_tokenizer: Any, host_tokenizer: Any) -> tuple[Any, Any]:
    return donor_tokenizer, host_tokenizer


def share(name: str) -> float:
    """What `alpha: 0.25, last: 1.0, embeddings: 0.5` give a tensor of a host of two layers."""
    if "encoder.layers.0." in name:
        return 0.25
    if "encoder.layers.1." in name or "encoder.layer_norm" in name:
        return 1.0
    return 0.5


def test_each_layer_has_its_share(rough_donor: Any, host: Any, tokenizers: Any, texts: Any) -> None:
    before = {name: value.clone() for name, value in host.state_dict().items()}
    whole = copy.deepcopy(host)
    graft(rough_donor, whole, tokenizers, texts, KEEPING, ENCODER)
    grafted = whole.state_dict()
    step = {"step": "interpolate", "alpha": 0.25, "last": 1.0, "embeddings": 0.5}
    report = graft(rough_donor, host, tokenizers, texts, KEEPING, ENCODER, step)
    for name, value in host.state_dict().items():
        wanted = torch.lerp(before[name], grafted[name], share(name))
        assert torch.allclose(value, wanted, atol=1e-6), name
        if "encoder.layers.1." in name:
            assert torch.equal(value, grafted[name])
    noted = {item.name for item in report.host_tensors if "x the graft" in item.note}
    names = [item.name for item in report.host_tensors]
    assert noted == {name for name in names if not torch.equal(before[name], grafted[name])}


def test_nothing_of_the_graft_is_the_host_as_it_was(rough_donor: Any, host: Any, tokenizers: Any, texts: Any) -> None:
    before = {name: value.clone() for name, value in host.state_dict().items()}
    step = {"step": "interpolate", "alpha": 0.0}
    graft(rough_donor, host, tokenizers, texts, KEEPING, ENCODER, step)
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())


def test_needs_a_graft_before_it_and_a_host_that_is_worth_keeping(
    rough_donor: Any, host: Any, tokenizers: Any, texts: Any
) -> None:
    (problem,) = check_steps([{"step": "interpolate"}], "s")
    assert "interpolate: needs a step before it that writes model.encoder.layers.*" in str(problem)
    assert not list(check_steps([KEEPING, {"step": "interpolate"}], "s"))
    with pytest.raises(TransferError, match="interpolate needs a pretrained host"):
        graft(rough_donor, host, tokenizers, texts, KEEPING, {"step": "interpolate"}, pretrained=False)
