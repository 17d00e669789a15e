"""Every setting of a download, with its default (no heavy imports)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cyclopts import Parameter

from ...core.signatures import check_ranges

USER_AGENT = "clipdistill/0.1"


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How `download` and `run` fetch images; every protection is on by default.

    Attributes:
        max_workers: number of downloads at the same time.
        per_host: number of downloads from one host at the same time.
        timeout: most seconds to connect, and to wait for the next byte.
        total_timeout: most seconds for one image, including redirects.
        retries: number of further tries after a timeout, a broken connection, a 429 or a 5xx.
        max_bytes: largest size of an image file, in bytes.
        max_pixels: most pixels (width x height) of an image, checked before it is decoded.
        min_size: least length of the shorter side of an image, in pixels.
        resize: shrink the shorter side to this many pixels and store as JPEG (smaller images keep
            their bytes); 0: keep the bytes of every image.
        total_bytes: stop when this many bytes have been received; 0: no limit.
        respect_robots: leave out images that the server reserves (X-Robots-Tag with noai,
            noimageai, noml, noindex or none; tdm-reservation).
        verify_tls: check certificates.
        user_agent: User-Agent header of the requests; it should name a contact.
        allow_private: also fetch from private, loopback and link-local addresses.
        env_proxy: use the proxies of the environment; then the proxy resolves names, and their
            addresses are not checked.
    """

    max_workers: int = 64
    per_host: int = 8
    timeout: float = 10.0
    total_timeout: float = 60.0
    retries: int = 2
    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 89_478_485
    min_size: int = 32
    resize: int = 512
    total_bytes: int = 0
    respect_robots: bool = True
    verify_tls: bool = True
    user_agent: str = USER_AGENT
    allow_private: bool = False
    env_proxy: bool = False

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: a value is out of range.
        """
        ranges = {
            "max_workers": (1 <= self.max_workers <= 4096, "1 to 4096"),
            "per_host": (self.per_host >= 1, "1 or more"),
            "timeout": (0 < self.timeout < math.inf, "above 0"),
            "total_timeout": (0 < self.total_timeout < math.inf, "above 0"),
            "retries": (0 <= self.retries <= 20, "0 to 20"),
            "max_bytes": (self.max_bytes >= 1, "1 or more"),
            "max_pixels": (self.max_pixels >= 1, "1 or more"),
            "min_size": (self.min_size >= 0, "0 or more"),
            "resize": (self.resize == 0 or self.resize >= 16, "0 (keep the bytes), or 16 or more"),
            "total_bytes": (self.total_bytes >= 0, "0 (no limit) or more"),
            "user_agent": (self.user_agent.isprintable() and self.user_agent.isascii(), "ASCII"),
        }
        check_ranges(self, ranges)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DownloadOptions(FetchOptions):
    """How to download; every protection is on by default.

    Attributes:
        retry_failed: try URLs again that failed permanently in an earlier run (404, not an image,
            ...).
        layout: folder, with a file per image, or webdataset: tars that are written at the end, with
            the image, its caption (.txt) and what is known of it (.json).
        shard_size: images per tar.
    """

    retry_failed: bool = False
    layout: Literal["folder", "webdataset"] = "folder"
    shard_size: int = 10_000

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: a value is out of range.
        """
        super().check()
        check_ranges(self, {"shard_size": (self.shard_size >= 1, "1 or more")})
