from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.modules import From, MlmDataModule, Seq2SeqDataModule, Windows
from graftlm.data.pairs import derangement
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings

PRETRAIN = PretrainSettings(seed=3, max_steps=40, batch_tokens=300, max_length=24, val_texts=40)
FINETUNE = FinetuneSettings(
    seed=3, max_steps=40, batch_tokens=300, max_source_length=32, max_target_length=24, val_pairs=30, generate_pairs=4
)
TRAINER = TrainerSettings(accelerator="cpu", devices=1, accumulate=2)
R30 = MaskSettings(name="r30", ratio=0.3)


@pytest.fixture(scope="module")
def mlm(corpus: Any) -> MlmDataModule:
    return MlmDataModule(corpus, PRETRAIN, R30, TRAINER)


@pytest.fixture(scope="module")
def seq2seq(corpus: Any) -> Seq2SeqDataModule:
    return Seq2SeqDataModule(corpus, FINETUNE, TRAINER)


def equal(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        for name, value in one.items()
    )


def test_pairs_come_in_few_shapes_within_the_budget(seq2seq: Seq2SeqDataModule) -> None:
    """A product is compiled for each shape: batches that all differ slow a long process down."""
    batches = [seq2seq.train_batch(number) for number in range(60)]
    for batch in batches:
        assert batch["input_ids"].numel() <= 300
        assert batch["labels"].numel() <= 300
        assert batch["labels"].shape == batch["decoder_input_ids"].shape
    widths = {name: {batch[name].shape[1] for batch in batches} for name in ("input_ids", "labels")}
    assert widths["input_ids"] <= {8, 16, 24, 32}
    assert widths["labels"] <= {8, 16, 24}


def test_windows_cover_texts() -> None:
    windows = Windows.over(np.asarray([3, 4, 10, 20, 23, 25]), 10)
    parts = list(zip(windows.text.tolist(), windows.start.tolist(), windows.length.tolist(), strict=True))
    assert parts == [
        (1, 0, 4),
        (2, 0, 10),
        (3, 0, 10),
        (3, 10, 10),
        (4, 0, 10),
        (4, 10, 10),
        (5, 0, 10),
        (5, 10, 10),
        (5, 20, 5),
    ]


def test_mlm_batch_holds_text(corpus: Any) -> None:
    """Without packing; with it: tests/models/test_packed.py."""
    plain = dataclasses.replace(PRETRAIN, packing=False)
    batch = MlmDataModule(corpus, plain, R30, TRAINER).train_batch(0)
    ids = batch["input_ids"].clone()
    assert ids.numel() <= 300
    ids.view(-1)[batch["positions"]] = batch["labels"]
    texts = [corpus.texts("train")[index].tolist() for index in range(len(corpus.texts("train")))]
    for row, attention in zip(ids.tolist(), batch["attention_mask"].tolist(), strict=True):
        kept = row[: sum(attention)]
        assert (kept[0], kept[-1]) == (0, 2)
        assert any(kept[1:-1] == text[start : start + 22] for text in texts for start in range(0, len(text), 22))
        assert set(row[sum(attention) :]) <= {1}
    share = len(batch["labels"]) / (batch["tokens"] - 2 * batch["examples"])
    assert share == pytest.approx(0.3, abs=0.06)


def test_masks_are_dynamic_and_evaluation_is_fixed(mlm: MlmDataModule, corpus: Any) -> None:
    assert equal(mlm.train_batch(5), mlm.train_batch(5))
    rows = {}
    for number in range(200):
        for row in mlm.plan.indices(number):
            rows.setdefault(int(row), []).append(number)
    twice = next(numbers for numbers in rows.values() if len(numbers) > 1)
    assert len(mlm.train_batch(twice[0])["labels"])
    other = MlmDataModule(
        corpus,
        PretrainSettings(seed=9, batch_tokens=300, max_length=24, val_texts=40),
        MaskSettings(name="s", unit="span", ratio=0.5),
        TRAINER,
    )
    assert other.val_batches == mlm.val_batches
    assert all(equal(mlm.val_batch(n), other.val_batch(n)) for n in range(mlm.val_batches))
    assert not equal(mlm.train_batch(0), other.train_batch(0))


def test_ratio_follows_the_step(corpus: Any) -> None:
    mask = MaskSettings(name="decay", ratio=0.4, final_ratio=0.1)
    module = MlmDataModule(corpus, PRETRAIN, mask, TRAINER)
    ratios = [module.train_batch(number)["ratio"] for number in range(80)]
    assert ratios[0] == ratios[1] == 0.4
    assert ratios[79] == pytest.approx(0.1)
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_numbered_batches(
    workers: int, corpus: Any, mlm: MlmDataModule, seq2seq: Seq2SeqDataModule
) -> None:
    settings = TrainerSettings(accelerator="cpu", devices=1, accumulate=2, num_workers=workers)
    for module, reference in (
        (MlmDataModule(corpus, PRETRAIN, R30, settings), mlm),
        (Seq2SeqDataModule(corpus, FINETUNE, settings), seq2seq),
    ):
        loader = module.train_dataloader()
        assert len(loader) == 80
        for number, batch in enumerate(loader):
            assert equal(batch, reference.train_batch(number))
        assert number == 79
        assert all(equal(b, reference.val_batch(n)) for n, b in enumerate(module.val_dataloader()))


