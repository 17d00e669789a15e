"""This machine's own names: what listens there can be reached from here alone."""

from __future__ import annotations

import ipaddress

LOCALHOST = "127.0.0.1"
LOOPBACK = ("localhost", LOCALHOST, "::1")
"""Names by which a browser reaches it."""


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
