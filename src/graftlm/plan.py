"""From settings to the stages of a job, each with its key: what would run, and what is there already.

Nothing here imports torch. A stage's key holds its version, the settings that can change its outcome, the keys of what
it builds on, and for the corpus the fingerprint of the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graftlm import memo
from graftlm.checkpoint import package_identity
from graftlm.data.settings import DataSettings
from graftlm.data.sources import open_source
from graftlm.fields import outcome
from graftlm.job import Job
from graftlm.schema import Settings, TransferSettings
from graftlm.store import StageKey, Store
from graftlm.transfer.strategy import resolved_steps

# A stage's version goes up when its code changes what it leaves: artifacts of an earlier one are then not reused.
VERSIONS = {"corpus": 1, "pretrain": 2, "graft": 4, "finetune": 4, "evaluate": 3}

State = Literal["reuse", "resume", "run", "waiting"]


@dataclass(frozen=True)
class PlannedStage:
    """A stage of one job and what will happen to it."""

    key: StageKey
    state: State


class Fingerprints:
    """Fingerprints of data and checkpoints, each made once however many jobs share it.

    That of a source in installed packages is remembered while the installation is the same.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._plain: dict[int, tuple[Any, Any]] = {}

    def outcome(self, part: Any) -> Any:
        """`fields.outcome` of settings that jobs may share; not to be changed."""
        if id(part) not in self._plain:
            self._plain[id(part)] = part, outcome(part)  # kept with it: an id is of a living object
        return self._plain[id(part)][1]

    def steps(self, transfer: TransferSettings) -> list[dict[str, Any]]:
        """The steps of a strategy as they are meant, not as they were typed: a default that changes is a change."""
        name = "steps:" + json.dumps(transfer.steps, sort_keys=True)
        if name not in self._known:
            self._known[name] = [{"step": step, **outcome(value)} for step, value in resolved_steps(transfer)]
        return list(self._known[name])

    def data(self, settings: Settings) -> dict[str, Any]:
        """What identifies the rows of the source."""
        name = "data:" + json.dumps(self.outcome(settings.data), sort_keys=True)
        if name not in self._known:
            state = _installed(settings.data)
            found = memo.recall(memo.here(name), state)
            if found is None:
                found = open_source(settings.data).fingerprint()
                memo.remember(memo.here(name), state, found)
            self._known[name] = found
        return dict(self._known[name])

    def knows(self, settings: Settings) -> bool:
        """Whether the source was found in order when its fingerprint was made, and cannot have changed since."""
        name = "data:" + json.dumps(self.outcome(settings.data), sort_keys=True)
        return memo.recall(memo.here(name), _installed(settings.data)) is not None

    def checkpoint(self, checkpoint: str | None, revision: str | None, path: str) -> Any:
        """What identifies a checkpoint: digests of its files, its package's version, or name and revision on the hub.

        Raises:
            CheckpointError: naming the setting `path`, for a package that is not installed.
        """
        if checkpoint is None:
            return None
        name = f"checkpoint:{checkpoint}@{revision}"
        if name not in self._known:
            folder = Path(checkpoint).expanduser()
            package = package_identity(checkpoint, path)
            if package is not None:
                self._known[name] = package
            elif folder.is_dir():
                files = sorted(
                    path for path in folder.iterdir() if path.suffix in {".json", ".safetensors", ".bin", ".model"}
                )
                self._known[name] = {path.name: memo.digest(path) for path in files}
            else:
                self._known[name] = {"hub": checkpoint, "revision": revision or "main"}
        return self._known[name]


