"""Weights & Biases: a run a stage, its artifacts with their lineage, tables, and a note beside each offline run.

Lineage offline: `Run.use_artifact` asks the server for the artifact and refuses to work without one. The record behind
it, an artifact that is to be used once it is committed, is written offline as well: the input's small files are logged
once more with that mark, W&B knows content that it has by its digest, and the run stands as a user of it. So inputs
should be sent first, which `graftlm wandb sync` sees to. The names are in the config in any case (`inputs`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import graftlm
from graftlm.errors import first_line
from graftlm.tracking import cells, lineage
from graftlm.tracking.sink import LateError

if TYPE_CHECKING:
    from graftlm.context import StageContext
    from graftlm.running import LoggerSettings

STEP = "trainer/global_step"  # the axis of all curves, by the name that Lightning users know
COMPUTE = "compute/flops"  # spent so far, the donor's training and the graft charged
NOTE = "graftlm.json"  # beside the file of an offline run: what it is, and whether it has ended
# what is wanted of a figure: W&B's SDK has no word for it, so the config holds it and the summary keeps the best
GOALS = {
    **dict.fromkeys(("val/loss", "test/loss", "train/loss", COMPUTE, "cost/seconds"), "minimize"),
    **dict.fromkeys(("val/gap", "val/chrf", "val/accuracy", "test/gap", "test/chrf", "test/bleu"), "maximize"),
    **dict.fromkeys(("test/rouge1", "test/rouge2", "test/rougeL", "fidelity/cka", "fidelity/cosine"), "maximize"),
}
_KEPT_BEST = ("val/loss", "val/gap", "val/chrf", "val/accuracy")
_PATIENCE = 30.0  # seconds for the server to answer at the start of a run
_TAKEN = 60.0  # seconds for it to take the rest of a run at its end; W&B itself would wait for ever
_TAKEN_FILES = 3600.0  # with the files of models


class WandbSink:
    """A W&B run: group = sweep, job type = stage, tags = the choices."""

    def __init__(self, context: StageContext, mode: Literal["online", "offline"]):
        import dataclasses

        settings, labels = context.settings, context.labels
        self._context = context
        self._own = lineage.of_folder(context.work)
        self._inputs = [lineage.of_folder(folder) for folder in context.inputs.values()]
        self._before: float | None = None
        stage, arm, seed = self._own.stage, labels.arm, settings.finetune.seed
        config = {
            **dataclasses.asdict(settings),
            "choices": dict(labels.choices),
            "job": labels.job,
            "arm": arm,
            "pretrain_seed": settings.pretrain.seed,
            "finetune_seed": seed,
            "artifact": self._own.name,
            "inputs": {item.stage: item.name for item in self._inputs},
        }
        tags = [*(f"{group}={choice}" for group, choice in labels.choices.items()), *settings.logger.tags]
        self._run = start(settings.logger, mode, labels.sweep, stage, f"{arm}-{stage}-{seed}", tags, config)
        for item in self._inputs:
            with self._suppressed(item.name):
                use(self._run, artifact(item, settings.logger.log_models))

    @contextlib.contextmanager
    def _suppressed(self, name: str) -> Iterator[None]:
        """An artifact that cannot be told costs its lineage, not the run."""
        try:
            yield
        except Exception as error:
            self._context.progress.say(f"W&B: the artifact {name} is left out ({first_line(error)})")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if "flops" in metrics:
            if self._before is None:
                self._before = lineage.flops_before(self._context.inputs)
            metrics = {**metrics, COMPUTE: self._before + metrics["flops"]}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if len(finite) < len(metrics):  # W&B takes a NaN for the smallest and the largest value there was
            finite["not_finite"] = len(metrics) - len(finite)
        self._run.log({**finite, STEP: step})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._run.log({name: table(columns, rows)})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def done(self) -> None:
        stage, wanted = self._own.stage, self._context.settings.logger.log_models
        if stage == "evaluate":
            before = lineage.flops_before(self._context.inputs)
            self._run.summary.update({COMPUTE: before})
        own = lineage.of_folder(self._context.work)  # with the files that it has by now
        labels, settings = self._context.labels, self._context.settings
        seed = settings.pretrain.seed if stage == "pretrain" else settings.finetune.seed
        aliases = ["corpus"] if stage == "corpus" else [_alias(f"{labels.arm}-seed{seed}")]
        with self._suppressed(own.name):
            self._run.log_artifact(artifact(own, wanted), aliases=aliases)
            if wanted != "none" and any(own.models()):
                self._run.log_artifact(model_artifact(own, wanted), aliases=aliases)

    def finish(self, exit_code: int) -> None:
        finish(self._run, exit_code)


def start(
    logger: LoggerSettings,
    mode: Literal["online", "offline"],
    sweep: str,
    job_type: str,
    name: str,
    tags: Iterable[str],
    config: Mapping[str, Any],
) -> Any:
    """A run of W&B's SDK, its metrics declared; names are cut to the lengths that the server takes."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    place = Path(logger.dir).expanduser().absolute()
    place.mkdir(parents=True, exist_ok=True)
    # files of artifacts wait for their upload in a folder of W&B's: beside the run, not in the home of whoever ran it
    os.environ.setdefault("WANDB_DATA_DIR", str(place / "wandb" / "data"))
    group = (logger.group or sweep)[:128]
    run = wandb.init(
        project=logger.project,
        entity=logger.entity,
        group=group,
        job_type=job_type,
        name=cells.text(name)[:128],
        tags=list(dict.fromkeys(cells.text(tag)[:64] for tag in tags if tag)),
        dir=str(place),
        mode=mode,
        config={**config, "sweep": sweep, "graftlm": graftlm.__version__, "goals": GOALS},
        reinit="finish_previous",
        settings=wandb.Settings(
            console="off",
            init_timeout=_PATIENCE,
            finish_timeout=_TAKEN_FILES if logger.log_models == "files" else _TAKEN,
            finish_timeout_raises=True,
        ),
    )
    try:
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        for metric in _KEPT_BEST:
            run.define_metric(metric, step_metric=STEP, summary="min" if GOALS[metric] == "minimize" else "max")
        _write_note(run, {"name": name, "stage": job_type, "group": group, "project": logger.project, "mode": mode})
    except Exception:
        run.finish(exit_code=1)
        raise
    return run


