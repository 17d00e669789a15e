"""The model hub: asked at most once when it cannot be reached, and only by those who may."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

CONNECT_SECONDS = 3.0
"""Seconds that a connection to the hub may take."""
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@contextlib.contextmanager
def hub_access(*, allowed: bool = True) -> Iterator[None]:
    """Load models inside; without a network only from the hub's local cache, without retries.

    huggingface_hub tries every file five times, which takes about 25 seconds per file when there
    is no network (1.x and 2.4, measured 2026-11-28).  Here one connection finds that out.

    Args:
        allowed: False: use the local cache even if the hub can be reached.
    """
    try:
        from huggingface_hub import constants
    except ImportError:  # nothing to ask
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    """Whether something accepts connections at the hub's address; a proxy is taken to work."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
