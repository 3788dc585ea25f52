from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graftlm.data.modules import MlmDataModule, Seq2SeqDataModule
from graftlm.models import loss
from graftlm.models.blocked_loss import linear_cross_entropy
from graftlm.models.loss import mlm_loss, per_example_nll, seq2seq_loss
from graftlm.running import TrainerSettings
from graftlm.schema import FinetuneSettings, MaskSettings, PretrainSettings


@pytest.fixture(scope="module")
def text_batch(corpus: Any) -> Any:
    settings = PretrainSettings(batch_tokens=300, max_length=24, packing=False)
    return MlmDataModule(corpus, settings, MaskSettings(name="r15"), TrainerSettings()).train_batch(0)


@pytest.fixture(scope="module")
def pair_batch(corpus: Any) -> Any:
    settings = FinetuneSettings(batch_tokens=300, max_source_length=32, max_target_length=24, val_pairs=30)
    return Seq2SeqDataModule(corpus, settings, TrainerSettings()).val_batch(2)


def test_mlm_loss_equals_the_models_own(donor: Any, text_batch: Any) -> None:
    donor.eval()
    labels = torch.full_like(text_batch["input_ids"], -100)
    labels.view(-1)[text_batch["positions"]] = text_batch["labels"]
    whole = donor(input_ids=text_batch["input_ids"], attention_mask=text_batch["attention_mask"], labels=labels).loss
    assert mlm_loss(donor, text_batch).item() == pytest.approx(whole.item(), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_smoothed_loss_equals_hugging_faces(host: Any, pair_batch: Any, smoothing: float) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    host.eval()
    host.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))  # it must count
    inputs = {name: pair_batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    output = host(**inputs)
    theirs = LabelSmoother(epsilon=smoothing)(output, pair_batch["labels"])
    assert seq2seq_loss(host, pair_batch, smoothing).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_the_places_with_a_label_come_in_few_numbers(host: Any, pair_batch: Any, monkeypatch: Any) -> None:
    seen: list[int] = []

    def watched(states: Any, weight: Any, bias: Any, labels: Any, *rest: Any) -> Any:
        seen.append(len(states))
        assert int((labels != -100).sum()) == wanted
        return linear_cross_entropy(states, weight, bias, labels, *rest)

    monkeypatch.setattr(loss, "linear_cross_entropy", watched)
    for rows in range(1, len(pair_batch["labels"]) + 1):
        batch = {name: value[:rows] for name, value in pair_batch.items() if isinstance(value, torch.Tensor)}
        wanted = int((batch["labels"] != -100).sum())
        seq2seq_loss(host.eval(), batch)
    assert {size % 32 for size in seen} == {0}


def test_the_models_own_shift_gives_the_same(host: Any, pair_batch: Any) -> None:
    host.eval()
    own = host(
        input_ids=pair_batch["input_ids"], attention_mask=pair_batch["attention_mask"], labels=pair_batch["labels"]
    )
    assert seq2seq_loss(host, pair_batch).item() == pytest.approx(own.loss.item(), abs=1e-6)


def test_nll_of_a_row_does_not_depend_on_its_batch(host: Any, pair_batch: Any, monkeypatch: Any) -> None:
    from graftlm.models import loss

    host.eval()
    sums, tokens = per_example_nll(host, pair_batch)
    assert float(sums.sum() / tokens.sum()) == pytest.approx(seq2seq_loss(host, pair_batch).item(), abs=1e-5)
    for row in range(len(sums)):
        n, length = int(tokens[row]), int(pair_batch["attention_mask"][row].sum())
        alone = {
            "input_ids": pair_batch["input_ids"][row : row + 1, :length],
            "attention_mask": pair_batch["attention_mask"][row : row + 1, :length],
            "decoder_input_ids": pair_batch["decoder_input_ids"][row : row + 1, :n],
            "labels": pair_batch["labels"][row : row + 1, :n],
        }
        assert float(per_example_nll(host, alone)[0]) == pytest.approx(float(sums[row]), rel=1e-5)
        logits = host(**{k: v for k, v in alone.items() if k != "labels"}).logits[0]
        assert F.cross_entropy(logits, alone["labels"][0], reduction="sum").item() == pytest.approx(
            float(sums[row]), rel=1e-5
        )
    monkeypatch.setattr(loss, "_PLACES_A_TIME", 7)
    torch.testing.assert_close(per_example_nll(host, pair_batch)[0], sums)


def test_other_sources_give_another_loss(host: Any, pair_batch: Any) -> None:
    host.eval()
    right, _ = per_example_nll(host, pair_batch)
    wrong, _ = per_example_nll(
        host, pair_batch, pair_batch["shuffled_input_ids"], pair_batch["shuffled_attention_mask"]
    )
    assert (right != wrong).all()
