"""The commands that make a figure again: the sweeps whose jobs are in it, and the report over their folders."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from graftlm.report.compare import ArmReport, Report

MOST_FOLDERS = 12


def sweeps(arms: Sequence[ArmReport]) -> list[dict[str, Any]]:
    """Each recorded command once, with the arms and the number of runs that it made."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for seed in arm.seeds:
            item = found.setdefault(seed["command"] or "", {"command": seed["command"], "arms": {}, "runs": 0})
            item["arms"][arm.name] = None
            item["runs"] += 1
    return [{**item, "arms": list(item["arms"])} for item in found.values() if item["command"]]


def report_command(report: Report) -> str:
    """`graftlm report DIR… --out report` over the folders that the jobs lie in, as seen from the working folder."""
    jobs = [seed["job"] for arm in report.arms for seed in arm.seeds] + [item["job"] for item in report.failed]
    folders = list(dict.fromkeys(_folder(Path(job)) for job in jobs))
    if len(folders) > MOST_FOLDERS:  # a line that a person can read; it may take in sweeps that were not in this page
        folders = [Path(os.path.commonpath(folders))]
    told = " ".join(shlex.quote(_near(folder)) for folder in folders)
    return f"graftlm report {told or 'multirun'} --out report"


def _folder(job: Path) -> Path:
    """The sweep that a job belongs to, or the job's own folder."""
    return job.parent if (job.parent / "multirun.yaml").is_file() else job


def _near(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(folder)


def figure_commands(commands: Iterable[str], again: str, anchor: str) -> str:
    """The lines that a figure's button copies."""
    return "\n".join(
        [
            "# the runs: what the store holds is used again",
            *commands,
            f"# the page: report/report.html#{anchor}",
            again,
            "",
        ]
    )
