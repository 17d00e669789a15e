"""Access to the model hub: at most one connection attempt without a network, or none at all."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

CONNECT_SECONDS = 3.0
"""Longest time for a connection to the hub, in seconds."""
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@contextlib.contextmanager
def hub_access(*, allowed: bool = True) -> Iterator[None]:
    """Set the hub for loading models: without a network only its local cache, without retries.

    huggingface_hub tries every file five times, which takes about 25 seconds per file when there
    is no network (2.4, measured 2026-11-28).  Here one connection attempt detects it.

    Args:
        allowed: False: use the local cache even if the hub can be reached.
    """
    try:
        from huggingface_hub import constants
    except ImportError:  # there is no hub client
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    """Whether the hub's address accepts connections; a configured proxy is assumed to work."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