def stage_keys(settings: Settings, fingerprints: Fingerprints) -> list[StageKey]:
    """The stages of a job in their order.

    An arm without steps has no graft stage, and one of which no step reads the donor has no pretrain stage.
    """
    outcome = fingerprints.outcome
    model, strategy, trainer = settings.model, settings.transfer, outcome(settings.trainer)
    donor = fingerprints.checkpoint(model.donor.checkpoint, model.donor.revision, "model.donor.checkpoint")
    host = fingerprints.checkpoint(model.host.checkpoint, model.host.revision, "model.host.checkpoint")
    corpus = _key(
        "corpus",
        {
            "data": outcome(settings.data),
            "fingerprint": fingerprints.data(settings),
            "vocab_size": model.vocab_size,
            "trim": model.trim,
            "format": model.format,
            "donor": donor,
            "host": host,
        },
        [],
    )
    stages = [corpus]
    donor_settings = _without(outcome(model.donor), "checkpoint", "revision") if donor is None else donor
    host_settings = _without(outcome(model.host), "checkpoint", "revision") if host is None else host
    inputs = [corpus]
    if strategy.needs_donor:
        adapter = outcome(strategy.adapter)
        stages.append(
            _key(
                "pretrain",
                {
                    "donor": donor_settings,
                    "mask": outcome(settings.mask),
                    "pretrain": outcome(settings.pretrain),
                    "trainer": trainer,
                    **({"adapter": adapter} if adapter["rank"] else {}),  # of one of no rank, no setting counts
                },
                [corpus],
            )
        )
        inputs.append(stages[-1])
    if donor is None:
        # from here on the sizes alone count, which a host takes where its own are null
        donor_settings = {name: donor_settings[name] for name in ("d_model", "layers", "heads", "ffn")}
    if strategy.steps:
        grafted = _graft_settings(settings, fingerprints, host_settings)
        stages.append(_key("graft", {"donor": donor_settings, **grafted}, inputs))
        inputs = [corpus, stages[-1]]
    treatment = _without(outcome(strategy), "steps", "adapter", "fidelity_texts", "calibration_texts")
    treatment["encoder_lr"], treatment["freeze_encoder"] = strategy.encoder_rate()
    finetune = _key(
        "finetune",
        {
            "donor": donor_settings,
            "host": host_settings,
            "transfer": treatment,
            "finetune": outcome(settings.finetune),
            "trainer": trainer,
        },
        inputs,
    )
    evaluate = _key("evaluate", {"evaluate": outcome(settings.evaluate)}, [corpus, finetune])
    return [*stages, finetune, evaluate]


def _graft_settings(settings: Settings, fingerprints: Fingerprints, host: Any) -> dict[str, Any]:
    """What changes the host that a graft leaves; how it is treated afterwards is a matter of the fine-tuning.

    The strategy's name is none of it: strategies of the same steps share their graft. An adapter counts with the donor
    that has it.
    """
    from graftlm.transfer.strategy import any_step  # the steps say what they do

    strategy, built = settings.transfer, settings.model.host.checkpoint is None
    trains = bool(any_step(strategy, "trains"))
    counted: dict[str, Any] = {"steps": fingerprints.steps(strategy), "control": strategy.control}
    counted["calibration_texts"] = strategy.calibration_texts
    if strategy.needs_donor:
        counted["fidelity_texts"] = strategy.fidelity_texts
    found: dict[str, Any] = {"host": host, "transfer": counted}
    if built:
        # the seed of the fine-tuning draws the host, the same one for every arm; of a checkpoint nothing is drawn
        found["finetune"] = {"seed": settings.finetune.seed}
    if trains:
        found["trainer"] = {"precision": settings.trainer.precision}
    elif built:
        found["host"] = _without(host, "dropout")
    return found


def _key(stage: str, settings: dict[str, Any], inputs: Sequence[StageKey]) -> StageKey:
    return StageKey(stage, VERSIONS[stage], settings, {item.stage: item.key for item in inputs})


def _installed(data: DataSettings) -> list[Any] | None:
    """The state in which the fingerprint of a source in installed packages holds; None for a source of another kind."""
    if data.kind not in ("docstrings", "catalogues"):
        return None
    state = memo.installation()
    code = memo.file_state(Path(__file__).parent / "data" / "sources" / f"{data.kind}.py")
    return None if state is None or code is None else [*state, code]


def _without(settings: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in left_out}


def plan(jobs: Sequence[Job]) -> list[list[PlannedStage]]:
    """What each job of a sweep would do, given what earlier jobs of it will have made."""
    fingerprints = Fingerprints()
    held: dict[Path, bool] = {}
    planned: list[list[PlannedStage]] = []
    made: set[str] = set()
    for job in jobs:
        store = Store(Path(job.settings.store.dir).expanduser())
        stages: list[PlannedStage] = []
        for key in stage_keys(job.settings, fingerprints):
            state: State
            path = store.path(key)
            if path not in held:
                held[path] = store.holds(key)
            if held[path]:
                state = "reuse"
            elif key.key in made:
                state = "waiting"  # an earlier job of this sweep makes it
            else:
                state = "resume" if store.started(key) else "run"
                made.add(key.key)
            stages.append(PlannedStage(key, state))
        planned.append(stages)
    return planned
