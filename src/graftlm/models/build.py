"""The donor and the host: loaded from a checkpoint (hub name or local folder), or built from their shape.

A built model is initialised from torch's global generator: seed it (`torch.manual_seed`) before the call.
Models come back in training mode (`from_pretrained` alone leaves them in eval mode, without dropout).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

from graftlm.checkpoint import (
    REMEDY,
    WEIGHTS,
    check_checkpoint,
    check_size,
    host_shape,
    read_config,
    resolve,
)
from graftlm.data.format import HostFormat
from graftlm.errors import CheckpointError, first_line
from graftlm.schema import ModelSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import (
        BartForConditionalGeneration,
        MBartForConditionalGeneration,
        XLMRobertaConfig,
        XLMRobertaForMaskedLM,
    )

    Host: TypeAlias = MBartForConditionalGeneration | BartForConditionalGeneration
    Rows = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_CLASSES = {
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "mbart": "MBartForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
}


def build_donor(
    model: ModelSettings, tokenizer: Any, rows: Rows | None = None, fresh: list[str] | None = None
) -> XLMRobertaForMaskedLM:
    """The XLM-R of `model.donor`.

    Args:
        rows: of a trimmed corpus (`Corpus.donor_rows`): the checkpoint's ids that the tokenizer has.
        fresh: as of `load_model`.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete, of another kind, or of another vocabulary.
    """
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    donor = model.donor
    if donor.checkpoint is not None:
        path = "model.donor.checkpoint"
        loaded = load_model(XLMRobertaForMaskedLM, donor.checkpoint, donor.revision, "xlm-roberta", path, fresh)
        return _cut(loaded, tokenizer, rows, donor.checkpoint, path).train()
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


def build_host(model: ModelSettings, tokenizer: Any, donor_config: XLMRobertaConfig, rows: Rows | None = None) -> Host:
    """The mBART (or BART) of `model.host`; a size left null is that of `donor_config`.

    Args:
        rows: of a trimmed corpus (`Corpus.host_rows`): the checkpoint's ids that the tokenizer has. Of no use
            to a host that is built.

    Raises:
        CheckpointError: as `build_donor`.
    """
    host = model.host
    format = HostFormat.from_tokenizer(tokenizer)
    if host.checkpoint is not None:
        path = "model.host.checkpoint"
        kind = host.architecture
        loaded = load_model(model_class(kind), host.checkpoint, host.revision, kind, path)
        _cut(loaded, tokenizer, rows, host.checkpoint, path)
        set_generation(loaded, format)
        return loaded.train()
    made = model_class(host.architecture)
    shape = host_shape(host, donor_config.to_dict())
    del shape["model_type"]
    config = made.config_class(
        vocab_size=len(tokenizer),
        **shape,
        decoder_layers=host.decoder_layers,
        decoder_attention_heads=shape["encoder_attention_heads"],
        decoder_ffn_dim=shape["encoder_ffn_dim"],
        dropout=host.dropout,
        attention_dropout=host.dropout,
        pad_token_id=format.pad_id,
        bos_token_id=format.bos_id,
        eos_token_id=format.eos_id,
        forced_eos_token_id=format.eos_id,
        decoder_start_token_id=format.eos_id if format.kind == "mbart50" else None,
    )
    built = made(config)
    set_generation(built, format)
    return built.train()


def set_generation(model: Host, format: HostFormat, lang: str | None = None) -> None:
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


def model_class(model_type: str) -> Any:
    """The transformers class of a donor's or host's `model_type`."""
    import transformers

    return getattr(transformers, _CLASSES[model_type])


def load_model(
    kind: Any, checkpoint: str, revision: str | None, model_type: str, path: str, fresh: list[str] | None = None
) -> Any:
    """A model of the transformers class `kind`, in float32.

    Args:
        fresh: gets the names of the tensors that the checkpoint lacks and that are random therefore: an MLM head.

    Raises:
        CheckpointError: it is not there, cannot be fetched, lacks weights, or is no `model_type`.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    problems = check_checkpoint(checkpoint, read_config(checkpoint, revision, path), model_type, path)
    if problems:
        raise CheckpointError(problems)
    try:
        model, info = kind.from_pretrained(
            resolve(checkpoint, path, WEIGHTS),
            revision=revision,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,  # unset, it asks
            weights_only=True,
        )
    except Exception as error:  # transformers raises half a dozen kinds, some of them bare
        raise CheckpointError.at(
            path, checkpoint, f"its weights cannot be loaded: {first_line(error)}", REMEDY
        ) from error
    missing = sorted(info["missing_keys"])
    # an encoder may come without its head; of a host nothing is drawn: all seeds of a fine-tuning share its graft
    optional = ("lm_head.",) if model_type == "xlm-roberta" else ("final_logits_bias",)
    body = [name for name in missing if not name.startswith(optional)]
    if body:
        raise CheckpointError.at(path, checkpoint, f"lacks {len(body)} tensors, first {body[0]}", "name a complete one")
    if missing:
        log.warning("%s=%s has no %s: initialised", path, checkpoint, ", ".join(missing))
        if fresh is not None:
            fresh += missing
    return model


def check_vocabulary(model: Any, tokenizer: Any, checkpoint: str, path: str) -> None:
    """Raises `CheckpointError` where tokenizer and model do not have the same number of tokens."""
    check_size({"vocab_size": model.config.vocab_size}, len(tokenizer), checkpoint, path)


def _cut(model: Any, tokenizer: Any, rows: Rows | None, checkpoint: str, path: str) -> Any:
    """The model with the rows of the tokenizer's tokens."""
    if rows is not None:
        from graftlm.models.trim import trim

        try:
            trim(model, rows)
        except ValueError as error:  # another checkpoint under the same name since the corpus was made
            raise CheckpointError.at(path, checkpoint, f"cannot be trimmed: {error}", "make the corpus anew") from error
    check_vocabulary(model, tokenizer, checkpoint, path)
    return model
