"""Mistakes in the environment: variables that say nothing sensible, folders that cannot be used."""

from __future__ import annotations

from mistake import SMOKE, Mistake, told

WANDB = (*SMOKE, "logger=wandb")

MISTAKES = [
    Mistake(
        "a hub of no address",
        (*SMOKE, "model=base"),
        "HF_ENDPOINT=https://hub:port",
        ("is no address", "unset it"),
        environment={"HF_HUB_OFFLINE": None, "HF_ENDPOINT": "https://hub:port"},
    ),
    Mistake("a mode that W&B has not", WANDB, "logger.mode=of", ("offline",), environment={"WANDB_MODE": "of"}),
    Mistake("threads in words", SMOKE, "OMP_NUM_THREADS=abc", ("no number",), environment={"OMP_NUM_THREADS": "abc"}),
    Mistake("a rank in words", SMOKE, "RANK=first", ("no whole number", "unset"), environment={"RANK": "first"}),
    Mistake("no process of SLURM", SMOKE, "SLURM_PROCID", ("no whole number",), environment={"SLURM_PROCID": "x"}),
    Mistake("several tasks", SMOKE, "SLURM_NTASKS=4", ("--ntasks=1",), environment={"SLURM_NTASKS": "4"}),
    Mistake("no GPU", SMOKE, "CUDA_VISIBLE_DEVICES", ("no GPUs",), environment={"CUDA_VISIBLE_DEVICES": "cuda:0"}),
    Mistake("no hub", SMOKE, "HF_ENDPOINT=hub.org", ("https://",), environment={"HF_ENDPOINT": "hub.org"}),
    Mistake(
        "a store in a variable that is not set",
        (*SMOKE, "store.dir=${oc.env:GRAFTLM_STORE}"),
        "store.dir",
        ("GRAFTLM_STORE",),
        environment={"GRAFTLM_STORE": None},
    ),
]

test_the_environment = told(MISTAKES)
