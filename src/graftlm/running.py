"""Where and how jobs run, what is kept of them and how they are compared: settings of the machine, not of the science.

Of these only the trainer's precision and accumulation can change an outcome.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from graftlm.errors import Problem
from graftlm.fields import setting

# signals that may ask a training to save and end
_CATCHABLE = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how the training runs: handed to `pytorch_lightning.Trainer`.

    devices: of this machine, for one job; they share each micro-batch, so that a step is the same step on any number.
    strategy: for several devices: ddp (auto), or fsdp, which needs GPUs.
    compile: each layer by torch.compile. checkpointing: activations are computed again in the backward pass, not kept:
    a third more work, a fraction of their memory. profile: so many steps are profiled (`debug=profile`).
    `signals`: those that make a training save and end, besides Ctrl-C; schedulers send one before they take a machine.
    """

    name: str = setting("auto", outcome=False)
    accelerator: str = setting("auto", outcome=False)
    devices: int = setting(1, at_least=1, outcome=False)
    strategy: Literal["auto", "ddp", "fsdp"] = setting("auto", outcome=False)
    precision: str = "32-true"
    accumulate: int = setting(1, at_least=1)
    num_workers: int = setting(0, at_least=0, outcome=False)
    threads: int | None = setting(None, at_least=1, outcome=False)
    detect_anomaly: bool = setting(False, outcome=False)
    compile: bool = setting(False, outcome=False)
    checkpointing: bool = setting(False, outcome=False)
    profile: int = setting(0, at_least=0, outcome=False)
    signals: list[str] = setting(["SIGTERM", "SIGUSR1", "SIGUSR2"], outcome=False)

    def check(self, path: str) -> Iterator[Problem]:
        for name in self.signals:
            if name not in _CATCHABLE:
                yield Problem(f"{path}.signals", name, "is no signal to end by", "some of " + ", ".join(_CATCHABLE))
        known = ("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true")
        if self.precision not in known:
            yield Problem(f"{path}.precision", self.precision, "is not known", "one of " + ", ".join(known))
        if self.strategy == "fsdp" and self.accelerator == "cpu":
            yield Problem(f"{path}.strategy", self.strategy, "needs GPUs", "take ddp, or trainer=fsdp")
        if self.accelerator == "mps" and self.devices > 1:
            yield Problem(f"{path}.devices", self.devices, "mps is one device", f"set {path}.devices=1")
        if self.compile and self.detect_anomaly:
            yield Problem(f"{path}.compile", True, "hides operations from detect_anomaly", f"set {path}.compile=false")
        if self.profile and self.devices > 1:
            yield Problem(f"{path}.profile", self.profile, "profiles one device", f"set {path}.devices=1")
        accelerators = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
        if self.accelerator not in accelerators:
            yield Problem(f"{path}.accelerator", self.accelerator, "is not known", "one of " + ", ".join(accelerators))


@dataclass(frozen=True)
class LoggerSettings:
    """Where metrics go besides the local JSON Lines, which are always written.

    `log_models`: whether W&B gets the models as well: their files, or references to where they stand on this machine.
    """

    kind: Literal["wandb", "tensorboard", "trackio", "none"] = "wandb"
    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "graftlm"
    entity: str | None = None
    group: str | None = None
    dir: str = "multirun"
    tags: list[str] = setting([])
    log_models: Literal["none", "references", "files"] = "none"

    def check(self, path: str) -> Iterator[Problem]:
        if self.log_models != "none" and self.kind != "wandb":
            remedy = f"set {path}.log_models=none, or take logger=wandb"
            yield Problem(f"{path}.log_models", self.log_models, f"says nothing to logger={self.kind}", remedy)
        if not self.project or any(char in "/\\#?%:" for char in self.project) or len(self.project) > 128:
            reason = "is no name of a project: 1 to 128 characters without / \\ # ? % :"
            yield Problem(f"{path}.project", self.project, reason)

    def missing(self, path: str) -> Iterator[Problem]:
        """The package of the tracker, where it is not installed."""
        if self.kind != "none" and importlib.util.find_spec(self.kind) is None:
            extra = f"graftlm[{self.kind}]" if self.kind != "wandb" else "wandb"
            remedy = f"pip install '{extra}', or take logger=none"
            yield Problem(path, self.kind, "its package is not installed", remedy)


@dataclass(frozen=True)
class LaunchSettings:
    """Where the jobs of a sweep run, how many at a time, and what each gets; none of it changes an outcome.

    `lease`: a job takes its cores or GPUs for itself (`graftlm.leases`); the schedulers of SLURM and Ray do that on
    their own. Null leaves a number to the engine. `devices`: the GPUs that leases give out, by their CUDA names.
    """

    name: Literal["local", "joblib", "submitit_local", "slurm", "ray", "ray_cluster"] = "local"
    workers: int | None = setting(None, at_least=1)
    cores: int | None = setting(None, at_least=1)
    gpus: int | None = setting(None, at_least=0)
    devices: list[str] | None = None
    lease: bool = False
    address: str | None = None

    def check(self, path: str) -> Iterator[Problem]:
        if self.name == "ray_cluster" and not self.address:
            remedy = "for example 10.0.0.1:6379, or auto on a machine of the cluster"
            yield Problem(f"{path}.address", "null", "does not say which cluster", remedy)
        if self.name in ("ray", "ray_cluster") and self.workers is not None:
            reason = "Ray runs as many jobs as its resources allow"
            yield Problem(f"{path}.workers", self.workers, reason, f"set {path}.cores or {path}.gpus, a job's share")
        if self.lease and self.name not in ("local", "joblib"):
            reason = f"launch={self.name} gives each job its own"
            yield Problem(f"{path}.lease", True, reason, f"set {path}.lease=false")
        for name, value, engines in (
            ("address", self.address, ("ray_cluster",)),
            ("devices", self.devices, ("local", "joblib")),
        ):
            if value is not None and self.name not in engines:
                yield Problem(f"{path}.{name}", value, f"says nothing to launch={self.name}", f"set {path}.{name}=null")
        if self.devices is not None and len(set(self.devices)) < len(self.devices):
            yield Problem(f"{path}.devices", self.devices, "names a GPU twice")


@dataclass(frozen=True)
class StoreSettings:
    """The folder of artifacts, shared by all sweeps.

    `lease`: seconds without a sign of life after which a process of another machine that makes one counts as dead.
    """

    dir: str = "multirun/store"
    lease: float = setting(60.0, at_least=1, at_most=86400)


@dataclass(frozen=True)
class ReportSettings:
    """How arms are compared.

    `primary`: the figure that the words rest on; it is recorded with every job, so that a report made with another one
    can say so. `contrasts`: pairs of arms, by strategy or full name, that are compared besides each with the baseline:
    `[[full, denoising]]`.
    """

    baseline: str = "none"
    primary: Literal["auc", "val_loss", "equal_compute", "test_loss", "rougeL", "rouge1", "rouge2", "chrf", "bleu"] = (
        "auc"
    )
    contrasts: list[list[str]] = setting([])
    confidence: float = setting(0.95, above=0.5, below=1)
    resamples: int = setting(2000, at_least=100)
    samples: int = setting(20, at_least=0)

    def check(self, path: str) -> Iterator[Problem]:
        for pair in self.contrasts:
            if len(pair) != 2 or pair[0] == pair[1]:
                remedy = "for example [[full, denoising]]"
                yield Problem(f"{path}.contrasts", pair, "does not name two arms to compare", remedy)
