"""Masks, packed rows and batches, whatever the texts are; and a run that goes on where it was stopped."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from graftlm.data.batches import BatchPlan
from graftlm.data.masking import MaskVocabulary, fixed_mask, mask_batch
from graftlm.data.modules import From, MlmDataModule, Seq2SeqDataModule, Windows
from graftlm.data.packing import Layout, PackPlan, best_fit
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings

SEEDS = st.integers(0, 2**31 - 1)
LENGTHS = st.lists(st.integers(3, 40), min_size=1, max_size=120).map(np.asarray)


@pytest.fixture(scope="module")
def vocabulary(donor_tokenizer: Any) -> MaskVocabulary:
    return MaskVocabulary.from_tokenizer(donor_tokenizer)


def padded(rows: list[list[int]]) -> Any:
    """`<s> row </s>`, padded."""
    ids = np.full((len(rows), max(map(len, rows)) + 2), 1, dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row) + 2] = [0, *row, 2]
    return ids


@examples(120)
@given(
    rows=st.lists(st.lists(st.integers(3, 70), max_size=30), min_size=1, max_size=6),
    ratio=st.floats(0.01, 0.99),
    unit=st.sampled_from(["token", "word", "span"]),
    mean=st.floats(1, 20),
    replace=st.floats(0, 1),
    seed=SEEDS,
)
def test_any_mask(
    vocabulary: MaskVocabulary, rows: Any, ratio: float, unit: Any, mean: float, replace: float, seed: int
) -> None:
    ids = padded(rows)
    before = ids.copy()
    mask = MaskSettings("any", ratio, unit=unit, span_mean=mean, replace=replace, randomize=(1 - replace) / 2)
    masked, chosen = mask_batch(ids, vocabulary, mask, np.random.default_rng(seed))
    assert (ids == before).all(), "the batch itself is left"
    assert not chosen[~vocabulary.maskable[ids]].any(), "nothing special is ever chosen"
    assert (masked[~chosen] == ids[~chosen]).all()
    assert set(np.unique(masked[chosen])) <= {vocabulary.mask_id, *vocabulary.ordinary}
    available, counts = vocabulary.maskable[ids].sum(axis=1), chosen.sum(axis=1)
    wanted = np.minimum(np.maximum(np.rint(ratio * available), 1), available)
    assert ((counts == 0) == (available == 0)).all(), "every text has something to predict"
    if unit != "word":
        assert (counts == wanted).all()
    again, same = mask_batch(ids, vocabulary, mask, np.random.default_rng(seed))
    assert (again == masked).all()
    assert (same == chosen).all()


@examples(60)
@given(
    rows=st.lists(st.lists(st.integers(3, 70), max_size=20), min_size=1, max_size=6),
    order=st.randoms(),
    more=st.integers(0, 9),
)
def test_any_row_of_evaluation_is_masked_alike_in_any_batch(
    vocabulary: MaskVocabulary, rows: Any, order: Any, more: int
) -> None:
    masked, chosen = fixed_mask(padded(rows), np.arange(len(rows)), vocabulary)
    mixed = list(range(len(rows)))
    order.shuffle(mixed)
    wider = np.pad(padded([rows[place] for place in mixed]), ((0, 0), (0, more)), constant_values=1)
    other, flags = fixed_mask(wider, np.asarray(mixed), vocabulary)
    for place, row in enumerate(mixed):
        length = len(rows[row]) + 2
        assert (other[place, :length] == masked[row, :length]).all()
        assert (flags[place, :length] == chosen[row, :length]).all()


@examples(100)
@given(lengths=LENGTHS, size=st.integers(40, 90))
def test_any_texts_are_packed_whole_and_once(lengths: Any, size: int) -> None:
    row_of = best_fit(lengths, size)
    sums = np.bincount(row_of, weights=lengths)
    assert len(row_of) == len(lengths)
    assert sums.min() > 0
    assert sums.max() <= size
    assert len(sums) <= 2 * -(-int(lengths.sum()) // size), "no two rows would fit into one"
    rows = [lengths[row_of == row] for row in range(len(sums))]
    layout = Layout.of(rows)
    tokens = np.arange(5, 5 + int(lengths.sum()))
    placed = layout.put(tokens, 1)
    assert (placed[layout.segments > 0] == tokens).all()
    assert (placed[layout.segments == 0] == 1).all()
    assert ((layout.offsets == 0) & (layout.segments > 0)).sum() == len(lengths), (
        "each text begins once, at its place 0"
    )


@examples(60)
@given(
    lengths=LENGTHS,
    budget=st.integers(40, 400),
    seed=SEEDS,
    packed=st.booleans(),
    start=st.integers(0, 60),
    back=st.integers(0, 60),
)
def test_any_resumed_run_sees_the_batches_that_an_undisturbed_one_sees(
    lengths: Any, budget: int, seed: int, packed: bool, start: int, back: int
) -> None:
    def plan() -> Any:
        return PackPlan(lengths, 40, budget, seed) if packed else BatchPlan(lengths, budget, seed)

    whole, epoch, number = plan(), [], 0
    while whole.epoch_of(number) == 0:
        epoch += whole.indices(number).tolist()
        number += 1
    assert sorted(epoch) == list(range(len(lengths))), "an epoch has every text once"
    fresh = plan()
    for place in (*From(start, start + 6), back):
        assert fresh.indices(place).tolist() == whole.indices(place).tolist()
        if not packed:
            rows = fresh.indices(place)
            assert len(rows) * lengths[rows].max() <= budget or len(rows) == 1


@examples(60)
@given(lengths=st.lists(st.integers(0, 90), max_size=30).map(np.asarray), size=st.integers(6, 40))
def test_any_text_is_cut_into_windows_without_gap_or_overlap(lengths: Any, size: int) -> None:
    windows = Windows.over(lengths.astype(np.int64), size)
    for text, length in enumerate(lengths.tolist()):
        own = windows.text == text
        spans = list(zip(windows.start[own].tolist(), windows.length[own].tolist(), strict=True))
        assert [start for start, _ in spans] == [size * place for place in range(len(spans))]
        covered = sum(part for _, part in spans)
        assert covered <= length
        assert length - covered < 4, "nothing but a rest too short to learn from is left out"


@pytest.fixture(scope="module")
def modules(corpus: Any) -> dict[str, Any]:
    trainer = TrainerSettings(accelerator="cpu", accumulate=2)
    pretrain = PretrainSettings(seed=3, max_steps=40, batch_tokens=300, max_length=24, val_texts=40)
    finetune = FinetuneSettings(
        seed=3, max_steps=40, batch_tokens=300, max_source_length=32, max_target_length=24, val_pairs=30
    )
    mask = MaskSettings("any", 0.3, unit="word")
    return {
        "packed": lambda: MlmDataModule(corpus, pretrain, mask, trainer),
        "padded": lambda: MlmDataModule(corpus, dataclasses.replace(pretrain, packing=False), mask, trainer),
        "pairs": lambda: Seq2SeqDataModule(corpus, finetune, trainer),
    }


@pytest.fixture(scope="module")
def opened(modules: dict[str, Any]) -> dict[str, Any]:
    return {name: make() for name, make in modules.items()}


@examples(40)
@given(name=st.sampled_from(["packed", "padded", "pairs"]), number=st.integers(0, 79), world=st.integers(1, 5))
def test_any_batch_follows_from_its_number_and_is_divided_among_devices(
    modules: dict[str, Any], opened: dict[str, Any], name: str, number: int, world: int
) -> None:
    """In whatever order batches are asked for: as workers, or a run that goes on, ask for them."""
    whole = opened[name].train_batch(number)
    fresh = modules[name]().train_batch(number)
    assert whole.keys() == fresh.keys()
    for key, value in whole.items():
        assert torch.equal(value, fresh[key]) if isinstance(value, torch.Tensor) else value == fresh[key]
    shares = [opened[name].train_batch(number, rank, world) for rank in range(world)]
    counted = [share for share in shares if share["weight"]]
    labels = [int((share["labels"] != -100).sum()) for share in counted]
    assert sum(labels) == int((whole["labels"] != -100).sum()), "every label counts once"
    weights = [share["weight"] * sum(labels) / world for share in counted]
    assert weights == pytest.approx(labels), "the mean over the devices is the mean over the whole"
    assert {share["tokens"] for share in shares} == {whole["tokens"]}