def test_modules_pickle_for_spawned_workers(seq2seq: Seq2SeqDataModule, mlm: MlmDataModule) -> None:
    for module in (seq2seq, mlm):
        assert equal(pickle.loads(pickle.dumps(module)).train_batch(7), module.train_batch(7))


def test_a_resumed_sampler_is_as_long_as_the_whole_run() -> None:
    assert list(From(0, 4)) == [0, 1, 2, 3]
    assert list(From(3, 4)) == [3]
    assert len(From(3, 4)) == 4


def labels_of(batch: Any) -> list[int]:
    return sorted(label for label in batch["labels"].flatten().tolist() if label != -100)


@pytest.mark.parametrize("world", [2, 3, 50])
@pytest.mark.parametrize("kind", ["seq2seq", "mlm"])
def test_devices_share_a_micro_batch(request: pytest.FixtureRequest, kind: str, world: int) -> None:
    """Each label counts on one device, once; the weights make the mean over devices the mean over the whole."""
    module = request.getfixturevalue(kind)
    whole = module.train_batch(5)
    shares = [module.train_batch(5, rank, world) for rank in range(world)]
    assert sum(share["weight"] for share in shares) == pytest.approx(world)
    assert sorted(label for share in shares if share["weight"] for label in labels_of(share)) == labels_of(whole)
    for share in shares:
        assert (share["tokens"], share["examples"]) == (whole["tokens"], whole["examples"])
        assert labels_of(share), "a device without a label would have no loss"
        if share["weight"]:
            assert share["weight"] == pytest.approx(len(labels_of(share)) * world / len(labels_of(whole)))


def test_pair_batches(seq2seq: Seq2SeqDataModule, corpus: Any) -> None:
    format = corpus.format
    pairs = corpus.pairs("train")
    batch = seq2seq.train_batch(3)
    for place, row in enumerate(seq2seq.plan.indices(3)):
        source = format.source(corpus.sources("train")[row].tolist(), pairs[row].source_lang, 32)
        labels = format.target(corpus.targets("train")[row].tolist(), pairs[row].target_lang, 24)
        length = int(batch["attention_mask"][place].sum())
        assert batch["input_ids"][place, :length].tolist() == source
        assert batch["labels"][place, : len(labels)].tolist() == labels
        assert set(batch["labels"][place, len(labels) :].tolist()) <= {-100}
        assert batch["decoder_input_ids"][place, : len(labels)].tolist() == format.decoder_input(labels)
        assert set(batch["input_ids"][place, length:].tolist()) <= {format.pad_id}
    assert batch["tokens"] == int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum())
    assert batch["input_ids"].numel() <= 300


def test_shuffled_sources_are_of_other_rows_in_the_same_language(seq2seq: Seq2SeqDataModule, corpus: Any) -> None:
    seen = generated = 0
    for number in range(seq2seq.val_batches):
        batch = seq2seq.val_batch(number)
        for place, lang in enumerate(batch["target_langs"]):
            right, wrong = batch["input_ids"][place].tolist(), batch["shuffled_input_ids"][place].tolist()
            assert right[0] == wrong[0] != corpus.format.languages[lang]
            assert [i for i in right if i != 1] != [i for i in wrong if i != 1]
            assert int(batch["labels"][place, 0]) == corpus.format.languages[lang]
        seen += len(batch["references"])
        generated += sum(batch["generate"])
    assert (seen, generated) == (30, 4)


def test_derangement_moves_every_row() -> None:
    source, target = ["a"] * 5 + ["b"] * 2 + ["c"], ["x"] * 3 + ["y"] * 2 + ["x"] * 3
    other = derangement(np.asarray([7, 0, 4, 1, 6, 3, 2, 5]), source, target)
    assert sorted(other) == list(range(8))
    assert all(row != moved for row, moved in other.items())
    alike = {row for row in other if row != 7}
    assert all((source[row], target[row]) == (source[other[row]], target[other[row]]) for row in alike)
    assert len({other[row] for row in alike}) == 7


def test_validation_rows_do_not_depend_on_the_seed(seq2seq: Seq2SeqDataModule, corpus: Any) -> None:
    other = Seq2SeqDataModule(
        corpus,
        FinetuneSettings(
            seed=11, batch_tokens=300, max_source_length=32, max_target_length=24, val_pairs=30, generate_pairs=4
        ),
        TRAINER,
    )
    assert all(equal(seq2seq.val_batch(n), other.val_batch(n)) for n in range(seq2seq.val_batches))
