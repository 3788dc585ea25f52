"""Whether the Hugging Face hub can be reached, found out in a moment instead of after a minute of retries."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

from graftlm.errors import SettingsError


def endpoint() -> tuple[str, int]:
    """Host and port of the hub.

    Raises:
        SettingsError: `HF_ENDPOINT` is no address; the libraries of the hub could not even be imported.
    """
    given = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        address = urlsplit(given)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("it must begin with https://")
        return address.hostname, address.port or (80 if address.scheme == "http" else 443)
    except ValueError as error:
        remedy = "unset it, or give one such as https://huggingface.co"
        raise SettingsError.at("HF_ENDPOINT", given, f"is no address ({error})", remedy) from error


@functools.cache
def reachable(timeout: float = 3.0) -> bool:
    """Whether the hub's host answers. True behind a proxy, which a plain connection cannot tell about.

    Raises:
        SettingsError: as `endpoint`.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        with socket.create_connection(endpoint(), timeout=timeout):
            return True
    except OSError:
        return False
