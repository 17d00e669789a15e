"""What verbs return: frozen dataclasses that can be shown to a person or written as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from .wording import drawn, escaped


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; shown on a terminal, as text, or as HTML.

    Attributes:
        title: one line above the table.
        columns: headings; a column whose heading starts with ">" is aligned to the right.
        rows: one text per column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """The headings as they are shown, without the marks of their alignment."""
        return tuple(escaped(column.removeprefix(">")) for column in self.columns)

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """The rows as they are shown: no text in them can break a line or steer a terminal."""
        return tuple(tuple(map(escaped, row)) for row in self.rows)

    def text(self) -> str:
        """The table as plain text, a line per row, columns aligned and never wrapped."""
        lines = [self.heads, *self.cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = [column.startswith(">") for column in self.columns]
        shown = [
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([escaped(self.title), *(f"  {line}" for line in shown)])

    def html(self) -> str:
        """The table as HTML, every text escaped."""
        aligned = [
            ' style="text-align:right"' if column.startswith(">") else ' style="text-align:left"'
            for column in self.columns
        ]
        rows = [
            "".join(f"<{tag}{how}>{escape(cell)}</{tag}>" for cell, how in zip(line, aligned))  # noqa: B905
            for tag, lines in (("th", [self.heads]), ("td", self.cells))
            for line in lines
        ]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><caption>{escape(escaped(self.title))}</caption>{body}</table>"


class Result:
    """Base of what verbs return: frozen dataclasses with a summary for people.

    Subclasses are declared with `@dataclass(frozen=True, repr=False)`.
    """

    def summary(self) -> list[str | Table]:
        """Return lines and tables: what was done, what failed, and what to do next."""
        raise TypeError(f"{type(self).__name__} has no summary")

    def records(self) -> list[dict[str, Any]]:
        """Return flat rows for CSV, all with the same columns."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def __repr__(self) -> str:
        """Show numbers, paths and short texts; of collections their length."""
        shown = (
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return "".join(
            part.html() if isinstance(part, Table) else f"<div>{escape(drawn(part))}</div>"
            for part in self.summary()
        )


def scalars(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that hold a text, a number, a truth value or None."""
    found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    kinds = (str, int, float, bool, type(None))
    return {name: one for name, one in found.items() if isinstance(one, kinds)}


LONGEST = 60
"""Characters of a text in a result's `repr`."""


def _short(value: Any) -> str:
    if isinstance(value, str | Path):
        text = str(value)
        return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | Sequence | np.ndarray):
        return f"<{len(value)}>"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"<{type(value).__name__}>"
    return repr(value)


class Versioned:
    """Base of dataclasses whose JSON is read again: it begins with `format` and `version`.

    Attributes:
        FORMAT: such as "clipdistill.evaluation".
        VERSION: the newest that can be read. A new field with a default needs no new version.
    """

    FORMAT: ClassVar[str]
    VERSION: ClassVar[int]


def to_json(value: Any) -> Any:
    """Turn a result into plain JSON values (paths become text, arrays lists)."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Versioned):
            return {"format": value.FORMAT, "version": value.VERSION, **fields}
        return fields
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
LARGEST = 1 << 1000
"""Whole numbers beyond it are none in any file of ours, and the largest have no float."""
PLAIN = {str: "a text", int: "a whole number", bool: "true or false", float: "a number"}
"""Types of fields that JSON has as they are, and how messages call them."""


def from_json(kind: type[Kind], value: Any) -> Kind:
    """The inverse of `to_json` for dataclasses, tuples, lists, mappings, paths and `X | None`.

    Unknown fields are ignored; missing fields get their default.  NaN and infinity, which are not
    JSON, become None in a field that may be None.

    Raises:
        ValueError: a field without a default is missing, or a value is of another type; the
            message names the field.
    """
    result: Kind = _built(kind, value, "")
    return result


def _built(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if kind in PLAIN:
        return _plain(kind, value, where)
    if origin in (Union, UnionType):
        return _optional(next(one for one in inner if one is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (tuple, list):
        return _sequence(origin, inner, value, where)
    if origin in (dict, Mapping):
        found = _expect(isinstance(value, Mapping), "an object", value, where)
        return {key: _built(inner[1], item, f"{where}[{key!r}]") for key, item in found.items()}
    if origin is Literal:
        return _expect(value in inner, f"one of {', '.join(inner)}", value, where)
    if kind is Path:
        return Path(_plain(str, value, where))
    raise TypeError(f"{where}: fields of the type {kind} cannot be read from JSON")


def _plain(kind: type, value: Any, where: str) -> Any:
    kinds = (int, float) if kind is float else (kind,)
    if kind is float and type(value) is int and abs(value) > LARGEST:
        _expect(False, PLAIN[kind], value, where)
    return kind(_expect(type(value) in kinds, PLAIN[kind], value, where))


def _optional(kind: Any, value: Any, where: str) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return _built(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), "an object", value, where)
    hints, known = _hints(kind), {}
    for field in dataclasses.fields(kind):
        name = f"{where}.{field.name}".removeprefix(".")
        if field.name in value:
            known[field.name] = _built(hints[field.name], value[field.name], name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**known)


_hints = cache(get_type_hints)


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, where: str) -> Any:
    fits = isinstance(value, Sequence) and not isinstance(value, str)
    _expect(fits, "a list", value, where)
    kinds = [inner[0]] * len(value) if origin is list or Ellipsis in inner else inner
    _expect(len(kinds) == len(value), f"a list of {len(kinds)}", value, where)
    if len(set(kinds)) == 1 and kinds[0] in (str, int) and {*map(type, value)} <= {kinds[0]}:
        return origin(value)  # a row of a large matrix
    return origin(
        _built(one, item, f"{where}[{index}]")
        for index, (one, item) in enumerate(zip(kinds, value, strict=True))
    )


def _expect(fits: bool, what: str, value: Any, where: str) -> Any:
    if not fits:
        raise ValueError(f"{where}: expected {what}, found {repr(value)[:LONGEST]}")
    return value


def list_some(title: str, lines: Sequence[str], most: int = 10) -> list[str]:
    """Return a heading and at most `most` indented lines, then the number of those left out."""
    if not lines:
        return []
    more = [f"  ... and {len(lines) - most} more"] if len(lines) > most else []
    return [title, *(f"  {escaped(line)}" for line in lines[:most]), *more]
