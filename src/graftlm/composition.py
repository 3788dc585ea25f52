"""What Hydra composes, and what stands in it: plain settings and the choices of groups.

Hydra must be initialised; `graftlm.compose` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graftlm import donors
from graftlm.errors import GraftlmError, SettingsError, first_line
from graftlm.groups import GROUPS
from graftlm.guard import check_hydra, keep_secrets


def mistakes() -> tuple[type[Exception], ...]:
    """What composing raises over a user's words and files."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return HydraException, OmegaConfBaseException, YAMLError


def hydra_compose(overrides: Sequence[str]) -> Any:
    """What Hydra composes, its own part included; its bare errors, of `group=5` or `group=[[]]`, become its own.

    Raises:
        SettingsError: Hydra would make something of it that is not in the list (`graftlm.guard`).
    """
    from hydra import compose
    from hydra.errors import ConfigCompositionException

    keep_secrets()
    donors.register()
    try:
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
        check_hydra(config)
        return config
    except Exception as error:
        if isinstance(error, (GraftlmError, *mistakes())):
            raise
        what = str(error) if isinstance(error, ValueError) else f"cannot be composed ({first_line(error)})"
        raise ConfigCompositionException(what) from error


def to_mapping(config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The plain settings and the group choices of what Hydra composed (with its own part)."""
    return resolved(plain_part(config)), chosen(config)


def chosen(config: Any) -> dict[str, str]:
    """The group choices of what Hydra composed."""
    from omegaconf import OmegaConf

    return {
        group: str(choice)
        for group, choice in OmegaConf.to_container(config.hydra.runtime.choices).items()  # type: ignore[union-attr]
        if group in GROUPS and choice is not None and choice != "null"
    }


def plain_part(config: Any) -> Any:
    """What Hydra composed without its own part, unresolved."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def resolved(plain: Any) -> dict[str, Any]:
    """Settings as plain values.

    Raises:
        SettingsError: an interpolation cannot be resolved.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    keep_secrets()
    donors.register()
    try:
        mapping = OmegaConf.to_container(plain, resolve=True)
    except OmegaConfBaseException as error:
        raise SettingsError.at(
            str(getattr(error, "full_key", None) or "config"), None, first_line(error), "check the interpolation"
        ) from error
    return {str(key): value for key, value in mapping.items()}  # type: ignore[union-attr]


def quoted(text: str) -> str:
    """A text as Hydra's grammar reads it back."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
