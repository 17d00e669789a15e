"""Parquet files whose rows are dataclasses: one column per field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import MissingExtraError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WRITTEN_ROWS = 65536
"""Rows that are in memory while a file is written."""


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


def write_rows(
    path: Path,
    kind: type[DataclassInstance],
    rows: Iterable[DataclassInstance],
    purpose: str,
    metadata: dict[bytes, bytes] | None = None,
) -> None:
    """Write dataclasses of one kind, whose fields are texts, integers and floats, to `path`.

    Parquet's texts are UTF-8: lone surrogates in them are escaped.

    Args:
        path: a temporary file (see `atomic_path`).
        kind: the dataclass.
        rows: read once.
        purpose: what needs pyarrow, the subject of the message.
        metadata: stored in the schema.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa = arrow(purpose)
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float32()}
    types["float | None"] = pa.float64()
    schema = pa.schema([(one.name, types[str(one.type)]) for one in fields(kind)], metadata)
    left = iter(rows)
    with pa.parquet.ParquetWriter(path, schema) as writer:
        while part := [_storable(row) for row in islice(left, WRITTEN_ROWS)]:
            writer.write_table(pa.Table.from_pylist(part, schema=schema))


def _storable(row: DataclassInstance) -> dict[str, Any]:
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in asdict(row).items()
    }
