"""What beams share, against the plain way: values of attention, of the encoder, of linear maps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftlm.models import generate
from graftlm.models.beams import _attend
from graftlm.models.branches import Paths, written
from graftlm.models.prepacked import prepacked

SOURCES, BEAMS, HEADS, WIDTH = 3, 4, 2, 8


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_branches_attend_as_copied_caches_do() -> None:
    """Beams are chosen at random, over more steps than memory is taken for at once."""
    torch.manual_seed(0)
    paths = Paths(SOURCES, BEAMS, torch.device("cpu"))
    layer = written(paths)
    rows = SOURCES * BEAMS
    keys = values = torch.empty(rows, HEADS, 0, WIDTH, dtype=torch.float64)
    for step in range(40):
        query, key, value = (drawn(rows, HEADS, 1, WIDTH) for _ in range(3))
        assert layer.get_seq_length() == step
        assert layer.get_mask_sizes(1) == (step + 1, 0)
        found, _ = _attend(paths, SimpleNamespace(is_causal=True), query, *layer.update(key, value), None, scaling=0.3)
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        wanted = F.scaled_dot_product_attention(query, keys, values, scale=0.3).transpose(1, 2)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        chosen = torch.randint(BEAMS, (SOURCES, BEAMS)) + BEAMS * torch.arange(SOURCES)[:, None]
        paths.go_on(chosen.flatten())
        keys, values = keys[chosen.flatten()], values[chosen.flatten()]


def test_beams_attend_to_their_source_as_repeated_ones_do() -> None:
    torch.manual_seed(0)
    paths = Paths(SOURCES, BEAMS, torch.device("cpu"))
    query = drawn(SOURCES * BEAMS, HEADS, 1, WIDTH)
    key, value = (drawn(SOURCES, HEADS, 11, WIDTH) for _ in range(2))
    mask = (torch.arange(11) < torch.tensor([11, 7, 1])[:, None])[:, None, None].repeat_interleave(BEAMS, 0)
    for some in (mask, None):
        found, _ = _attend(paths, SimpleNamespace(is_causal=False), query, key, value, some, scaling=0.3)
        all_keys, all_values = (tensor.repeat_interleave(BEAMS, 0) for tensor in (key, value))
        wanted = F.scaled_dot_product_attention(query, all_keys, all_values, some, scale=0.3).transpose(1, 2)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_sources_read_some_at_a_time_have_the_same_states(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.eval()
    lengths = [13, 12, 7, 6, 6, 2]
    sources = [torch.randint(5, 20, (length,)).tolist() for length in lengths]
    ids, attention = generate._padded(sources, 1, "cpu")
    read: list[int] = []
    host.get_encoder().register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(generate, "_READ", 25)
    with torch.no_grad():
        states = generate._encoded(host, ids, attention)
        assert read == [13, 24, 18]  # padded to 13, 12 and 6
        assert states.shape[:2] == ids.shape
        for row, source in enumerate(sources):
            alone = host.get_encoder()(input_ids=torch.tensor([source])).last_hidden_state[0]
            torch.testing.assert_close(states[row, : len(source)], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_prepacked_maps_give_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(24, 40, bias=bias), nn.GELU(), nn.Linear(40, 9, bias=bias))
    some, other = torch.randn(6, 1, 24), torch.randn(5, 24)
    with torch.no_grad():
        wanted, beside = layer(some), layer(other)
        with prepacked([layer], 6):
            torch.testing.assert_close(layer(some), wanted, rtol=1e-5, atol=1e-6)
            assert torch.equal(layer(other), beside), "another number of rows is taken as before"
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(some).dtype == torch.bfloat16
        assert torch.equal(layer(some), wanted)
    assert all("forward" not in vars(module) for module in layer)


def test_only_plain_maps_in_float32_are_prepacked() -> None:
    class Wrapped(nn.Linear):
        pass

    maps = [Wrapped(4, 4), nn.Linear(4, 4).double(), nn.Linear(4, 4)]
    with prepacked(maps, 2):
        assert ["forward" in vars(module) for module in maps] == [False, False, torch.backends.mkl.is_available()]
