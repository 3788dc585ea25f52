"""Whether the Hugging Face hub can be reached, found out in a moment instead of after a minute of retries."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

from graftlm.errors import SettingsError


@functools.cache
def reachable(timeout: float = 3.0) -> bool:
    """Whether the hub's host answers. True behind a proxy, which a plain connection cannot tell about.

    Raises:
        SettingsError: the environment names another host in a way that cannot be read.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        address = urlsplit(endpoint)
        port = address.port or (80 if address.scheme == "http" else 443)
    except ValueError as error:
        raise SettingsError.at(
            "HF_ENDPOINT", endpoint, f"is no address ({error})", "unset it, or give one such as https://huggingface.co"
        ) from error
    try:
        with socket.create_connection((address.hostname or "huggingface.co", port), timeout=timeout):
            return True
    except OSError:
        return False
