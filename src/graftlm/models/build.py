"""The donor and the host: loaded from a checkpoint (hub name or local folder), or built from their shape.

A built model is initialised from torch's global generator: seed it (`torch.manual_seed`) before the call.
Models come back in training mode (`from_pretrained` alone leaves them in eval mode, without dropout).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from graftlm.checkpoint import REMEDY, WEIGHTS, check_checkpoint, first_line, read_config, resolve
from graftlm.data.format import HostFormat
from graftlm.errors import CheckpointError
from graftlm.schema import ModelSettings

if TYPE_CHECKING:
    from transformers import MBartForConditionalGeneration, XLMRobertaConfig, XLMRobertaForMaskedLM

log = logging.getLogger(__name__)


def build_donor(model: ModelSettings, tokenizer: Any) -> XLMRobertaForMaskedLM:
    """The XLM-R of `model.donor`.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete, of another kind, or of another vocabulary.
    """
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    donor = model.donor
    if donor.checkpoint is not None:
        path = "model.donor.checkpoint"
        loaded = load_model(XLMRobertaForMaskedLM, donor.checkpoint, donor.revision, "xlm-roberta", path)
        check_vocabulary(loaded, tokenizer, donor.checkpoint, path)
        return loaded.train()
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=donor.d_model,
        num_hidden_layers=donor.layers,
        num_attention_heads=donor.heads,
        intermediate_size=donor.ffn,
        hidden_dropout_prob=donor.dropout,
        attention_probs_dropout_prob=donor.dropout,
        max_position_embeddings=donor.max_positions + 2,  # positions count from pad_id + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,  # the released checkpoints' (the class default is 1e-12)
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return XLMRobertaForMaskedLM(config).train()


def build_host(model: ModelSettings, tokenizer: Any, donor_config: XLMRobertaConfig) -> MBartForConditionalGeneration:
    """The mBART of `model.host`; a size left null is that of `donor_config`.

    Raises:
        CheckpointError: as `build_donor`.
    """
    from transformers import MBartConfig, MBartForConditionalGeneration

    host = model.host
    format = HostFormat.from_tokenizer(tokenizer)
    if host.checkpoint is not None:
        path = "model.host.checkpoint"
        loaded = load_model(MBartForConditionalGeneration, host.checkpoint, host.revision, "mbart", path)
        check_vocabulary(loaded, tokenizer, host.checkpoint, path)
        set_generation(loaded, format)
        return loaded.train()
    heads = host.heads or donor_config.num_attention_heads
    ffn = host.ffn or donor_config.intermediate_size
    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=host.d_model or donor_config.hidden_size,
        encoder_layers=host.encoder_layers or donor_config.num_hidden_layers,
        decoder_layers=host.decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        max_position_embeddings=host.max_positions,
        dropout=host.dropout,
        attention_dropout=host.dropout,
        scale_embedding=True,  # as the released checkpoints (the class default is False)
        pad_token_id=format.pad_id,
        bos_token_id=format.bos_id,
        eos_token_id=format.eos_id,
        forced_eos_token_id=format.eos_id,
        decoder_start_token_id=format.eos_id if format.kind == "mbart50" else None,
    )
    built = MBartForConditionalGeneration(config)
    set_generation(built, format)
    return built.train()


def set_generation(model: MBartForConditionalGeneration, format: HostFormat, lang: str | None = None) -> None:
    """Generation settings of the format, so that a saved model writes in `lang` by itself.

    Left unset, generation of mBART-50 would start from `<s>`. Without `lang` (several target languages) the caller of
    `generate` has to name it: `forced_bos_token_id` (mbart50) or `decoder_start_token_id` (cc25).
    """
    start = format.decoder_start(lang) if lang is not None else (format.eos_id if format.kind == "mbart50" else None)
    settings = model.generation_config
    settings.pad_token_id = format.pad_id
    settings.bos_token_id = format.bos_id
    settings.eos_token_id = format.eos_id
    settings.forced_eos_token_id = format.eos_id
    settings.decoder_start_token_id = start
    settings.forced_bos_token_id = format.forced_bos(lang) if lang is not None else None
    model.config.decoder_start_token_id = start


def load_model(kind: Any, checkpoint: str, revision: str | None, model_type: str, path: str) -> Any:
    """A model of the transformers class `kind`, in float32.

    Raises:
        CheckpointError: it is not there, cannot be fetched, lacks weights, or is no `model_type`.
    """
    import torch

    problems = check_checkpoint(checkpoint, read_config(checkpoint, revision, path), model_type, path)
    if problems:
        raise CheckpointError(problems)
    try:
        model, info = kind.from_pretrained(
            resolve(checkpoint, path, WEIGHTS), revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises half a dozen kinds, some of them bare
        raise CheckpointError.at(
            path, checkpoint, f"its weights cannot be loaded: {first_line(error)}", REMEDY
        ) from error
    missing = sorted(info["missing_keys"])
    body = [name for name in missing if not name.startswith("lm_head.") and name != "final_logits_bias"]
    if body:
        raise CheckpointError.at(path, checkpoint, f"lacks {len(body)} tensors, first {body[0]}", "name a complete one")
    if missing:
        log.warning("%s=%s has no %s: initialised", path, checkpoint, ", ".join(missing))
    return model


def check_vocabulary(model: Any, tokenizer: Any, checkpoint: str, path: str) -> None:
    """Raises `CheckpointError` where tokenizer and model do not have the same number of tokens."""
    if len(tokenizer) != model.config.vocab_size:
        raise CheckpointError.at(
            path,
            checkpoint,
            f"the model has {model.config.vocab_size} tokens, its tokenizer {len(tokenizer)}",
            "use the tokenizer that the model was trained with",
        )
