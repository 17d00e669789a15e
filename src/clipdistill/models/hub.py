"""Access to the model hub: at most one connection attempt without a network, or none at all."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ..core.errors import first_line

CONNECT_SECONDS = 3.0
"""Longest time for a connection to the hub, in seconds."""
ANSWER_SECONDS = 10.0
"""Longest wait for the answer to `hub_problem`, in seconds."""
HTTP_LIBRARIES = ("httpx", "httpx2")
"""Libraries of the hub's client since 1.0, whose errors are no OSErrors; before, requests' were."""
DEFAULT_FILE = ("laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", "open_clip_config.json")
"""Repository of the default teacher, and a small file in it."""
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
        with _connection_errors():
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


def hub_cache() -> Path | None:
    """Return the folder in which the hub's client keeps its files; None without the client."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)


def hub_problem() -> str:
    """Send one request to the hub: why it cannot be used, or an empty text when it can.

    The request is for the size of the default teacher's configuration.
    """
    try:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    except ImportError:
        return "huggingface_hub is not installed"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: only its local cache is used"
    if not _reachable(constants.ENDPOINT):
        return f"{constants.ENDPOINT} does not accept connections"
    try:
        with _connection_errors():
            get_hf_file_metadata(hf_hub_url(*DEFAULT_FILE), timeout=ANSWER_SECONDS)
    except OSError as error:
        return f"{constants.ENDPOINT}: {first_line(error)}"
    return ""


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn the errors of the hub's HTTP library, which may be httpx or httpx2, into OSErrors."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in HTTP_LIBRARIES:
            raise
        raise ConnectionError(f"the connection failed: {first_line(error)}") from error
