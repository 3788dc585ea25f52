"""Whether the Hugging Face hub can be reached, found out in a moment instead of after a minute of retries."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit


@functools.cache
def reachable(timeout: float = 3.0) -> bool:
    """Whether the hub's host answers. True behind a proxy, which a plain connection cannot tell about."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname or "huggingface.co", port), timeout=timeout):
            return True
    except OSError:
        return False
