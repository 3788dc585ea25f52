from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.checkpoint import host_shape
from graftlm.data.tokenizers import build_host_tokenizer, load_tokenizer
from graftlm.errors import CheckpointError
from graftlm.models.build import build_donor, build_host, set_generation


def with_checkpoint(settings: Any, side: str, checkpoint: object) -> Any:
    part = dataclasses.replace(getattr(settings, side), checkpoint=str(checkpoint))
    return dataclasses.replace(settings, **{side: part})


def test_shapes(donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any) -> None:
    assert donor.roberta.embeddings.position_embeddings.num_embeddings == 66
    assert donor.config.layer_norm_eps == 1e-5
    assert donor.config.vocab_size == len(donor_tokenizer)
    assert donor.training
    assert (host.config.d_model, host.config.encoder_layers, host.config.decoder_layers) == (32, 2, 1)
    assert (host.config.encoder_ffn_dim, host.config.decoder_attention_heads) == (64, 2)
    assert host.config.scale_embedding
    assert host.model.encoder.embed_positions.num_embeddings == 66
    assert host.config.vocab_size == len(host_tokenizer)
    assert host.lm_head.weight is host.model.shared.weight


def bart(settings: Any) -> Any:
    return dataclasses.replace(settings, host=dataclasses.replace(settings.host, architecture="bart"))


def test_an_exact_host_has_the_donors_order_of_layer_norms(
    model_settings: Any, donor: Any, host: Any, host_tokenizer: Any
) -> None:
    built = build_host(bart(model_settings), host_tokenizer, donor.config)
    assert type(built).__name__ == "BartForConditionalGeneration"
    assert built.training
    assert not built.config.scale_embedding
    assert not hasattr(built.model.encoder, "layer_norm")  # a pre-LN encoder ends with one
    same = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim", "vocab_size")
    heads = ("encoder_attention_heads", "decoder_attention_heads", "max_position_embeddings", "activation_function")
    ids = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "dropout", "attention_dropout")
    for name in (*same, *heads, *ids):
        assert getattr(built.config, name) == getattr(host.config, name), name
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id"):
        assert getattr(built.generation_config, name) == getattr(host.generation_config, name), name
    # post-LN: what leaves a layer has just passed a LayerNorm
    ids = torch.tensor([[5, 6, 7, 2]])
    states = built.eval().model.encoder(input_ids=ids).last_hidden_state
    assert states.mean(dim=-1).abs().max() < 1e-5
    torch.testing.assert_close(states.std(dim=-1, correction=0), torch.ones(1, 4), rtol=0, atol=1e-3)


def test_a_plan_knows_the_host_that_is_built(model_settings: Any, donor: Any, host_tokenizer: Any) -> None:
    for settings in (model_settings, bart(model_settings)):
        shape = host_shape(settings.host, donor.config.to_dict())
        built = build_host(settings, host_tokenizer, donor.config).config.to_dict()
        assert shape == {name: built[name] for name in shape}
        assert shape["model_type"] == settings.host.architecture


def test_a_bart_checkpoint_loads_where_it_is_asked_for(
    model_settings: Any, donor: Any, host: Any, host_tokenizer: Any, tmp_path: Path
) -> None:
    exact = bart(model_settings)
    built = build_host(exact, host_tokenizer, donor.config)
    built.save_pretrained(tmp_path / "bart")
    host_tokenizer.save_pretrained(tmp_path / "bart")
    host.save_pretrained(tmp_path / "mbart")
    loaded = build_host(with_checkpoint(exact, "host", tmp_path / "bart"), host_tokenizer, donor.config)
    torch.testing.assert_close(loaded.state_dict(), built.state_dict(), rtol=0, atol=0)
    assert type(load_tokenizer(str(tmp_path / "bart"), kind="host")) is type(host_tokenizer)
    for settings, found in ((exact, "mbart"), (model_settings, "bart")):
        with pytest.raises(CheckpointError, match=f"is a model of type {found}; .* or model.host.architecture={found}"):
            build_host(with_checkpoint(settings, "host", tmp_path / found), host_tokenizer, donor.config)


