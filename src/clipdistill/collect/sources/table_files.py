"""Files of URLs and captions: parquet and CSV, local or by URL, with common column names."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import FormatError, InputError, MissingExtraError, ServiceError
from ...formats.parquet import TypeMismatch, open_rows, texts
from ...formats.url_tables import COLUMNS, columns_of

BATCH_ROWS = 8192


def list_tables(names: Sequence[str]) -> list[str]:
    """List the files of paths, globs and URLs, without repeats.

    Raises:
        InputError: one of them matches no file.
        ServiceError: a store cannot be listed.
    """
    files: list[str] = []
    for name in names:
        matches = _remote(name) if "://" in name else _local(name)
        if not matches:
            raise InputError(f"--tables {name}: no such file. Expected .parquet, .csv or .tsv.")
        files += matches
    return list(dict.fromkeys(files))


def _local(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        return sorted((str(one) for one in path.glob("*.parquet")), key=natural_key)
    return [name] if path.is_file() else sorted(glob.glob(name, recursive=True), key=natural_key)


def _remote(name: str) -> list[str]:
    fsspec = _fsspec()
    if not glob.has_magic(name):
        return [name]
    with _fetching(name):
        system, pattern = fsspec.core.url_to_fs(name)
        return sorted(map(system.unstrip_protocol, system.glob(pattern)), key=natural_key)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Key to sort numbers in names by their value; clip-retrieval does not always pad them."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _fsspec() -> Any:
    try:
        import fsspec
        import fsspec.core
    except ImportError as error:
        raise MissingExtraError("fsspec", "web", "Reading tables by URL") from error
    return fsspec


@contextlib.contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Convert the errors of fsspec's file systems to ours."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{name}: {error}") from error  # fsspec's text names what to install
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{name}: no such table ({error}).") from error
    except OSError as error:
        raise ServiceError(f"{name}: cannot be read ({error}). Try again later.") from error


def open_table(name: str) -> Iterator[Any]:
    """Yield batches of a file, with our column names and all values as texts."""
    import pyarrow

    with contextlib.ExitStack() as stack:
        if "://" in name:
            stack.enter_context(_fetching(name))
            handle = stack.enter_context(_fsspec().open(name, "rb"))
        else:
            try:
                handle = stack.enter_context(open(name, "rb"))
            except OSError as error:
                raise InputError(f"{name}: cannot be read ({error.strerror}).") from error
        try:
            yield from _csv(name, handle) if _is_csv(name) else _parquet(name, handle)
        except TypeMismatch as error:
            raise FormatError(f"{name}: {error}.") from error
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise FormatError(f"{name}: the file is damaged, or not a table ({error}).") from error
        except OSError as error:
            if "://" in name:
                raise  # an error of the store, not of the table
            raise FormatError(
                f"{name}: the file is damaged, or cannot be read ({error})."
            ) from error


def _is_csv(name: str) -> bool:
    return name.lower().endswith((".csv", ".tsv"))


def _parquet(name: str, handle: Any) -> Iterator[Any]:
    file = open_rows(handle, "Reading a table")
    columns = _columns(name, file.schema_arrow.names)
    for batch in file.iter_batches(BATCH_ROWS, columns=list(columns.values())):
        yield _renamed(batch, columns)


def _csv(name: str, handle: Any) -> Iterator[Any]:
    import pyarrow
    import pyarrow.csv

    delimiter = "\t" if name.lower().endswith(".tsv") else ","
    first = handle.readline()
    handle.seek(0)
    header = [part.strip(' \r\n"') for part in first.decode("utf-8-sig").split(delimiter)]
    columns = _columns(name, header)
    reader = pyarrow.csv.open_csv(
        handle,
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pyarrow.binary()),
            include_columns=list(columns.values()),
        ),
    )
    for batch in reader:
        yield _renamed(batch, columns)


def _renamed(batch: Any, columns: Mapping[str, str]) -> Any:
    """Select our columns, with our names, as valid texts.

    Raises:
        FormatError: one of them holds lists or structures.
    """
    import pyarrow

    arrays = []
    for column in columns.values():
        array = batch.column(column)
        try:
            array = array.cast(pyarrow.large_string())
            array.validate(full=True)
        except pyarrow.ArrowException:  # of another type, or not UTF-8
            array = pyarrow.array(texts(batch.column(column), column), pyarrow.large_string())
        arrays.append(array)
    return pyarrow.RecordBatch.from_arrays(arrays, names=list(columns))


def _columns(name: str, there: Sequence[str]) -> dict[str, str]:
    """Map our column names to those of a table.

    Raises:
        FormatError: it has no column of URLs, or none of captions.
    """
    found = {field: there[place] for field, place in columns_of(there).items()}
    for field in ("url", "caption"):
        if field not in found:
            raise FormatError(
                f"{name}: expected a column {' or '.join(COLUMNS[field])} (in any case), found "
                f"{', '.join(there)}."
            )
    return found
