"""What is looked at before anything runs, beyond what settings tell of themselves: files, checkpoints, shapes, devices.

Torch is loaded only where a command is going to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftlm.data.sources import check_source
from graftlm.errors import CheckpointError, GraftlmError, Problem, SettingsError
from graftlm.job import Job
from graftlm.plan import Fingerprints, stage_keys
from graftlm.schema import Settings
from graftlm.store import Store
from graftlm.variables import check_variables


def check_inputs(jobs: Sequence[Job], to_run: bool) -> None:
    """What the schema cannot see: whether files, columns, checkpoints and shapes are there and fit together.

    `to_run`: look at the first rows of files too, and whether the accelerator that is named is there (both load torch).

    Raises:
        SettingsError: with every mistake found, each once.
    """
    elsewhere = jobs[0].settings.launch.name in ("slurm", "ray_cluster")  # what is there, a job finds when it begins
    problems = list(check_variables(to_run and not elsewhere))
    if problems:
        raise SettingsError(problems)
    seen: set[str] = set()
    fingerprints = Fingerprints()
    outcome = fingerprints.outcome

    def once(name: str) -> bool:
        new = name not in seen
        seen.add(name)
        return new

    for job in jobs:
        settings = job.settings
        new = once("data" + json.dumps(outcome(settings.data), sort_keys=True))
        if new and (to_run or not fingerprints.knows(settings)):
            problems += check_source(settings.data, "data", rows=to_run)
        finetune = settings.finetune
        lengths = [settings.pretrain.max_length, finetune.max_source_length, finetune.max_target_length]
        if once("pair" + json.dumps([outcome(settings.model), outcome(settings.transfer), lengths], sort_keys=True)):
            problems += _check_pair(settings, to_run)
        if to_run and not elsewhere and once("device" + settings.trainer.accelerator):
            problems += _check_device(settings.trainer.accelerator)
        if once("logger" + settings.logger.kind):
            problems += settings.logger.missing("logger")
        unwritable = _check_folder("store.dir", settings.store.dir)
        if unwritable and not _all_there(settings, fingerprints) and once("store" + settings.store.dir):
            problems += unwritable
    if problems:
        raise SettingsError(problems)


def _check_pair(settings: Settings, to_run: bool) -> list[Problem]:
    from graftlm import intact
    from graftlm.checkpoint import check_checkpoint, donor_shape, host_shape, read_config
    from graftlm.transfer import adapters
    from graftlm.transfer.strategy import check_compatible

    model = settings.model
    problems: list[Problem] = []
    if settings.transfer.needs_donor and settings.transfer.adapter.rank:
        problems += adapters.missing("transfer.adapter")
    configs: dict[str, dict[str, Any] | None] = {}
    for role, kind, part in (("donor", "xlm-roberta", model.donor), ("host", model.host.architecture, model.host)):
        configs[role] = None
        if part.checkpoint is None:
            continue
        checkpoint, path = part.checkpoint, f"model.{role}.checkpoint"
        try:
            configs[role] = config = read_config(checkpoint, part.revision, path)
            found = check_checkpoint(checkpoint, config, kind, path) or intact.config_problems(checkpoint, config, path)
            found = found or intact.weight_problems(checkpoint, config, path)
            if to_run and not found:
                format = model.format if role == "host" else None
                found = intact.tokenizer_problems(checkpoint, config, path, role, format)
                found += intact.value_problems(checkpoint, path)
            problems += found
        except CheckpointError as error:
            problems += error.problems
    if not problems:
        donor = configs["donor"] or donor_shape(model.donor)
        built = {**host_shape(model.host, donor), "decoder_layers": model.host.decoder_layers}
        host = configs["host"] or built
        # a graft's own demand on a setting says more than that its value cannot be at all
        unfit = [*check_compatible(settings.transfer, donor, host), *_check_sizes(settings, donor, host)]
        problems += {problem.path: problem for problem in reversed(unfit)}.values()
    return problems


def _check_sizes(settings: Settings, donor: Mapping[str, Any], host: Mapping[str, Any]) -> list[Problem]:
    """Rows longer than a checkpoint's positions, and heads that do not divide a width inherited from the donor."""
    problems: list[Problem] = []
    width, heads = host["d_model"], host["encoder_attention_heads"]
    if width % heads:
        problems.append(Problem("model.host.heads", heads, f"must divide the width {width}", "null takes the donor's"))
    finetune = settings.finetune
    for path, longest, positions in (
        ("pretrain.max_length", settings.pretrain.max_length, donor["max_position_embeddings"] - 2),
        ("finetune.max_source_length", finetune.max_source_length, host["max_position_embeddings"]),
        ("finetune.max_target_length", finetune.max_target_length, host["max_position_embeddings"]),
    ):
        if longest > positions:
            problems.append(Problem(path, longest, f"is longer than the model's {positions} positions", "lower it"))
    return problems


def _check_device(accelerator: str) -> list[Problem]:
    if accelerator in ("auto", "cpu"):
        return []
    from pytorch_lightning.accelerators import AcceleratorRegistry

    names = ("cuda", "mps") if accelerator == "gpu" else (accelerator,)
    if any(AcceleratorRegistry[name]["accelerator"].is_available() for name in names):
        return []
    return [
        Problem("trainer.accelerator", accelerator, "is not there on this machine", "take trainer=auto or trainer=cpu")
    ]


def _all_there(settings: Settings, fingerprints: Fingerprints) -> bool:
    """Whether a job has nothing to write: of a store that is there to be read only, it may be given what that holds."""
    store = Store(Path(settings.store.dir).expanduser())
    try:
        return settings.search.sampler is None and all(store.holds(key) for key in stage_keys(settings, fingerprints))
    except GraftlmError:
        return False


def _check_folder(path: str, folder: str) -> list[Problem]:
    """A folder that cannot be made or written is found before anything is trained."""
    place = Path(folder).expanduser().absolute()
    if place.exists() and not place.is_dir():
        return [Problem(path, folder, "is a file, not a folder", "name another folder")]
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return [Problem(path, folder, "cannot be written", "name another folder")]
    return []
