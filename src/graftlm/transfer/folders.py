"""A graft between two model folders without loading the models, for strategies whose steps need none."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.checkpoint import CONFIG, check_checkpoint, local_folder, read_config
from graftlm.console import Progress
from graftlm.errors import CheckpointError, first_line
from graftlm.schema import TransferSettings
from graftlm.transfer.apply import account, checked_steps, run_steps
from graftlm.transfer.files import FileWeights, Output, Place, places_in
from graftlm.transfer.graft import Graft
from graftlm.transfer.report import Ledger, TransferReport
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights, Weights

UNMEASURED = "fidelity was not measured: that runs both models on text (--text)"
# what else a model's folder holds; weights apart
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "*.model", "*.jinja")


@dataclass
class Folder:
    """A model's folder: its configuration, the model without values (on the meta device), where its tensors are."""

    path: Path
    config: Any
    model: Any
    skeleton: ModelWeights
    places: Mapping[str, Place]

    @property
    def weights(self) -> FileWeights:
        return FileWeights(self.skeleton, self.places)


def open_folder(kind: Any, checkpoint: str, model_type: str, path: str) -> Folder | None:
    """The folder of a model of the transformers class `kind`; None where only transformers can read its weights.

    Raises:
        CheckpointError: it is not there, incomplete, damaged, or no `model_type`.
    """
    import torch

    folder = local_folder(checkpoint)
    if folder is None:
        return None
    problems = check_checkpoint(checkpoint, read_config(checkpoint, None, path), model_type, path)
    if problems:
        raise CheckpointError(problems)
    try:
        places = places_in(folder)
        config = kind.config_class.from_pretrained(folder)
        with torch.device("meta"):
            model = kind(config)
    except Exception as error:  # transformers raises half a dozen kinds, some of them bare
        raise CheckpointError.at(path, checkpoint, f"cannot be read: {first_line(error)}") from error
    skeleton = ModelWeights(model)
    if places is None or not FileWeights(skeleton, places).whole():
        logging.getLogger(__name__).info("%s=%s is read by transformers", path, checkpoint)
        return None
    return Folder(folder, config, model, skeleton, places)


def graft_folders(
    strategy: TransferSettings,
    donor: Folder,
    host: Folder,
    tokenizers: Callable[[], tuple[Any, Any]],
    out: Path,
    progress: Progress,
    *,
    base: Weights | None = None,
    adapter: Path | None = None,
) -> TransferReport:
    """Apply a strategy whose steps need no models to `host`'s files and write them into the folder `out`.

    Args:
        tokenizers: loads those of donor and host, while the tensors that no step writes are being copied.

    Raises:
        TransferError: donor and host do not fit.
        OSError: a file cannot be written.
    """
    begun = time.perf_counter()
    steps = checked_steps(strategy, donor.config, host.config)
    weights, target = donor.weights, Output(host.skeleton, host.places, out)
    settings = host.config.to_dict()
    try:
        target.begin([pattern for _, step in steps for pattern in (*step.writes(), *step.refines())])
        donor_tokenizer, host_tokenizer = tokenizers()
        graft = Graft(
            donor.config,
            host.config,
            weights,
            target,
            align(donor_tokenizer, host_tokenizer),
            Ledger(weights, target, host_pretrained=True),
            base_weights=base,
            adapter=adapter,
            donor_tokenizer=donor_tokenizer,
            host_tokenizer=host_tokenizer,
            progress=progress,
        )
        with _reproducible():
            records = run_steps(graft, steps)
        target.finish()
    finally:
        target.close()
    _copy_others(host.path, out)
    if host.config.to_dict() != settings:
        host.config.save_pretrained(out)
    report = account(
        strategy, donor.model, host.model, graft.ledger, records, graft.vocabulary, None, [UNMEASURED], begun
    )
    progress.say(report.summary())
    progress.say(UNMEASURED)
    return report


@contextmanager
def _reproducible() -> Iterator[None]:
    """torch's random numbers from one seed, and as they were afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _copy_others(source: Path, out: Path) -> None:
    """Configuration and tokenizer."""
    for pattern in (CONFIG, "generation_config.json", *TOKENIZER):
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
