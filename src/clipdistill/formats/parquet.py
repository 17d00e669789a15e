"""Parquet files: rows that are dataclasses, and the columns of strangers' tables by their types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import FormatError, MissingExtraError
from ..core.wording import valid

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WRITTEN_ROWS = 65536
"""Rows of a row group, which is in memory in columns while a file is written."""
CONVERTED_ROWS = 2048
"""Rows that are turned from objects to columns at a time."""


class TypeMismatch(FormatError):
    """A column of a table is of another type than expected; the caller adds the file's name."""


def arrow(purpose: str) -> Any:
    """Import pyarrow with `pyarrow.parquet`.

    Args:
        purpose: what needs it, the subject of the message.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "web", purpose) from error
    return pyarrow


def open_rows(source: Any, purpose: str) -> Any:
    """Open a Parquet file without reading its rows.

    By default pyarrow reads all of a file, compressed, before it returns the first batch; here it
    reads one row group after the other.

    Args:
        source: path, or file that is open for reading.
        purpose: what needs pyarrow, the subject of the message.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    return arrow(purpose).parquet.ParquetFile(source, pre_buffer=False)


def write_rows(
    path: Path,
    kind: type[DataclassInstance],
    rows: Iterable[DataclassInstance],
    purpose: str,
    metadata: dict[bytes, bytes] | None = None,
    group: int | None = None,
) -> None:
    """Write dataclasses of one kind, whose fields are texts, integers and floats, to `path`.

    Parquet's texts are UTF-8: lone surrogates in them are escaped.

    Args:
        path: a temporary file (see `atomic_path`).
        kind: the dataclass.
        rows: read once.
        purpose: what needs pyarrow, the subject of the message.
        metadata: stored in the schema.
        group: rows per row group; default: `WRITTEN_ROWS`.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa = arrow(purpose)
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float32()}
    types["float | None"] = pa.float64()
    schema = pa.schema([(one.name, types[str(one.type)]) for one in fields(kind)], metadata)
    left = iter(rows)
    with pa.parquet.ParquetWriter(path, schema) as writer:
        while parts := list(_tables(pa, schema, islice(left, group or WRITTEN_ROWS))):
            writer.write_table(pa.concat_tables(parts).combine_chunks())


def _tables(pa: Any, schema: Any, rows: Iterator[DataclassInstance]) -> Iterator[Any]:
    while part := [_storable(row) for row in islice(rows, CONVERTED_ROWS)]:
        yield pa.Table.from_pylist(part, schema=schema)


def _storable(row: DataclassInstance) -> dict[str, Any]:
    return {
        name: valid(value) if isinstance(value, str) else value
        for name, value in asdict(row).items()
    }


def texts(column: Any, name: str) -> list[str | None]:
    """Return the values of a column of a stranger's table as texts that UTF-8 can hold.

    Numbers, dates and truth values are written out; bytes that are not UTF-8 are escaped.

    Args:
        column: pyarrow's array or chunked array.
        name: name of the column in messages.

    Raises:
        FormatError: it holds lists, maps or structures.
    """
    types = arrow("Reading a table").types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_nested(kind):
        raise TypeMismatch(f"expected texts in the column {name}, found {kind}")
    if str(kind) in _TEXTS:
        column = column.cast(str(kind).replace("string", "binary").replace("utf8", "binary"))
    values = column.to_pylist()
    return [
        value.decode(errors="backslashreplace")
        if isinstance(value, bytes)
        else None
        if value is None
        else str(value)
        for value in values
    ]


_TEXTS = ("string", "large_string", "string_view")
"""Names of pyarrow's types of texts; those of bytes have "binary" instead of "string"."""


def numbers(column: Any, name: str) -> list[Any]:
    """Return the values of a column of numbers.

    Raises:
        FormatError: it holds something else.
    """
    types = arrow("Reading a table").types
    kind = column.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)):
        raise TypeMismatch(f"expected numbers in the column {name}, found {kind}")
    return list(column.to_pylist())


def typed_rows(
    batch: Any, kind: type[DataclassInstance], columns: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the fields of a dataclass that each row of a batch or table has, without empty cells.

    Args:
        batch: pyarrow's record batch or table.
        kind: the dataclass, whose fields are texts, integers and floats.
        columns: name of a field -> name of its column.

    Raises:
        FormatError: a column is of another type.
    """
    kinds = {one.name: str(one.type) for one in fields(kind)}
    read = {
        field: (texts if kinds[field] == "str" else numbers)(batch.column(name), name)
        for field, name in columns.items()
    }
    for row in zip(*read.values(), strict=True):
        found = {}
        for field, value in zip(read, row, strict=True):
            if kinds[field] == "int" and value is not None:
                value = int(value) if math.isfinite(value) else None
            if value is not None:
                found[field] = value
        yield found
