"""The groups of the configuration: which there are, their choices, and where the packaged files stand."""

from __future__ import annotations

from pathlib import Path

# groups whose choice tells runs apart, in the order of `conf/config.yaml`
GROUPS = ("model", "data", "mask", "transfer", "trainer", "logger", "sweep", "launch", "experiment", "debug")


def config_folder() -> Path:
    """The folder of the packaged configuration."""
    import graftlm.conf

    return Path(next(iter(graftlm.conf.__path__)))


def group_options(group: str) -> list[str]:
    """The choices of a group, by name."""
    folder = config_folder() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []


def first_comment(path: Path) -> str:
    """The line that says what a YAML file is for."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""
