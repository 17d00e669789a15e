"""Access to the model hub: at most one connection attempt without a network, or none at all."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..core.errors import first_line
from ..core.files import sha256_of
from ..formats.cards import TEACHER_CONFIG

Loaded = TypeVar("Loaded")

CONNECT_SECONDS = 3.0
"""Longest time for a connection to the hub, in seconds."""
ANSWER_SECONDS = 10.0
"""Longest wait for the answer to `hub_problem`, in seconds."""
CLOCK_SECONDS = 2.0
"""Coarsest times of files that a file system keeps (FAT), in seconds."""
SHA256 = re.compile("[0-9a-f]{64}")
HTTP_LIBRARIES = ("httpx", "httpx2")
"""Libraries of the hub's client since 1.0, whose errors are no OSErrors; before, requests' were."""
DEFAULT_FILE = ("laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", TEACHER_CONFIG)
"""Repository of the default teacher, and a small file in it."""
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@contextlib.contextmanager
def hub_access(*, allowed: bool = True) -> Iterator[None]:
    """Set the hub for loading models: without a network only its local cache, without retries.

    huggingface_hub tries every file five times, which takes about 25 seconds per file when there
    is no network (2.4, measured 2026-11-28).  Here one connection attempt detects it.

    What was downloaded meanwhile is checked against the SHA-256 that the hub names; the client
    checks only its length (2.4).

    Args:
        allowed: False: use the local cache even if the hub can be reached.

    Raises:
        OSError: the connection was lost, or a file arrived damaged; it is removed from the cache.
    """
    try:
        from huggingface_hub import constants
    except ImportError:  # there is no hub client
        yield
        return
    before, begun = constants.HF_HUB_OFFLINE, time.time()
    constants.HF_HUB_OFFLINE = before or not allowed or not _reachable(constants.ENDPOINT)
    try:
        with _connection_errors():
            yield
    finally:
        offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, before
        if not offline:
            _check_downloads(Path(constants.HF_HUB_CACHE), begun)


def with_hub(load: Callable[[], Loaded]) -> Loaded:
    """Call a loader with access to the hub; if the connection is lost, with the cache alone.

    The client itself uses its cache when the hub cannot be reached or answers with an error, but
    not when the connection is lost (huggingface_hub 2.4).

    Raises:
        OSError: as `hub_access`; and whatever `load` raises.
    """
    try:
        with hub_access():
            return load()
    except ConnectionError:
        with contextlib.suppress(Exception), hub_access(allowed=False):
            return load()
        raise


def cache_first(load: Callable[[], Loaded]) -> Loaded:
    """Call a loader with the local cache alone; if that fails, as `with_hub`."""
    with contextlib.suppress(Exception), hub_access(allowed=False):
        return load()
    return with_hub(load)


def fetch(repository: str, *names: str) -> None:
    """Put the first of these files that a repository has into the cache.

    Raises:
        Exception: none can be had: the error of the hub's client about the first that is missing,
            or about the connection. Loaders, which try other names, would hide it.
    """
    from huggingface_hub import errors, hf_hub_download

    absent: Exception | None = None
    for name in names:
        try:
            hf_hub_download(repository, name)
            return
        except errors.EntryNotFoundError as error:
            absent = absent or error
    if absent is not None:
        raise absent


def _check_downloads(cache: Path, since: float) -> None:
    """Compare files that came into the cache with their names; damaged ones are removed.

    Files in Git LFS, which all weights are, are stored under their SHA-256.

    Raises:
        OSError: a file is damaged.
    """
    for blob in cache.glob("models--*/blobs/*"):
        try:
            new = SHA256.fullmatch(blob.name) and blob.stat().st_mtime >= since - CLOCK_SECONDS
            damaged = new and sha256_of(blob) != blob.name
        except OSError:
            continue  # another process removed it
        if damaged:
            names = [
                path.name
                for path in blob.parents[1].glob("snapshots/*/**/*")
                if path.resolve() == blob.resolve()
            ]
            blob.unlink(missing_ok=True)
            raise OSError(
                f"{names[0] if names else blob.name} arrived damaged: its SHA-256 is not the one "
                "that the hub names; it was deleted, run the same command again"
            )


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
        return hub_reason(error)
    return ""


def hub_reason(error: BaseException) -> str:
    """Describe in one sentence why a model could not be loaded from the hub.

    Args:
        error: what a loader raised; its causes are looked at too, as loaders wrap the hub's errors.
    """
    try:
        from huggingface_hub import constants, errors
    except ImportError:
        return first_line(error)
    causes = list(_causes(error))

    def found(*kinds: type[BaseException]) -> Any:
        return next((one for one in causes if isinstance(one, kinds)), None)

    gated, absent = found(errors.GatedRepoError), found(errors.RepositoryNotFoundError)
    if gated or absent:
        name = _repository(gated or absent)
        if gated:
            return (
                f"{name} is gated: accept its conditions on {constants.ENDPOINT}/{name}, then log "
                "in with: hf auth login"
            )
        return (
            f"{name}: there is no such repository, or it is private; then log in with: hf auth "
            "login"
        )
    if found(errors.OfflineModeIsEnabled):
        return "the hub cannot be reached, and its local cache does not hold the file"
    missing = found(errors.RevisionNotFoundError, errors.EntryNotFoundError)
    answer = found(errors.HfHubHTTPError)
    if answer and not isinstance(answer, (errors.RevisionNotFoundError, errors.EntryNotFoundError)):
        status = answer.response.status_code
        return f"the hub answered with an error ({status}); try again later"
    if isinstance(missing, errors.HfHubHTTPError):
        return f"the repository has no file {missing.response.url.path.rpartition('/')[2]}"
    return first_line(found(ConnectionError) or error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _repository(error: Any) -> str:
    """The name in the address of a request that was refused."""
    path = str(error.response.url.path)
    return path.removeprefix("/api/models").partition("/resolve/")[0].strip("/")


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Turn the errors of the hub's HTTP library, which may be httpx or httpx2, into OSErrors."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in HTTP_LIBRARIES:
            raise
        raise ConnectionError(
            f"the connection to the hub was lost ({first_line(error)}); try again later"
        ) from error
