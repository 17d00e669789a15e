"""What stages return: frozen dataclasses that can be shown to a person or written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

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


Kind = TypeVar("Kind")


def from_json(kind: type[Kind], value: Any) -> Kind:
    """The inverse of `to_json` for results of dataclasses, tuples, lists, mappings and paths.

    Unknown fields are left out, missing ones get their default.

    Raises:
        TypeError: a field without a default is missing.
        ValueError: a value is of another kind.
    """
    result: Kind = _built(kind, value)
    return result


def _built(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and type(None) in inner:
            return None
        return _built(next(one for one in inner if one is not type(None)), value)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        hints = get_type_hints(kind)
        names = [f.name for f in dataclasses.fields(kind) if f.name in value]
        return kind(**{name: _built(hints[name], value[name]) for name in names})  # type: ignore[operator]
    if origin in (tuple, list) and isinstance(value, Sequence):
        kinds = [inner[0]] * len(value) if origin is list or Ellipsis in inner else inner
        return origin(_built(one, item) for one, item in zip(kinds, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _built(inner[1], item) for key, item in value.items()}
    return Path(value) if kind is Path else value


def list_some(title: str, lines: Sequence[str], most: int = 10) -> list[str]:
    """A heading and at most `most` indented lines, saying how many more there are."""
    if not lines:
        return []
    more = [f"  ... and {len(lines) - most} more"] if len(lines) > most else []
    return [title, *(f"  {line}" for line in lines[:most]), *more]
