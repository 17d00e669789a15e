"""What stages return: frozen dataclasses that can be shown to a person or written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the command line draws it.

    Attributes:
        title: one line above it.
        columns: headings; one that starts with ">" is aligned to the right.
        rows: one text a column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Result(Protocol):
    """What every stage returns: a frozen dataclass with a summary for people."""

    def summary(self) -> list[str | Table]:
        """Lines and tables that say what was done, what failed, and what to do next."""


def to_json(value: Any) -> Any:
    """Turn a result into plain JSON values (paths become text, arrays lists)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value


def list_some(title: str, lines: Sequence[str], most: int = 10) -> list[str]:
    """A heading and at most `most` indented lines, saying how many more there are."""
    if not lines:
        return []
    more = [f"  ... and {len(lines) - most} more"] if len(lines) > most else []
    return [title, *(f"  {line}" for line in lines[:most]), *more]
