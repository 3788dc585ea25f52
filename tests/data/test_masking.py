from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graftlm.data.masking import MaskVocabulary, fixed_mask, mask_batch, ratio_at
from graftlm.schema import MaskSettings

UNITS = ("token", "word", "span")


@pytest.fixture(scope="module")
def vocabulary(donor_tokenizer: Any) -> MaskVocabulary:
    return MaskVocabulary.from_tokenizer(donor_tokenizer)


@pytest.fixture(scope="module")
def ids(vocabulary: MaskVocabulary) -> Any:
    """48 rows `<s> … </s>` of 4 to 60 ordinary tokens with an <unk> here and there, padded."""
    rng = np.random.default_rng(0)
    rows = np.full((48, 62), 1, dtype=np.int64)
    for place, row in enumerate(rows):
        length = 4 + place * 56 // 47
        row[0], row[length + 1] = 0, 2
        row[1 : length + 1] = rng.choice(vocabulary.ordinary, length)
        if place % 5 == 0:
            row[2] = 3
    return rows


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_never_on_specials_and_the_share_is_kept(unit: Any, ratio: float, vocabulary: Any, ids: Any) -> None:
    mask = MaskSettings(name="m", ratio=ratio, unit=unit)
    masked, chosen = mask_batch(ids, vocabulary, mask, np.random.default_rng(1))
    assert not chosen[ids <= 3].any()  # <s> <pad> </s> <unk>
    assert (masked[~chosen] == ids[~chosen]).all()
    available = (ids > 3).sum(axis=1)
    wanted = np.maximum(np.rint(ratio * available), 1)
    counts = chosen.sum(axis=1)
    assert (counts >= 1).all()
    if unit == "word":
        assert counts.sum() / available.sum() == pytest.approx(ratio, abs=0.05)  # words of 7 tokens here
    else:
        assert (counts == wanted).all()


def test_80_10_10(vocabulary: Any, ids: Any) -> None:
    many = np.tile(ids, (60, 1))
    masked, chosen = mask_batch(many, vocabulary, MaskSettings(name="m", ratio=0.4), np.random.default_rng(1))
    was, now = many[chosen], masked[chosen]
    assert (now == vocabulary.mask_id).mean() == pytest.approx(0.8, abs=0.01)
    changed = now[(now != vocabulary.mask_id) & (now != was)]
    assert len(changed) / len(now) == pytest.approx(0.1, abs=0.01)
    assert set(changed) <= set(vocabulary.ordinary)
    assert len(set(changed)) > 0.9 * len(vocabulary.ordinary)
    assert (now == was).mean() == pytest.approx(0.1, abs=0.01)
    only = MaskSettings(name="m", ratio=0.4, replace=1.0, randomize=0.0)
    masked, chosen = mask_batch(many, vocabulary, only, np.random.default_rng(1))
    assert (masked[chosen] == vocabulary.mask_id).all()


def test_whole_words(vocabulary: Any, ids: Any) -> None:
    _, chosen = mask_batch(ids, vocabulary, MaskSettings(name="m", ratio=0.3, unit="word"), np.random.default_rng(2))
    for row, flags in zip(ids, chosen, strict=True):
        for place in range(1, len(row)):
            same_word = row[place] > 3 and row[place - 1] > 3 and not vocabulary.begins_word[row[place]]
            if same_word:
                assert flags[place] == flags[place - 1]


def test_spans_are_long(vocabulary: Any, ids: Any) -> None:
    def mean_run(mean: float) -> float:
        mask = MaskSettings(name="m", ratio=0.3, unit="span", span_mean=mean)
        _, chosen = mask_batch(np.tile(ids[-8:], (20, 1)), vocabulary, mask, np.random.default_rng(2))
        starts = chosen[:, 1:] & ~chosen[:, :-1]
        return float(chosen.sum() / (starts.sum() + chosen[:, 0].sum()))

    single, long = mean_run(1.0), mean_run(5.0)
    assert single < 1.7
    assert long > 2 * single


@pytest.mark.parametrize("unit", UNITS)
def test_the_generator_decides(unit: Any, vocabulary: Any, ids: Any) -> None:
    mask = MaskSettings(name="m", unit=unit)
    np.random.seed(0)
    one = mask_batch(ids, vocabulary, mask, np.random.default_rng((3, 17)))
    np.random.seed(1)
    two = mask_batch(ids, vocabulary, mask, np.random.default_rng((3, 17)))
    other = mask_batch(ids, vocabulary, mask, np.random.default_rng((3, 18)))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (one[1] != other[1]).any()


def test_evaluation_masks_belong_to_the_row(vocabulary: Any, ids: Any) -> None:
    numbers = np.arange(100, 148)
    masked, chosen = fixed_mask(ids, numbers, vocabulary)
    wider = np.pad(ids[5:9], ((0, 0), (0, 20)), constant_values=1)
    some, flags = fixed_mask(wider, numbers[5:9], vocabulary)
    assert (some[:, :62] == masked[5:9]).all()
    assert (flags[:, :62] == chosen[5:9]).all()
    counts = chosen.sum(axis=1)
    assert (counts == np.maximum(np.rint(0.15 * (ids > 3).sum(axis=1)), 1)).all()


def test_rows_without_text_are_left(vocabulary: Any) -> None:
    empty = np.asarray([[0, 3, 2, 1], [0, 2, 1, 1]])
    for unit in UNITS:
        masked, chosen = mask_batch(empty, vocabulary, MaskSettings(name="m", unit=unit), np.random.default_rng(0))
        assert (masked == empty).all()
        assert not chosen.any()
    masked, chosen = fixed_mask(empty, np.arange(2), vocabulary)
    assert (masked == empty).all()


def test_ratio_schedule() -> None:
    mask = MaskSettings(name="m", ratio=0.3, final_ratio=0.15)
    assert ratio_at(mask, 0, 101) == 0.3
    assert ratio_at(mask, 50, 101) == pytest.approx(0.225)
    assert ratio_at(mask, 100, 101) == pytest.approx(0.15)
    assert ratio_at(MaskSettings(name="m", ratio=0.3), 70, 101) == 0.3
