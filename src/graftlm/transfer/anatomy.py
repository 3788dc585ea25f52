"""Names of the parts of both models, and which part of the donor corresponds to which part of the host.

The donor is an `XLMRobertaForMaskedLM` (post-LN: a LayerNorm after each residual sum), the host an
`MBartForConditionalGeneration` (pre-LN: a LayerNorm before each sublayer). Names are those of `state_dict()`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DONOR_WORDS = "roberta.embeddings.word_embeddings.weight"
DONOR_POSITIONS = "roberta.embeddings.position_embeddings.weight"
DONOR_TYPES = "roberta.embeddings.token_type_embeddings.weight"
DONOR_EMBEDDING_NORM = "roberta.embeddings.LayerNorm"
DONOR_BIAS = "lm_head.bias"
DONOR_HEAD = ("lm_head.dense.weight", "lm_head.dense.bias", "lm_head.layer_norm.weight", "lm_head.layer_norm.bias")

# mBART ties these four; a model saved untied holds each for itself
HOST_WORDS = (
    "model.shared.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)
HOST_OUTPUT_NORM = "model.decoder.layer_norm.weight"
HOST_BIAS = "final_logits_bias"
HOST_LAST_NORM = "model.encoder.layer_norm"
HOST_DECODER_NORM = "model.decoder.layer_norm"
# both models look the position of the first token up in row 2 (XLM-R: padding_idx + 1, mBART: its offset)
FIRST_POSITION = 2
HOST_EPS = 1e-5  # of all LayerNorms of mBART and BART: torch's default, no configuration names another


@dataclass(frozen=True)
class Block:
    """Module names of one encoder layer. `attention_norm` and `ffn_norm` stand where the model has them:

    in the donor *after* the residual sum of that sublayer, in the host *before* the sublayer.
    """

    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    fc1: str
    fc2: str
    ffn_norm: str

    def linear(self) -> Iterator[str]:
        """The six linear maps."""
        yield from (self.query, self.key, self.value, self.out, self.fc1, self.fc2)


def donor_block(layer: int) -> Block:
    """Module names of layer `layer` of the donor."""
    at = f"roberta.encoder.layer.{layer}"
    return Block(
        query=f"{at}.attention.self.query",
        key=f"{at}.attention.self.key",
        value=f"{at}.attention.self.value",
        out=f"{at}.attention.output.dense",
        attention_norm=f"{at}.attention.output.LayerNorm",
        fc1=f"{at}.intermediate.dense",
        fc2=f"{at}.output.dense",
        ffn_norm=f"{at}.output.LayerNorm",
    )


def host_block(layer: int, side: str = "encoder") -> Block:
    """Module names of layer `layer` of the host's encoder (or decoder: its self-attention and FFN)."""
    at = f"model.{side}.layers.{layer}"
    return Block(
        query=f"{at}.self_attn.q_proj",
        key=f"{at}.self_attn.k_proj",
        value=f"{at}.self_attn.v_proj",
        out=f"{at}.self_attn.out_proj",
        attention_norm=f"{at}.self_attn_layer_norm",
        fc1=f"{at}.fc1",
        fc2=f"{at}.fc2",
        ffn_norm=f"{at}.final_layer_norm",
    )


def host_output_norm(host: Container[object], side: str, layers: int) -> str:
    """Module name of the LayerNorm that gives the last states of one side of the host, of which `layers` is the depth.

    mBART (pre-LN) has one of its own; in BART (post-LN) it is the last one of the last layer.
    """
    own = f"model.{side}.layer_norm"
    return own if f"{own}.weight" in host else host_block(layers - 1, side).ffn_norm


def host_attention(layer: int, side: str = "encoder", cross: bool = False) -> tuple[str, ...]:
    """Module names of one attention of the host: query, key, value, output, LayerNorm; `cross`: the decoder's other."""
    at, kind = f"model.{side}.layers.{layer}", "encoder_attn" if cross else "self_attn"
    return (*(f"{at}.{kind}.{part}_proj" for part in ("q", "k", "v", "out")), f"{at}.{kind}_layer_norm")


def host_ffn(layer: int, side: str = "encoder") -> tuple[str, ...]:
    """Module names of the feed-forward part of one layer of the host, its LayerNorm last."""
    at = f"model.{side}.layers.{layer}"
    return f"{at}.fc1", f"{at}.fc2", f"{at}.final_layer_norm"


def host_positions(side: str = "encoder") -> str:
    """Name of the position table of one side of the host."""
    return f"model.{side}.embed_positions.weight"


def host_embedding_norm(side: str = "encoder") -> str:
    """Module name of the LayerNorm that follows the embeddings of one side of the host."""
    return f"model.{side}.layernorm_embedding"


def pair(module: str) -> tuple[str, str]:
    """Names of the weight and the bias of a module."""
    return f"{module}.weight", f"{module}.bias"


@dataclass(frozen=True)
class Shape:
    """What must agree for a layer to be carried over."""

    d_model: int
    layers: int
    heads: int
    ffn: int
    activation: str

    @classmethod
    def of_donor(cls, config: Mapping[str, Any]) -> Shape:
        """From the values of an `XLMRobertaConfig`."""
        return cls(
            d_model=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            ffn=int(config["intermediate_size"]),
            activation=str(config.get("hidden_act", "gelu")),
        )

    @classmethod
    def of_host(cls, config: Mapping[str, Any]) -> Shape:
        """From the values of an `MBartConfig`: its encoder."""
        return cls(
            d_model=int(config["d_model"]),
            layers=int(config["encoder_layers"]),
            heads=int(config["encoder_attention_heads"]),
            ffn=int(config["encoder_ffn_dim"]),
            activation=str(config.get("activation_function", "gelu")),
        )