def finish(run: Any, exit_code: int) -> None:
    """Close a run, and note beside it that it has ended, and whether the server has all of it.

    Raises:
        LateError: it did not take all in time.
    """
    folder = Path(run.dir).parent
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError as error:
        _end_note(folder, exit_code, sent=False)
        place = folder.parent.parent  # the folder that was logger.dir
        raise LateError(f"the server has not taken all of this run; `graftlm wandb sync {place}` sends it") from error
    _end_note(folder, exit_code, sent=True)


def _end_note(folder: Path, exit_code: int, sent: bool) -> None:
    note = read_note(folder)
    if note:
        _note(folder, {**note, "exit_code": exit_code, "sent": sent and note.get("mode") == "online"})


def _write_note(run: Any, about: Mapping[str, Any]) -> None:
    _note(Path(run.dir).parent, {**about, "pid": os.getpid(), "host": socket.gethostname(), "exit_code": None})


def _note(folder: Path, about: Mapping[str, Any]) -> None:
    (folder / NOTE).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")


def read_note(folder: Path) -> dict[str, Any]:
    """What was noted beside a run; empty where it is none of ours."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def artifact(item: lineage.Produced, log_models: str) -> Any:
    """The small files of a stage's artifact. Its content is the same, whoever makes it: the digest finds it again."""
    import wandb

    made = wandb.Artifact(item.name, item.type, description=f"{item.stage} {item.key} of graftlm's store")
    made.metadata = {
        "stage": item.stage,
        "key": item.key,
        "model": f"{item.name}-model" if log_models != "none" else None,
    }
    for name, path in item.records.items():
        made.add_file(str(path), name=name)
    return made


def model_artifact(item: lineage.Produced, how: str) -> Any:
    """The model's files: uploaded, or named by where they will stand."""
    import wandb

    files = dict(item.models())
    about = {"stage": item.stage, "key": item.key, "sizes": {name: path.stat().st_size for name, path in files.items()}}
    made = wandb.Artifact(f"{item.name}-model", "model", metadata=about)
    for name, path in files.items():
        if how == "files":
            made.add_file(str(path), name=name)
        else:
            for entry in made.add_reference(path.as_uri(), name=name):
                entry.ref = (item.final / name).as_uri()  # the folder is renamed once it is whole
    return made


def use(run: Any, made: Any) -> None:
    """Note that a run builds on an artifact, online or offline, without waiting for a server."""
    record = getattr(run, "_log_artifact", None)  # what use_artifact calls for an artifact that is made on the spot
    if record is not None:
        record(made, is_user_created=True, use_after_commit=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A W&B table of cells that are fit for it."""
    import wandb

    return wandb.Table(columns=[cells.text(name, 100) for name in columns], data=cells.table(columns, rows))


def _alias(name: str) -> str:
    """An alias without what an artifact's address is divided by."""
    return "".join("-" if char in "/:," or not char.isprintable() else char for char in name)[:64] or "run"
