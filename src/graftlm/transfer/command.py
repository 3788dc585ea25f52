"""`graftlm transfer`: graft one model folder into another, without any experiment."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from graftlm.console import Progress, Silent
from graftlm.errors import DataError, TransferError
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.report import TransferReport

BUILT = "config"


def run(
    encoder: str, seq2seq: str, strategy: TransferSettings, text: Path, out: Path, progress: Progress | None = None
) -> TransferReport:
    """Graft `encoder` into `seq2seq` and write a folder that plain transformers loads, with `transfer.json` in it.

    Args:
        encoder: folder or hub name of an XLM-R.
        seq2seq: folder or hub name of an mBART, or `config`: a new one of the donor's shape, with the donor's pieces
            and mBART-50's language codes.
        strategy: the steps.
        text: a text a line (.jsonl: its field `text`); every tenth is held out for the fidelity.
        out: the folder to write; it must not hold anything yet.

    Raises:
        CheckpointError: a model or tokenizer cannot be loaded.
        DataError: the text cannot be read.
        TransferError: the graft does not fit or transplants nothing, or `out` is taken.
    """
    import torch
    from transformers import XLMRobertaForMaskedLM
    from transformers.utils.logging import disable_progress_bar

    from graftlm.data.tokenizers import encode, load_tokenizer
    from graftlm.models.build import check_vocabulary, load_model

    progress = progress or Silent()
    disable_progress_bar()
    out = out.expanduser().absolute()
    if not strategy.steps:
        raise TransferError.at("--strategy", strategy.name, "carries nothing", "name a strategy with steps")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TransferError.at("--out", out, "is there already", "name a folder that does not exist")
    texts = read_texts(text)
    donor_tokenizer = load_tokenizer(encoder, None, "--encoder", "donor")
    donor = load_model(XLMRobertaForMaskedLM, encoder, None, "xlm-roberta", "--encoder")
    check_vocabulary(donor, donor_tokenizer, encoder, "--encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host, host_tokenizer = _host(seq2seq, donor, donor_tokenizer)
        ids = encode(donor_tokenizer, texts)
        report = apply_strategy(
            strategy,
            donor,
            host,
            donor_tokenizer,
            host_tokenizer,
            calibration=[row for index, row in enumerate(ids) if index % 10],
            held_out=ids[::10],
            host_pretrained=seq2seq != BUILT,
            progress=progress,
        )
    partial: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        partial.chmod(0o755)
        host.save_pretrained(partial)
        host_tokenizer.save_pretrained(partial)
        report.write(partial / "transfer.json")
        if out.exists():
            out.rmdir()
        partial.replace(out)
    except OSError as error:
        raise TransferError.at("--out", out, f"cannot be written: {error.strerror}", "name another folder") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return report


def _host(seq2seq: str, donor: Any, donor_tokenizer: Any) -> tuple[Any, Any]:
    """The host in training mode, and its tokenizer."""
    from graftlm.data.tokenizers import host_tokenizer_from_donor, load_tokenizer
    from graftlm.models.build import build_host, check_vocabulary, load_model
    from graftlm.schema import HostSettings, ModelSettings

    if seq2seq == BUILT:
        tokenizer = host_tokenizer_from_donor(donor_tokenizer, "mbart50")
        positions = max(donor.config.max_position_embeddings - 2, 16)
        shape = HostSettings(decoder_layers=donor.config.num_hidden_layers, max_positions=positions)
        return build_host(ModelSettings(name="graft", host=shape), tokenizer, donor.config), tokenizer
    from transformers import MBartForConditionalGeneration

    tokenizer = load_tokenizer(seq2seq, None, "--seq2seq", "host")
    host = load_model(MBartForConditionalGeneration, seq2seq, None, "mbart", "--seq2seq")
    check_vocabulary(host, tokenizer, seq2seq, "--seq2seq")
    return host, tokenizer


def read_texts(path: Path) -> list[str]:
    """The texts of a file, a line each; of a .jsonl file the field `text`.

    Raises:
        DataError: it cannot be read, or holds fewer than two texts.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        if path.suffix == ".jsonl":
            lines = [str(json.loads(line)["text"]) for line in lines if line.strip()]
    except OSError as error:
        raise DataError.at("--text", path, f"cannot be read: {error.strerror}", "name a file of text") from error
    except UnicodeDecodeError as error:
        raise DataError.at("--text", path, "is not UTF-8", "convert it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError.at(
            "--text", path, "has a line without a JSON field `text`", "give plain text as .txt"
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if len(texts) < 2:
        raise DataError.at("--text", path, f"holds {len(texts)} texts", "give at least two, better thousands")
    return texts
