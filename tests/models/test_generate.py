from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from graftlm.data.format import HostFormat
from graftlm.data.tokenizers import build_host_tokenizer, encode
from graftlm.models.build import build_host
from graftlm.models.generate import generate, generate_by_language

TEXTS = ["The dog sees the cat.", "a", "Katze hört Hund (Straße). Katze hört Hund.", "The fish."]


@pytest.mark.parametrize("kind", ["mbart50", "cc25"])
def test_language_and_start_reach_the_model(kind: Any, pieces: Any, model_settings: Any, donor: Any) -> None:
    import dataclasses

    import torch

    tokenizer = build_host_tokenizer(pieces, kind)
    format = HostFormat.from_tokenizer(tokenizer)
    model = build_host(dataclasses.replace(model_settings, format=kind), tokenizer, donor.config)
    calls = []
    inner = model.generate

    def spy(**given: Any) -> Any:
        output = inner(**given)
        calls.append((given["input_ids"].shape, output))
        return output

    model.generate = spy
    sources = [format.source(ids, "en_XX", 64) for ids in encode(tokenizer, TEXTS)]
    torch.manual_seed(0)
    made = generate_by_language(
        model, format, sources, ["de_DE", "fr_XX", "de_DE", "de_DE"], max_new_tokens=8, batch_size=2
    )
    assert model.training  # left as it was
    assert len(calls) == 3
    german = [format.eos_id, format.languages["de_DE"]] if kind == "mbart50" else [format.languages["de_DE"]]
    french = [format.eos_id, format.languages["fr_XX"]] if kind == "mbart50" else [format.languages["fr_XX"]]
    begins = [row[: len(german)].tolist() for _, output in calls for row in output]
    assert begins == [german] * 3 + [french]
    assert len(made) == 4
    assert all(not format.specials & set(row) for row in made)


def test_order_and_batches_do_not_matter(host: Any, host_tokenizer: Any) -> None:
    format = HostFormat.from_tokenizer(host_tokenizer)
    sources = [format.source(ids, "en_XX", 64) for ids in encode(host_tokenizer, TEXTS)]
    together = generate(host, format, sources, "de_DE", max_new_tokens=10)
    single = [generate(host, format, [source], "de_DE", max_new_tokens=10)[0] for source in sources]
    assert together == single
    assert generate(host, format, sources[::-1], "de_DE", max_new_tokens=10) == together[::-1]
    beams = generate(
        host, format, sources, "de_DE", max_new_tokens=10, num_beams=3, length_penalty=0.8, no_repeat_ngram_size=2
    )
    assert all(len({*pairwise(row)}) == len(row) - 1 for row in beams if len(row) > 1)


def test_no_more_than_the_positions_allow(host: Any, host_tokenizer: Any) -> None:
    format = HostFormat.from_tokenizer(host_tokenizer)
    (made,) = generate(host, format, [format.source([5, 6], "en_XX", 64)], "de_DE", max_new_tokens=1000)
    assert len(made) <= 64
