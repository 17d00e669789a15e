"""Processes that torchrun or accelerate started together."""

from __future__ import annotations

import os


def first_process() -> bool:
    """Whether this process writes and reports: it is the only one, or the first of several."""
    return os.environ.get("RANK", "0") in ("", "0")
