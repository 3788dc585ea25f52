"""Whether the files of a checkpoint's folder hold what they should, looked at before anything runs. No torch.

Headers of safetensors tell names, shapes and sizes (https://huggingface.co/docs/safetensors). Whether all values are
finite and whether the tokenizer is of the model takes seconds on a large checkpoint, and is remembered while its files
are the same.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm import memo
from graftlm.checkpoint import check_size, local_folder
from graftlm.errors import CheckpointError, Problem

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "fetch the checkpoint again"
LONGEST_HEADER = 100_000_000  # bytes: what the format allows
BLOCK = 1 << 24  # bytes that are looked at at once
# what a configuration must say, by its model_type
_SIZES = {
    "xlm-roberta": (
        "hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings vocab_size"
    ).split(),
    "mbart": (
        "d_model encoder_layers decoder_layers encoder_attention_heads encoder_ffn_dim max_position_embeddings "
        "vocab_size"
    ).split(),
}
_SIZES["bart"] = _SIZES["mbart"]
# tensors that tell sizes, by the end of their names (with or without the model around them), and those sizes
_SHAPES: dict[str, dict[str, tuple[str, str]]] = {
    "xlm-roberta": {
        "embeddings.word_embeddings.weight": ("vocab_size", "hidden_size"),
        "encoder.layer.0.intermediate.dense.weight": ("intermediate_size", "hidden_size"),
    },
    "mbart": {
        "shared.weight": ("vocab_size", "d_model"),
        "encoder.layers.0.fc1.weight": ("encoder_ffn_dim", "d_model"),
        "decoder.layers.0.fc1.weight": ("decoder_ffn_dim", "d_model"),
    },
}
_SHAPES["bart"] = _SHAPES["mbart"]
# the layers of each part: what stands before their number, and the setting that counts them
_LAYERS: dict[str, dict[str, str]] = {
    "xlm-roberta": {"encoder.layer.": "num_hidden_layers"},
    "mbart": {"encoder.layers.": "encoder_layers", "decoder.layers.": "decoder_layers"},
}
_LAYERS["bart"] = _LAYERS["mbart"]
# types of values: how many bits they have, and those that are all set where one is not finite
_EXPONENTS = {"F64": (64, 0x7FF0_0000_0000_0000), "F32": (32, 0x7F80_0000), "F16": (16, 0x7C00), "BF16": (16, 0x7F80)}
_TOKENIZER = ("tokenizer.json", "sentencepiece.bpe.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is: its file, the place of its bytes in it, their type and the shape."""

    file: Path
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


class DamagedError(Exception):
    """A file that does not hold what it should."""


def config_problems(checkpoint: str, config: Mapping[str, Any], path: str) -> list[Problem]:
    """Sizes that its config.json lacks, or has as something else than a whole number above zero."""
    return [
        Problem(path, checkpoint, f"its config.json has {name}={config.get(name)!r}, no whole number above 0", AGAIN)
        for name in _SIZES.get(str(config.get("model_type")), ())
        if isinstance(config.get(name), bool) or not isinstance(config.get(name), int) or config[name] < 1
    ][:1]


def weight_problems(checkpoint: str, config: Mapping[str, Any], path: str) -> list[Problem]:
    """What is wrong with the safetensors of a folder by their headers: damage, and words of another shape."""
    folder = local_folder(checkpoint)
    if folder is None:
        return []
    try:
        tensors = read_tensors(folder)
    except (DamagedError, OSError) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        return [Problem(path, checkpoint, reason, AGAIN)]
    remedy = "give both of the same checkpoint"
    return [Problem(path, checkpoint, unlike, remedy) for unlike in _unlike(tensors, config)][:1]


