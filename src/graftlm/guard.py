"""What a configuration may not do, whoever wrote it: run code by name, and carry secrets into records.

Hydra makes objects of what a configuration names: its callbacks, launcher and sweeper by `_target_`, its logging by
`class` and `()`. Here is the one list of names that it may make; graftlm itself makes nothing by a name from a
configuration. Settings, overrides and the command stand in every record of a run, so no secret may be in them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graftlm.errors import PASSWORD, Problem, SettingsError

TARGETS = frozenset(
    {
        "graftlm.sweep.SweepCallback",
        "hydra_plugins.graftlm_search.SearchSweeper",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    }
)
LOGGERS = frozenset(
    {
        "logging.Formatter",
        "logging.FileHandler",
        "logging.NullHandler",
        "logging.StreamHandler",
        "logging.handlers.RotatingFileHandler",
        "logging.handlers.TimedRotatingFileHandler",
    }
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
MADE = ("callbacks", "launcher", "sweeper")  # parts of Hydra's configuration of which it makes objects
LOGGING = ("job_logging", "hydra_logging")

SECRET = re.compile(
    r"(?i)(?:^|_)(?:\w*(?:APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)|KEY|PASS|AUTH|CREDENTIALS?)(?:_|$)|^MYSQL_PWD$"
)
SHORTEST = 8  # characters of a secret: shorter values stand in texts by chance


def check_hydra(config: Any) -> None:
    """Look at what Hydra would make of its part of a composed configuration.

    Raises:
        SettingsError: with all that it may not make.
    """
    from omegaconf import OmegaConf, open_dict, read_write
    from omegaconf.errors import OmegaConfBaseException

    problems: list[Problem] = []
    runtime = config.hydra.runtime
    missing = OmegaConf.is_missing(runtime, "output_dir")
    if missing:  # known only when a job begins; logging has its file there
        with read_write(runtime), open_dict(runtime):
            runtime.output_dir = "."
    try:
        for name in (*MADE, *LOGGING):
            part = config.hydra.get(name)
            if part is None or isinstance(part, str):
                plain: Any = part
            else:
                plain = OmegaConf.to_container(part, resolve=True)
            problems += _made(plain, f"hydra.{name}") if name in MADE else _logged(plain, f"hydra.{name}")
        variables = config.hydra.job.get("env_set") or {}
        whole: Any = OmegaConf.to_container(config.hydra, resolve=False)
        written = {name: whole.get(name) for name in (*MADE, "run", "sweep")}
        written["job"] = {"env_set": whole["job"].get("env_set")}
        problems += check_secrets((), {"hydra": written})
        problems += [
            Problem(f"hydra.job.env_set.{key}", None, "is a secret by its name, and would be written down", _GIVE)
            for key in variables
            if is_secret(str(key))
        ]
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split())[:200]
        problems.append(Problem(str(getattr(error, "full_key", None) or "hydra"), None, reason, "mend it"))
    finally:
        if missing:
            with read_write(runtime), open_dict(runtime):
                runtime.output_dir = "???"
    if problems:
        raise SettingsError(problems)


_GIVE = "give it in the environment of the command"


def _made(value: Any, path: str) -> Iterator[Problem]:
    """Objects that `hydra.utils.instantiate` would make, at any depth, by names that are not in the list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "_target_" and item not in TARGETS:
                yield Problem(f"{path}._target_", item, "is nothing that a configuration may run", "leave it out")
            else:
                yield from _made(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _made(item, f"{path}[{index}]")


def _logged(value: Any, path: str) -> Iterator[Problem]:
    """Objects that `logging.config.dictConfig` would make or look up by names that are not in the list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("()", "factory", "_target_") or (key == "class" and item not in LOGGERS):
                yield Problem(f"{path}.{key}", item, "is nothing that a configuration may run", "leave it out")
            else:
                yield from _logged(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _logged(item, f"{path}[{index}]")
    elif isinstance(value, str) and "ext://" in value and value not in STREAMS:
        yield Problem(path, value, "is nothing that a configuration may run", "leave it out")


def is_secret(variable: str) -> bool:
    """Whether a variable of the environment is a secret by its name: `WANDB_API_KEY`, `HF_TOKEN`."""
    return SECRET.search(variable) is not None


def look_up(variable: str, *default: Any) -> Any:
    """`${oc.env:NAME,default}`, but for secrets.

    Raises:
        ValueError: the variable is a secret by its name, or is not set and has no default.
    """
    if is_secret(variable):
        raise ValueError(f"{variable} is a secret by its name, and settings are written down")
    from omegaconf.resolvers import oc

    return oc.env(variable, *default)


def keep_secrets() -> None:
    """Have all interpolations of this process read the environment by `look_up`."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("oc.env", look_up, use_cache=False, replace=True)


def secrets(shortest: int = SHORTEST) -> dict[str, str]:
    """Secrets of the environment, of so many characters or more: value → name of the variable."""
    return {
        value: name
        for name, value in os.environ.items()
        if is_secret(name) and len(value) >= shortest and value[0] != "/"
    }


def check_secrets(texts: Sequence[str], settings: Mapping[str, Any] | None = None) -> list[Problem]:
    """What of overrides and settings may not be written down. The secrets themselves are in none of the problems."""
    known = secrets()
    found: list[Problem] = []
    for path, text in [*((item.partition("=")[0], item) for item in texts), *_texts(settings or {}, "")]:
        name = next((name for value, name in known.items() if _stands(value, text)), None)
        if name:
            reason = f"holds the value of {name}, and settings are written down"
            found.append(Problem(path, None, reason, f"leave it out; or unset {name}, if it is no secret"))
        elif PASSWORD.search(text):
            remedy = "leave it out: drivers read it from the environment (PGPASSWORD) or a file (~/.pgpass, ~/.my.cnf)"
            found.append(Problem(path, None, "holds a password, and settings are written down", remedy))
    return found


def _stands(secret: str, text: str) -> bool:
    """Whether a text holds a secret. A mere word must stand alone: `finetune` is part of many a setting's path."""
    if secret not in text:
        return False
    return not secret.isalpha() or re.search(rf"(?<![\w./]){secret}(?![\w./=])", text) is not None


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, path)