def test_longest_rows_fit(donor: Any, host: Any) -> None:
    ids = torch.full((1, 64), 5)
    assert donor(input_ids=ids).logits.shape[1] == 64
    assert host(input_ids=ids, decoder_input_ids=ids).logits.shape[1] == 64


@pytest.mark.parametrize("architecture", ["mbart", "bart"])
@pytest.mark.parametrize("format", ["mbart50", "cc25"])
def test_saved_host_generates_in_its_language(
    format: Any, architecture: str, pieces: Any, model_settings: Any, donor: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForSeq2SeqLM

    from graftlm.data.format import HostFormat

    tokenizer = build_host_tokenizer(pieces, format)
    settings = dataclasses.replace(
        model_settings, format=format, host=dataclasses.replace(model_settings.host, architecture=architecture)
    )
    built = build_host(settings, tokenizer, donor.config)
    known = HostFormat.from_tokenizer(tokenizer)
    set_generation(built, known, "de_DE")
    built.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    written = again.generate(input_ids=torch.tensor([[5, 6, 2]]), max_new_tokens=4, do_sample=False)[0].tolist()
    start = [2, known.languages["de_DE"]] if format == "mbart50" else [known.languages["de_DE"]]
    assert written[: len(start)] == start


def test_checkpoints_load_and_train(
    donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, model_settings: Any, tmp_path: Path
) -> None:
    donor.save_pretrained(tmp_path / "donor")
    host.save_pretrained(tmp_path / "host")
    settings = with_checkpoint(with_checkpoint(model_settings, "donor", tmp_path / "donor"), "host", tmp_path / "host")
    loaded = build_donor(settings, donor_tokenizer)
    assert loaded.training
    torch.testing.assert_close(loaded.state_dict(), donor.state_dict(), rtol=0, atol=0)
    grafted = build_host(settings, host_tokenizer, loaded.config)
    assert grafted.training
    assert grafted.lm_head.weight is grafted.model.shared.weight
    torch.testing.assert_close(grafted.state_dict(), host.state_dict(), rtol=0, atol=0)


def test_mistakes_are_one_line(
    donor: Any, donor_tokenizer: Any, host_tokenizer: Any, model_settings: Any, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    donor.save_pretrained(good)
    no_weights = tmp_path / "no_weights"
    no_weights.mkdir()
    (no_weights / "config.json").write_text((good / "config.json").read_text())
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((good / "config.json").read_text())
    (broken / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:500])
    incomplete = tmp_path / "incomplete"
    deeper = json.loads((good / "config.json").read_text())
    deeper["num_hidden_layers"] = 5
    incomplete.mkdir()
    (incomplete / "config.json").write_text(json.dumps(deeper))
    (incomplete / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes())
    (tmp_path / "empty").mkdir()
    cases = (
        (tmp_path / "empty", donor_tokenizer, "config.json"),
        (tmp_path / "absent", donor_tokenizer, "no such folder"),
        (no_weights, donor_tokenizer, "model.safetensors"),
        (broken, donor_tokenizer, "weights cannot be loaded"),
        (incomplete, donor_tokenizer, "lacks"),
        (good, host_tokenizer, f"its tokenizer {len(host_tokenizer)}"),
        ("no-such-org/no-such-model", donor_tokenizer, "hub cannot be reached"),
    )
    for checkpoint, tokenizer, words in cases:
        with pytest.raises(CheckpointError) as caught:
            build_donor(with_checkpoint(model_settings, "donor", checkpoint), tokenizer)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="is a model of type xlm-roberta; it must be mbart"):
        build_host(with_checkpoint(model_settings, "host", good), host_tokenizer, donor.config)


def test_of_a_host_from_a_checkpoint_nothing_is_drawn(
    donor: Any, host: Any, host_tokenizer: Any, model_settings: Any, tmp_path: Path
) -> None:
    """Else each seed of the fine-tuning would have another output layer, and they would share one graft."""
    host.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"lacks \d tensors, first lm_head\.weight"):
        build_host(with_checkpoint(model_settings, "host", tmp_path), host_tokenizer, donor.config)