def _unlike(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[str]:
    """Where weights are not of the sizes that the configuration says."""
    kind = str(config.get("model_type"))
    for ending, names in _SHAPES.get(kind, {}).items():
        wanted = tuple(config.get(name) for name in names)
        for name, item in tensors.items():
            if name.endswith(ending) and item.shape != wanted and None not in wanted:
                shapes = [" × ".join(map(str, shape)) for shape in (item.shape, wanted)]
                yield f"its weights have {name} of {shapes[0]}, its config.json says {shapes[1]}"
    for part, count in _LAYERS.get(kind, {}).items():
        numbers = {int(found[1]) for name in tensors if (found := re.search(rf"{re.escape(part)}(\d+)\.", name))}
        if numbers and numbers != set(range(config[count])):
            side = part.partition(".")[0]
            yield f"its weights have {len(numbers)} layers in the {side}, its config.json says {config[count]}"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors, by the names they are saved under; none where it has no such file.

    Raises:
        DamagedError, OSError: a file is not what it should be, or cannot be read.
    """
    if (folder / SINGLE).is_file():
        return dict(_header(folder / SINGLE))
    if not (folder / INDEX).is_file():
        return {}
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    found: dict[str, Tensor] = {}
    for name in sorted({str(name) for name in weight_map.values()}):
        found |= _header(folder / name)
    lacking = sorted(set(weight_map) - set(found))
    if lacking:
        raise DamagedError(f"{INDEX} names {lacking[0]}, which is in none of its files")
    return found


def _header(file: Path) -> Iterator[tuple[str, Tensor]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        first = start + stream.read(120)
        if first.startswith(b"version https://git-lfs"):
            raise DamagedError(f"{file.name} is a pointer of Git LFS, not the weights (git lfs pull)")
        if first.lstrip().startswith((b"<!", b"<html", b"<?xml", b"<HTML")):
            raise DamagedError(f"{file.name} is a web page, not the weights")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > LONGEST_HEADER:
            raise DamagedError(f"{file.name} is no file of safetensors")
        if 8 + length > size:
            raise DamagedError(f"{file.name} is cut short: it has {size} bytes")
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
            tensors = {
                str(name): Tensor(
                    file,
                    8 + length + entry["data_offsets"][0],
                    entry["data_offsets"][1] - entry["data_offsets"][0],
                    str(entry["dtype"]),
                    tuple(entry["shape"]),
                )
                for name, entry in header.items()
                if name != "__metadata__"
            }
            end = max((item.offset + item.size for item in tensors.values()), default=0)
            for item in tensors.values():
                bits = _EXPONENTS.get(item.dtype, (0, 0))[0]
                if item.offset < 8 + length or (bits and 8 * item.size != bits * math.prod(item.shape)):
                    raise ValueError
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise DamagedError(f"{file.name} is no file of safetensors") from error
    if end > size:
        raise DamagedError(f"{file.name} is cut short: it has {size} of {end} bytes")
    yield from tensors.items()


def value_problems(checkpoint: str, path: str) -> list[Problem]:
    """A tensor of a folder's safetensors with a value that is not finite."""
    folder = local_folder(checkpoint)
    if folder is None:
        return []
    tensors = read_tensors(folder)
    state = _state({item.file for item in tensors.values()})
    if memo.recall(f"finite {folder.resolve()}", state):
        return []
    for name, item in tensors.items():
        if not _finite(item):
            return [Problem(path, checkpoint, f"{name} holds values that are not finite", "name a sound checkpoint")]
    memo.remember(f"finite {folder.resolve()}", state, True)
    return []


def _finite(item: Tensor) -> bool:
    if item.dtype not in _EXPONENTS or not math.prod(item.shape):
        return True
    import numpy as np  # `plan` needs none

    bits, exponent = _EXPONENTS[item.dtype]
    kind = np.dtype(f"<u{bits // 8}")
    with item.file.open("rb") as stream:
        stream.seek(item.offset)
        for start in range(0, item.size, BLOCK):
            values = np.frombuffer(stream.read(min(BLOCK, item.size - start)), dtype=kind)
            if ((values & kind.type(exponent)) == exponent).any():
                return False
    return True


def tokenizer_problems(
    checkpoint: str, config: Mapping[str, Any], path: str, role: str, format: str | None = None
) -> list[Problem]:
    """What the corpus stage and the models would say of a folder's tokenizer: it is loaded as they load it.

    `role`: donor or host. `format`: that the host's must have, `model.format`.
    """
    folder = local_folder(checkpoint)
    if folder is None:
        return []
    state = _state({folder / name for name in _TOKENIZER if (folder / name).is_file()})
    known = memo.here(f"tokenizer {folder.resolve()} {role} {format} {config.get('vocab_size')}")
    if memo.recall(known, state):
        return []
    from graftlm.data.format import HostFormat
    from graftlm.data.tokenizers import load_tokenizer

    try:
        tokenizer = load_tokenizer(checkpoint, None, path, role)
        check_size(config, len(tokenizer), checkpoint, path)
    except CheckpointError as error:
        return list(error.problems)
    kind = HostFormat.from_tokenizer(tokenizer).kind if format is not None else None
    if kind != format:
        return [
            Problem(path, checkpoint, f"has the format {kind}, not model.format={format}", f"set model.format={kind}")
        ]
    memo.remember(known, state, True)
    return []


def _state(files: set[Path]) -> list[Any] | None:
    """What tells whether files have changed; None where one has just now, or there are none."""
    states = [[str(file), memo.file_state(file)] for file in sorted(files)]
    return states if states and all(state for _, state in states) else None
