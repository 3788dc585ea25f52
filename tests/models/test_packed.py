"""A packed text is computed as if it stood alone: values and gradients."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.modules import MlmDataModule
from graftlm.models.loss import mlm_logits, mlm_loss
from graftlm.models.packed import borders, text_inputs
from graftlm.running import TrainerSettings
from graftlm.schema import MaskSettings, PretrainSettings

SETTINGS = PretrainSettings(seed=3, max_steps=40, batch_tokens=400, max_length=48, val_texts=40)


@pytest.fixture(scope="module")
def module(corpus: Any) -> MlmDataModule:
    return MlmDataModule(corpus, SETTINGS, MaskSettings(name="r30", ratio=0.3), TrainerSettings())


def alone(batch: Any) -> Any:
    """The texts of a packed batch in rows of their own, padded: what would be computed without packing."""
    rows = []
    for row, segments in enumerate(batch["segments"]):
        for number in range(1, int(segments.max()) + 1):
            rows.append(batch["input_ids"][row][segments == number])
    longest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row)), value=1) for row in rows])
    flat = torch.zeros(batch["input_ids"].numel(), dtype=torch.bool)
    flat[batch["positions"]] = True
    chosen = flat[batch["segments"].flatten() > 0]  # tokens text after text, as in `ids`
    places = torch.nonzero((ids != 1).flatten())[:, 0]
    return {
        "input_ids": ids,
        "attention_mask": (ids != 1).long(),
        "positions": places[chosen],
        "labels": batch["labels"],
    }


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_logits_and_gradients_equal_those_of_texts_alone(donor: Any, module: Any, implementation: str) -> None:
    batch = module.train_batch(2)
    plain = alone(batch)
    assert batch["examples"] == len(plain["input_ids"]) > len(batch["input_ids"])
    packed, unpacked = copy.deepcopy(donor).eval(), copy.deepcopy(donor).eval()
    packed.set_attn_implementation(implementation)
    torch.testing.assert_close(mlm_logits(packed, batch), mlm_logits(unpacked, plain), atol=1e-5, rtol=0)
    states = packed.roberta(**text_inputs(packed, batch)).last_hidden_state[batch["segments"] > 0]
    wanted = unpacked.roberta(**text_inputs(unpacked, plain)).last_hidden_state[plain["attention_mask"] > 0]
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=0)
    for model, inputs in ((packed, batch), (unpacked, plain)):
        mlm_loss(model, inputs).backward()
    for (name, one), other in zip(packed.named_parameters(), unpacked.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_a_text_does_not_see_its_neighbours(donor: Any, module: Any) -> None:
    batch = module.train_batch(2)
    donor.eval()
    before = donor.roberta(**text_inputs(donor, batch)).last_hidden_state
    second = batch["segments"] == 2
    changed = dict(batch, input_ids=torch.where(second, 7, batch["input_ids"]))
    after = donor.roberta(**text_inputs(donor, changed)).last_hidden_state
    assert torch.equal(before[~second], after[~second])
    assert not torch.equal(before[second], after[second])


def test_masks_are_those_of_the_same_texts_unpacked(module: Any, corpus: Any) -> None:
    """At least one token of each text is chosen, and the share of each text is that of the settings."""
    batch = module.train_batch(5)
    flat = torch.zeros(batch["input_ids"].numel(), dtype=torch.bool)
    flat[batch["positions"]] = True
    chosen, segments = flat.view_as(batch["input_ids"]), batch["segments"]
    originals = batch["input_ids"].clone()
    originals.view(-1)[batch["positions"]] = batch["labels"]
    texts = {tuple(ids.tolist()) for ids in (corpus.texts("train")[i] for i in range(len(corpus.texts("train"))))}
    windows = {text[start : start + 46] for text in texts for start in range(0, len(text), 46)}
    for row in range(len(segments)):
        for number in range(1, int(segments[row].max()) + 1):
            here = segments[row] == number
            ids = originals[row][here].tolist()
            assert (ids[0], ids[-1]) == (0, 2)
            assert tuple(ids[1:-1]) in windows
            assert batch["offsets"][row][here].tolist() == list(range(len(ids)))
            assert int(chosen[row][here].sum()) == max(1, round(0.3 * (len(ids) - 2)))
    assert batch["tokens"] == int((segments > 0).sum())


def test_borders() -> None:
    segments = torch.tensor([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0], [1, 2, 3, 3, 3]])
    found = borders(segments)
    assert found["cu_seq_lens_q"].tolist() == [0, 2, 5, 8, 10, 11, 12, 15]
    assert found["max_length_q"] == 3
    assert found["cu_seq_lens_q"].dtype == torch.int32


def test_borders_and_mask_say_the_same(donor: Any, module: Any) -> None:
    """Attention of one text after the other, by borders, is attention under the mask."""
    batch = module.train_batch(4)
    found = borders(batch["segments"])["cu_seq_lens_q"].tolist()
    mask = text_inputs(donor, batch)["attention_mask"]
    rows, width = batch["segments"].shape
    query, key, value = torch.randn(3, rows, 2, width, 8).unbind()
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    flat = [tensor.transpose(1, 2).reshape(rows * width, 2, 8).transpose(0, 1) for tensor in (query, key, value)]
    parts = [
        torch.nn.functional.scaled_dot_product_attention(*(tensor[:, one:two] for tensor in flat))
        for one, two in pairwise(found)
    ]
    by_borders = torch.cat(parts, dim=1).transpose(0, 1).view(rows, width, 2, 8).transpose(1, 2)
    torch.testing.assert_close(by_borders, whole, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_flash_attention_by_borders(donor: Any, module: Any) -> None:
    pytest.importorskip("flash_attn")
    batch = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in module.train_batch(2).items()}
    masked = copy.deepcopy(donor).eval().cuda().bfloat16()
    flash = copy.deepcopy(masked)
    flash.set_attn_implementation("flash_attention_2")
    torch.testing.assert_close(mlm_logits(flash, batch), mlm_logits(masked, batch), atol=0.05, rtol=0.05)


def test_packing_off_gives_a_text_a_row(corpus: Any) -> None:
    settings = dataclasses.replace(SETTINGS, packing=False)
    plain = MlmDataModule(corpus, settings, MaskSettings(name="r30", ratio=0.3), TrainerSettings())
    batch = plain.train_batch(0)
    assert "segments" not in batch
    assert batch["examples"] == len(batch["input_ids"])
    packed = MlmDataModule(corpus, SETTINGS, MaskSettings(name="r30", ratio=0.3), TrainerSettings())
    assert plain.val_batches == packed.val_batches
    for number in range(plain.val_batches):
        assert torch.equal(plain.val_batch(number)["input_ids"], packed.val_batch(number)["input_ids"])
    assert np.isclose(plain.val_batch(0)["tokens"], packed.val_batch(0)["tokens"])
