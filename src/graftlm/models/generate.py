"""Generation by the host in a language that the caller names, in the format of its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from graftlm.console import Progress, Silent
from graftlm.data.format import HostFormat
from graftlm.models.beams import sharing
from graftlm.models.loss import unwrapped
from graftlm.models.prepacked import prepacked
from graftlm.models.trim import narrowed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_READ = 2048  # tokens that the encoder reads at once


def generate(
    model: Any,
    format: HostFormat,
    sources: Sequence[Sequence[int]],
    lang: str,
    *,
    num_beams: int = 1,
    max_new_tokens: int = 32,
    length_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    batch_size: int = 32,
    kept: npt.NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> list[list[int]]:
    """What the model writes for each source, as plain ids (no specials), in the order of `sources`.

    Args:
        sources: encoder inputs with their special tokens (`HostFormat.source`).
        lang: the language of all targets.
        max_new_tokens: special tokens included.
        kept: the plain ids that may be written; None is all. The output layer is computed for them alone.

    Rows of like length share a batch. The model is in eval mode meanwhile, and left as it was.
    """
    from transformers import GenerationConfig

    base = unwrapped(model)
    room = base.config.max_position_embeddings - 1  # the decoder start takes a position
    written: dict[int, list[int]] = {}
    order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))  # the largest batch first
    was_training = base.training
    base.eval()
    with contextlib.ExitStack() as stack:
        stack.callback(base.train, was_training)
        rows = None
        if kept is not None:
            rows = torch.tensor(sorted({*map(int, kept), *format.specials}))
            stack.enter_context(narrowed(base, rows))
        new = {int(row): place for place, row in enumerate(rows)} if rows is not None else None

        def id_(full: int | None) -> int | None:
            return full if new is None or full is None else new[full]

        config = GenerationConfig(
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=min(max_new_tokens, room),
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            pad_token_id=id_(format.pad_id),
            bos_token_id=id_(format.bos_id),
            eos_token_id=id_(format.eos_id),
            decoder_start_token_id=id_(format.decoder_start(lang)),
            forced_bos_token_id=id_(format.forced_bos(lang)),
        )
        advance = stack.enter_context((progress or Silent()).task(f"generating {lang}", len(order)))
        stack.enter_context(torch.no_grad())
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            ids, attention = _padded([sources[index] for index in some], format.pad_id, base.device)
            output = _written(base, ids, attention, config).cpu()
            output = output if rows is None else rows[output]
            for index, row in zip(some, output.tolist(), strict=True):
                written[index] = format.strip(row)
            advance(len(some))
    return [written[index] for index in range(len(sources))]


def _written(model: Any, ids: torch.Tensor, attention: torch.Tensor, config: Any) -> Any:
    """What transformers generates; beams share what they have in common (`graftlm.models.beams`)."""
    if config.num_beams == 1:
        return model.generate(input_ids=ids, attention_mask=attention, generation_config=config)
    states = _encoded(model, ids, attention)
    repeated = [model.model.decoder.layers, model.lm_head]
    with sharing(model, states, config.num_beams) as shared, prepacked(repeated, len(ids) * config.num_beams):
        return model.generate(**shared, attention_mask=attention, generation_config=config)


def _encoded(model: Any, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The encoder's states [B, S, d] of sources sorted by length, zeros after their ends.

    It reads some at a time, padded to the longest of them alone, and few enough for activations to stay in the cache.
    """
    encoder = model.get_encoder()
    lengths = attention.sum(dim=1).tolist()
    parts, start = [], 0
    while start < len(ids):
        end = start + max(1, _READ // lengths[start])
        some = slice(start, end), slice(lengths[start])
        states = encoder(input_ids=ids[some], attention_mask=attention[some]).last_hidden_state
        parts.append(torch.nn.functional.pad(states, (0, 0, 0, ids.shape[1] - states.shape[1])))
        start = end
    return torch.cat(parts)


def generate_by_language(
    model: Any, format: HostFormat, sources: Sequence[Sequence[int]], langs: Sequence[str], **options: Any
) -> list[list[int]]:
    """`generate` for rows of several target languages: one call a language, the result in the order of `sources`."""
    written: dict[int, list[int]] = {}
    for lang in sorted(set(langs)):
        rows = [index for index, code in enumerate(langs) if code == lang]
        made = generate(model, format, [sources[index] for index in rows], lang, **options)
        written.update(zip(rows, made, strict=True))
    return [written[index] for index in range(len(sources))]


def _padded(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
    return ids, (ids != pad_id).long()
