"""Image embeddings: clip-retrieval's layout with a card, or one `.npy` an image.

    OUT/img_emb/img_emb_0.npy          float16 or float32 (n, D)      layout "clip-retrieval"
    OUT/<image name>.npy               float32 (D,) an image          layout "npy"
    OUT/metadata/metadata_0.parquet    a row an embedding, same order
    OUT/views/                         several views of each image, see `views`
    OUT/failures.jsonl                 a line an image that could not be used
    OUT/meta.json                      teacher, layout, counts; written last: "complete"

Rows are only ever appended, a shard at a time: vectors first, then their parquet, whose schema
carries the teacher's card, so a run that was killed can be resumed (and never mixed with another
teacher) before `meta.json` exists.  Layout "npy" begins with a shard of no rows, so that its first
vectors never lie there without a card.  A later row of the same image replaces an earlier one.

clip-retrieval pads its numbers ("img_emb_00.npy") and stores whole paths; both are understood.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, MismatchError, MissingExtraError
from ..core.files import (
    atomic_path,
    check_format,
    describing,
    ensure_folder,
    read_array,
    read_json,
    write_bytes,
    write_json,
)
from ..core.zeroshot import LogitScale, normalized
from ..images.preprocess import Preprocess
from ..images.views import ViewSpec
from .cards import TeacherCard
from .views import VIEWS, Views, read_views, write_views

if TYPE_CHECKING:
    import pyarrow

FORMAT = "clipdistill.embeddings"
VERSION = 1
Layout = Literal["clip-retrieval", "npy"]
Precision = Literal["float16", "float32"]

META = "meta.json"
FAILURES = "failures.jsonl"
VECTORS = "img_emb"
ROWS = "metadata"
VECTORS_NAME, ROWS_NAME = r"img_emb_(\d+)\.npy", r"metadata_(\d+)\.parquet"
"""Of the files of shard number N; clip-retrieval pads N with zeros."""
CACHE = "pixels"
"""Folder beside the vectors where `distill` keeps decoded pixels (see `images.pixels`)."""


@dataclass(frozen=True)
class Row:
    """One embedded image: where it is and what its bytes were.

    Attributes:
        image_path: the image's key below the images folder.
        content: `images.sources.content_id` of its bytes; empty when unknown.
        size: its bytes.
        mtime_ns: when it was last changed, nanoseconds.
    """

    image_path: str
    content: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Failure:
    """One image that could not be used, and why."""

    image_path: str
    reason: str


@dataclass(frozen=True)
class Header:
    """What all rows of a store share.

    Attributes:
        teacher: who made the vectors.
        layout: how they lie on disk.
        dtype: precision of stored vectors (always "float32" in layout "npy").
        normalized: whether rows have unit length (False: the tower's raw output).
        views: of each image, stored beside its embedding; None without.
    """

    teacher: TeacherCard
    layout: Layout
    dtype: Precision
    normalized: bool
    views: ViewSpec | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; "views" only where there are some."""
        views = {} if self.views is None else {"views": asdict(self.views)}
        return views | {
            "format": FORMAT,
            "version": VERSION,
            "teacher": self.teacher.to_json(),
            "layout": self.layout,
            "dtype": self.dtype,
            "normalized": self.normalized,
        }

    @classmethod
    def from_json(cls, path: Path, value: dict[str, Any]) -> Header:
        """The inverse of `to_json`; `path` names the file in messages.

        Raises:
            FormatError: not embeddings, too new, or a field is wrong.
        """
        check_format(path, value, FORMAT, VERSION)
        layout, dtype = value.get("layout"), value.get("dtype")
        if layout not in ("clip-retrieval", "npy") or dtype not in ("float16", "float32"):
            raise FormatError(f"{path}: unknown layout {layout!r} or dtype {dtype!r}.")
        with describing(path):
            teacher = TeacherCard.from_json(value.get("teacher"))
            views = _view_spec(value.get("views"))
        return cls(teacher, layout, dtype, bool(value.get("normalized")), views)


def _view_spec(value: Any) -> ViewSpec | None:
    if value is None:
        return None
    try:
        return ViewSpec(int(value["count"]), int(value["seed"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"its views cannot be read: {error!r}") from error


@dataclass(frozen=True)
class Embeddings:
    """Embeddings that were read.

    Attributes:
        root: the folder.
        header: teacher and layout.
        rows: one an image, no image twice.
        vectors: float16 or float32 (N, D); memory-mapped where a store has one shard.
        shards: (number, rows) of each shard; empty for a bare folder.
        order: int (N,), row of each image in the shards one after the other.
    """

    root: Path
    header: Header
    rows: list[Row]
    vectors: NDArray[np.floating]
    shards: tuple[tuple[int, int], ...] = ()
    order: NDArray[np.intp] | None = None

    @property
    def teacher(self) -> TeacherCard:
        """Who made the vectors."""
        return self.header.teacher

    def by_image(self) -> dict[str, int]:
        """Image key -> row number."""
        return {row.image_path: index for index, row in enumerate(self.rows)}

    def views(self) -> Views | None:
        """Open the stored views; None where there are none.

        Raises:
            FormatError: a file of theirs is missing or damaged.
        """
        if self.header.views is None or self.order is None:
            return None
        dim = self.teacher.dim
        return read_views(self.root, self.header.views, list(self.shards), dim, self.order)


class EmbeddingStore:
    """Appends embeddings to a folder; one store, one teacher.

    Opening an existing folder loads its rows (not its vectors).

    Raises:
        MismatchError: the folder holds embeddings of another teacher, layout or precision, or
            embeddings that do not say whose they are.
        FormatError: the folder's card cannot be read.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, root: Path, header: Header) -> None:
        self.root = ensure_folder(root)
        self.header = header
        found = read_header(root)
        if found is not None:
            self._check_same(found)
        elif shard_numbers(root) or _has_vectors(root):
            raise MismatchError(
                f"{root} holds embeddings that do not say which teacher made them. "
                "Choose another output folder."
            )
        self.shards = shard_numbers(root)
        self.rows = [_read_rows(root, shard) for shard in self.shards]

    def _check_same(self, found: Header) -> None:
        self.header.teacher.check_same(found.teacher, "This run", self.root)
        if self.header.views != found.views:
            raise MismatchError(
                f"{self.root} holds embeddings with {_described(found.views)}, but this run would "
                f"write {_described(self.header.views)}. Use the same --views and --view-seed, or "
                "another folder."
            )
        mine = (self.header.layout, self.header.dtype, self.header.normalized)
        theirs = (found.layout, found.dtype, found.normalized)
        if mine != theirs:
            raise MismatchError(
                f"{self.root} holds embeddings of layout, precision, normalized = {theirs}, "
                f"but this run would write {mine}. Use the same options or another folder."
            )

    def all_rows(self) -> list[Row]:
        """Every stored row, in order of writing (an image that changed stands twice)."""
        return [row for shard in self.rows for row in shard]

    def append(
        self,
        rows: Sequence[Row],
        vectors: NDArray[np.floating],
        views: tuple[NDArray[np.floating], NDArray[np.float32]] | None = None,
    ) -> None:
        """Write one shard: `vectors` (n, D) float, a row each; complete when this returns.

        Args:
            rows: n images.
            vectors: float (n, D).
            views: with a header that has views, their embeddings (n, K, D) and parameters
                (n, K, 8).
        """
        number = self.shards[-1] + 1 if self.shards else 0
        if self.header.layout == "npy":
            if not self.shards:
                self._write_shard(number, [])
                number += 1
            for row, vector in zip(rows, vectors, strict=True):
                path = npy_path(self.root, row.image_path)
                with atomic_path(path) as temporary:
                    np.save(temporary, np.asarray(vector, dtype=np.float32))
        else:
            with atomic_path(_vectors_path(self.root, number)) as temporary:
                np.save(temporary, np.asarray(vectors, dtype=self.header.dtype))
        if views is not None:
            stored = np.asarray(views[0], dtype=self.header.dtype)
            write_views(self.root, number, stored, views[1])
        self._write_shard(number, rows)

    def _write_shard(self, number: int, rows: Sequence[Row]) -> None:
        _write_rows(self.root, number, rows, self.header)
        self.shards.append(number)
        self.rows.append(list(rows))

    def finish(self, failures: Iterable[Failure]) -> None:
        """Write the failures and, last, `meta.json`: the store is complete."""
        failures = list(failures)
        lines = [json.dumps(asdict(failure), ensure_ascii=False) for failure in failures]
        text = "".join(line + "\n" for line in lines)
        write_bytes(self.root / FAILURES, text.encode(errors="backslashreplace"))
        counts = {
            "shards": len(self.shards),
            "rows": sum(len(rows) for rows in self.rows),
            "failures": len(failures),
        }
        write_json(self.root / META, {**self.header.to_json(), **counts})


def _described(views: ViewSpec | None) -> str:
    return "no views" if views is None else f"{views.count} views per image (seed {views.seed})"


def read_failures(root: Path) -> tuple[Failure, ...]:
    """The images that a finished store could not use; none while there is no such file.

    Raises:
        FormatError: a line is something else.
    """
    path = root / FAILURES
    if not path.is_file():
        return ()
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line)
            found.append(Failure(str(value["image_path"]), str(value["reason"])))
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path}, line {number}: expected an image and a reason ({error!r}). Delete the "
                "file, or run `clipdistill embed` again."
            ) from error
    return tuple(found)


def read_header(root: Path) -> Header | None:
    """Return the header of a store, complete or not; None when the folder holds none.

    Raises:
        FormatError: there is a card, but it cannot be read.
    """
    if (root / META).is_file():
        return Header.from_json(root / META, read_json(root / META, "the embeddings' card"))
    numbers = shard_numbers(root)
    if not numbers:
        return None
    path = _rows_path(root, numbers[0])
    with open_parquet(path) as file:
        return _stored_header(path, file.schema_arrow)


def _stored_header(path: Path, schema: pyarrow.Schema) -> Header | None:
    stored = (schema.metadata or {}).get(b"clipdistill")
    if stored is None:
        return None
    try:
        value = json.loads(stored)
    except ValueError as error:
        raise FormatError(f"{path}: its clipdistill card is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: its clipdistill card is not a JSON object.")
    return Header.from_json(path, value)


def load_embeddings(root: Path) -> Embeddings:
    """Load a store of either layout, or a bare folder of `.npy` files (the older scripts').

    Raises:
        InputError: no such folder, or no embeddings in it.
        FormatError: a shard is truncated, does not fit its rows or the teacher's dimension, or
            holds values that are not finite.
    """
    found = _load_any(root)
    wrong = _first_not_finite(found.vectors)
    if wrong is not None:
        raise FormatError(
            f"{root}: the embedding of {found.rows[wrong].image_path!r} is not finite (NaN or "
            "infinite). Delete the folder and run `clipdistill embed` again, with --precision fp32."
        )
    return found


def _load_any(root: Path) -> Embeddings:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of embeddings. Make it with: clipdistill embed")
    header = read_header(root)
    numbers = shard_numbers(root)
    if not numbers:
        return _load_bare(root)
    rows = [_read_rows(root, number) for number in numbers]
    if not any(rows):
        raise InputError(
            f"{root}: no embeddings in it yet. Run the same `clipdistill embed` again to go on."
        )
    if header is None:
        header = _foreign_header(_load_shard(root, numbers[0], rows[0], None))
    if header.layout == "npy":
        flat = _latest([row for shard in rows for row in shard])
        kept = [flat[index] for index in sorted(flat)]
        names = [row.image_path for row in kept]
        return Embeddings(root, header, kept, _stack(root, names, header.teacher.dim))
    dim = header.teacher.dim
    shards = [_load_shard(root, n, shard, dim) for n, shard in zip(numbers, rows, strict=True)]
    every = [row for shard in rows for row in shard]
    latest = _latest(every)
    vectors = shards[0] if len(shards) == 1 else np.concatenate(shards)
    sizes = tuple((n, len(shard)) for n, shard in zip(numbers, rows, strict=True))
    if len(latest) == len(every):
        return Embeddings(root, header, every, vectors, sizes, np.arange(len(every)))
    keep = sorted(latest)
    kept = [every[index] for index in keep]
    return Embeddings(root, header, kept, vectors[keep], sizes, np.array(keep, dtype=np.intp))


def shard_numbers(root: Path) -> list[int]:
    """Numbers of the complete shards, ascending."""
    return sorted(_numbered(root / ROWS, ROWS_NAME))


def shard_files(root: Path) -> list[tuple[Path, Path]]:
    """The complete shards in order: (vectors `.npy`, rows `.parquet`); the first may be missing."""
    vectors = _numbered(root / VECTORS, VECTORS_NAME)
    rows = _numbered(root / ROWS, ROWS_NAME)
    missing = root / VECTORS
    return [(vectors.get(n, missing / f"img_emb_{n}.npy"), rows[n]) for n in sorted(rows)]


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Number -> file, for the files of a folder; clip-retrieval pads its numbers with zeros."""
    files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ()
    matches = ((re.fullmatch(pattern, path.name), path) for path in files)
    return {int(match[1]): path for match, path in matches if match}


def _has_vectors(root: Path) -> bool:
    """Whether per-image vectors lie in a folder that has no card."""
    return any(_is_vector(root, path) for path in root.rglob("*.npy"))


def _is_vector(root: Path, path: Path) -> bool:
    """Whether a `.npy` below a folder without a card is an image's vector, not a file of ours."""
    ours = (VECTORS, CACHE, VIEWS)
    return path.relative_to(root).parts[0] not in ours and not path.name.startswith(".")


def npy_path(root: Path, image_path: str) -> Path:
    """Where layout "npy" keeps an image's vector: its own name with the ending `.npy`."""
    return root / Path(image_path).with_suffix(".npy")


def _latest(rows: Sequence[Row]) -> dict[int, Row]:
    """Row number -> row, the last one of each image."""
    last = {row.image_path: index for index, row in enumerate(rows)}
    return {index: rows[index] for index in last.values()}


def _rows_path(root: Path, number: int) -> Path:
    plain = root / ROWS / f"metadata_{number}.parquet"
    if plain.exists():
        return plain
    return _numbered(root / ROWS, ROWS_NAME).get(number, plain)


def _vectors_path(root: Path, number: int) -> Path:
    plain = root / VECTORS / f"img_emb_{number}.npy"
    if plain.exists():
        return plain
    return _numbered(root / VECTORS, VECTORS_NAME).get(number, plain)


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a shard's parquet without reading its rows; read from it inside `reading_parquet`."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "web", "Reading and writing embeddings") from error
    with reading_parquet(path):
        return pyarrow.parquet.ParquetFile(path)


@contextlib.contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn pyarrow's complaints about `path` into a `FormatError`."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise FormatError(
            f"{path}: not a readable parquet file ({error}). Delete it and run "
            "`clipdistill embed` again: only its images are embedded anew."
        ) from error


def _parquet(path: Path) -> pyarrow.Table:
    with open_parquet(path) as file, reading_parquet(path):
        return file.read()


def _read_rows(root: Path, number: int) -> list[Row]:
    path = _rows_path(root, number)
    table = _parquet(path)
    if "image_path" not in table.column_names:
        raise FormatError(f"{path}: expected a column image_path, found {table.column_names}.")
    if _stored_header(path, table.schema) is None:
        # Files of clip-retrieval itself know only the path; their other columns mean other things.
        names = table.column("image_path").to_pylist()
        return [Row(str(name), "", 0, 0) for name in names]
    columns = [field.name for field in fields(Row)]
    if not set(columns) <= set(table.column_names):
        raise FormatError(f"{path}: expected the columns {columns}, found {table.column_names}.")
    return [Row(**row) for row in table.select(columns).to_pylist()]


def _write_rows(root: Path, number: int, rows: Sequence[Row], header: Header) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {"str": pyarrow.string(), "int": pyarrow.int64()}
    schema = pyarrow.schema([(field.name, types[str(field.type)]) for field in fields(Row)])
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    card = json.dumps(header.to_json(), ensure_ascii=False).encode()
    with atomic_path(_rows_path(root, number)) as temporary:
        pyarrow.parquet.write_table(
            table.replace_schema_metadata({b"clipdistill": card}), temporary
        )


def _load_shard(
    root: Path, number: int, rows: Sequence[Row], dim: int | None
) -> NDArray[np.floating]:
    path = _vectors_path(root, number)
    remedy = f"Delete it and {_rows_path(root, number)}, then run `clipdistill embed` again."
    try:
        vectors: NDArray[np.floating] = read_array(path, mapped=len(rows) > 0)
    except (FormatError, InputError) as error:
        raise FormatError(f"{error} {remedy}") from error
    fine = vectors.ndim == 2 and len(vectors) == len(rows) and vectors.dtype.kind == "f"
    if not fine or (dim is not None and vectors.shape[1] != dim):
        raise FormatError(
            f"{path}: expected floats ({len(rows)}, {dim or 'dimension'}), found {vectors.dtype} "
            f"{vectors.shape}. {remedy}"
        )
    return vectors


def _stack(root: Path, keys: Sequence[str], dim: int | None) -> NDArray[np.float32]:
    """Read per-image vectors to (N, dim); a dim of None is that of the first."""
    vectors: list[NDArray[np.float32]] = []
    for key in keys:
        path = npy_path(root, key)
        try:
            vector = read_array(path)
        except (FormatError, InputError) as error:
            raise FormatError(
                f"{error} Delete {root} and run `clipdistill embed` again."
            ) from error
        if dim is None and vector.ndim == 1:
            dim = len(vector)
        if vector.shape != (dim,) or vector.dtype.kind != "f":
            raise FormatError(
                f"{path}: expected one vector of {dim or 'some'} floats, found {vector.dtype} "
                f"{vector.shape}. Expected a folder with one embedding a file."
            )
        vectors.append(np.asarray(vector, dtype=np.float32))
    return np.stack(vectors)


def _first_not_finite(vectors: NDArray[np.floating], block: int = 65536) -> int | None:
    """The first row of (N, D) with a NaN or infinite value; reads mapped vectors in blocks."""
    for start in range(0, len(vectors), block):
        wrong = np.flatnonzero(~np.isfinite(vectors[start : start + block]).all(axis=1))
        if len(wrong):
            return start + int(wrong[0])
    return None


def _foreign_header(vectors: NDArray[np.floating]) -> Header:
    """For vectors that carry no card: clip-retrieval's own, or the older scripts'."""
    teacher = TeacherCard("unknown", "", None, vectors.shape[1], LogitScale(), Preprocess(224))
    unit = bool(np.allclose(np.linalg.norm(vectors[:256].astype(np.float32), axis=1), 1, atol=2e-3))
    return Header(teacher, "clip-retrieval", "float32", unit)


def _load_bare(root: Path) -> Embeddings:
    """A folder of per-image vectors without a card; the keys have no image ending."""
    paths = sorted(path for path in root.rglob("*.npy") if _is_vector(root, path))
    if not paths:
        raise InputError(f"{root}: no embeddings in it. Make them with: clipdistill embed")
    keys = [path.relative_to(root).as_posix() for path in paths]
    vectors = _stack(root, keys, None)
    header = replace(_foreign_header(vectors), layout="npy")
    return Embeddings(root, header, [Row(key, "", 0, 0) for key in keys], vectors)


def match_rows(embeddings: Embeddings, keys: Sequence[str]) -> dict[str, int]:
    """Image key -> row number, for those of `keys` that are embedded.

    Bare folders are matched by the name without ending, as the older scripts did;
    clip-retrieval's own by the end of the path that it stored.
    """
    known = embeddings.by_image()
    if embeddings.teacher.fingerprint is not None:
        return {key: known[key] for key in keys if key in known}
    if embeddings.header.layout == "clip-retrieval":
        return _match_ends(known, keys)
    found: dict[str, int] = {}
    for key in keys:
        path = Path(key)
        older = path.with_name(path.name.split(".")[0] + ".npy").as_posix()
        for name in (path.with_suffix(".npy").as_posix(), older, Path(older).name):
            if name in known:
                found[key] = known[name]
                break
    return found


def _match_ends(known: dict[str, int], keys: Sequence[str]) -> dict[str, int]:
    """Match keys with the rows whose stored path ends with them, where just one does."""
    ends: dict[str, list[int]] = {key: [] for key in keys}
    for stored, index in known.items():
        parts = Path(stored).parts
        for length in range(1, len(parts) + 1):
            end = "/".join(parts[-length:])
            if end in ends:
                ends[end].append(index)
    found = {key: known.get(key) for key in keys}
    found |= {key: rows[0] for key, rows in ends.items() if len(rows) == 1}
    return {key: index for key, index in found.items() if index is not None}


def unit_vectors(embeddings: Embeddings) -> NDArray[np.float32]:
    """All vectors as float32 (N, D) of unit length."""
    return normalized(embeddings.vectors)
