from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.data.format import HostFormat
from graftlm.data.tokenizers import build_host_tokenizer, encode
from graftlm.models.build import build_host
from graftlm.models.generate import generate, generate_by_language

TEXTS = ["The dog sees the cat.", "a", "Katze hört Hund (Straße). Katze hört Hund.", "The fish."]


@pytest.mark.parametrize("kind", ["mbart50", "cc25"])
def test_language_and_start_reach_the_model(kind: Any, pieces: Any, model_settings: Any, donor: Any) -> None:
    import dataclasses

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


def plain_beams(model: Any, format: HostFormat, sources: Any, lang: str, **options: Any) -> list[list[int]]:
    """What transformers writes by itself, one source after the other."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False,
        pad_token_id=format.pad_id,
        eos_token_id=format.eos_id,
        bos_token_id=format.bos_id,
        decoder_start_token_id=format.decoder_start(lang),
        forced_bos_token_id=format.forced_bos(lang),
        **options,
    )
    return [
        format.strip(model.generate(torch.tensor([source]), generation_config=config)[0].tolist()) for source in sources
    ]


def lively(model: Any) -> Any:
    """Weights large enough that beams differ and texts end at different lengths."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed_positions" not in name:
                parameter.normal_(0, 1.0 if "shared" in name else 0.2)
        model.final_logits_bias[0, model.config.eos_token_id] = 2.5
    return model.eval()


@pytest.mark.parametrize("architecture", ["mbart", "bart"])
def test_beams_that_share_their_source_write_the_same(
    architecture: str, model_settings: Any, host_tokenizer: Any, donor: Any
) -> None:
    import dataclasses

    shape = dataclasses.replace(model_settings.host, architecture=architecture)
    host = lively(build_host(dataclasses.replace(model_settings, host=shape), host_tokenizer, donor.config))
    before = host.config._attn_implementation
    format = HostFormat.from_tokenizer(host_tokenizer)
    sources = [format.source(ids, "en_XX", 64) for ids in encode(host_tokenizer, TEXTS)]
    for options in (
        {"num_beams": 4, "max_new_tokens": 14},
        {"num_beams": 3, "max_new_tokens": 14, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    ):
        wanted = plain_beams(host, format, sources, "de_DE", **options)
        assert generate(host, format, sources, "de_DE", **options) == wanted
        assert len({tuple(row) for row in wanted}) > 1, "sources must matter"
    assert host.config._attn_implementation == before


def test_only_kept_tokens_are_written(host: Any, host_tokenizer: Any) -> None:
    """Under kept ids the model writes what it would with a bias that forbids all others, bit for bit."""
    format = HostFormat.from_tokenizer(host_tokenizer)
    lively(host)
    sources = [format.source(ids, "en_XX", 64) for ids in encode(host_tokenizer, TEXTS)]
    kept = np.arange(7, len(host_tokenizer) - 60, 3)
    options: Any = {"num_beams": 4, "max_new_tokens": 12}
    free = generate(host, format, sources, "de_DE", **options)
    narrow = generate(host, format, sources, "de_DE", kept=kept, **options)
    table = host.lm_head
    bias = host.final_logits_bias.clone()
    forbidden = torch.ones(len(host_tokenizer), dtype=torch.bool)
    forbidden[[*kept.tolist(), *format.specials]] = False
    host.final_logits_bias[0, forbidden] = -1e9
    assert narrow == plain_beams(host, format, sources, "de_DE", **options)
    assert narrow != free
    assert {id_ for row in narrow for id_ in row} <= set(kept.tolist())
    host.final_logits_bias.copy_(bias)
    assert generate(host, format, sources, "de_DE", **options) == free, "the model is left as it was"
    assert host.lm_head is table
    assert host.lm_head.weight is host.model.shared.weight is host.model.decoder.embed_tokens.weight
