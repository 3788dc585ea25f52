"""Environment variables that libraries below us read, and what of them cannot be meant: told before anything runs.

Some of the libraries fail in the midst of a job, or where they are imported; others take another value without a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from graftlm.errors import Problem, SettingsError
from graftlm.hub import endpoint

# name: what its value must look like, and that in words
_FORMS = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), (r"\d+(,\d+)*", "is no number of threads")
    ),
    **dict.fromkeys(
        ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"),
        (r"\d+", "is no whole number"),
    ),
    "CUDA_VISIBLE_DEVICES": (
        r"\s*(-1|NoDevFiles|((\d+|(GPU|MIG)-[\w/-]+)\s*(,\s*(\d+|(GPU|MIG)-[\w/-]+)\s*)*))?",
        "names no GPUs: numbers or UUIDs with commas between them",
    ),
}


def check_variables(trains: bool) -> Iterator[Problem]:
    """What is wrong; `trains`: whether jobs run on this machine, so that it matters what they would find."""
    try:
        endpoint()
    except SettingsError as error:
        yield from error.problems
    if not trains:
        return
    for name, (form, reason) in _FORMS.items():
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(form, value):
            yield Problem(name, value, reason, "correct or unset it")
    tasks = os.environ.get("SLURM_NTASKS", "")
    alone = "SLURM_NTASKS_PER_NODE" not in os.environ and os.environ.get("SLURM_JOB_NAME") not in (
        "bash",
        "interactive",
    )
    if tasks.isdigit() and int(tasks) > 1 and alone:
        remedy = "ask SLURM for --ntasks=1, or unset it"
        yield Problem("SLURM_NTASKS", tasks, "graftlm is one task and starts what it needs itself", remedy)
