"""Image embeddings: clip-retrieval's layout with a card, or one `.npy` per image.

    OUT/img_emb/img_emb_0.npy          float16 or float32 (n, D)      layout "clip-retrieval"
    OUT/<image name>.npy               float32 (D,) per image         layout "npy"
    OUT/metadata/metadata_0.parquet    one row per embedding, in the same order
    OUT/views/                         several views of each image, see `views`
    OUT/failures.jsonl                 one line per image that could not be used
    OUT/meta.json                      teacher, layout, counts; written last: the store is complete

Rows are only appended, one shard at a time: vectors first, then their parquet, whose schema has the
teacher's card.  So a run that was killed before `meta.json` can be resumed, but not with another
teacher.  Layout "npy" begins with a shard of no rows, so that a card exists before its first
vector.  A later row of the same image replaces an earlier one.

Files of clip-retrieval, with padded numbers ("img_emb_00.npy") and whole paths, can be read, too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, MismatchError
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
from ..core.node_cache import at_hand, copy_ahead, folder_at_hand
from ..core.storage import RemotePath
from ..core.texts import Index, Texts
from ..core.vectors import Mapped, Vectors
from ..core.wording import many
from ..core.zeroshot import LogitScale, normalized
from ..images.preprocess import Preprocess
from ..images.views import ViewSpec
from .cards import TeacherCard
from .merged import ENTRY, MergedFolder, change_of, read_merged
from .merged import VERSION as MERGED_VERSION
from .parquet import TypeMismatch, arrow, open_rows, write_rows
from .row_finder import RowFinder
from .rows import COLUMNS, Row, Rows, texts_of
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
"""Names of the files of a shard, with its number; clip-retrieval pads it with zeros."""
PURPOSE = "Reading and writing embeddings"
REMEDY = "Delete it and run `clipdistill embed` again: only its images are embedded again."
CACHE = "pixels"
"""Folder beside the vectors in which `distill` keeps decoded pixels (see `images.pixels`)."""


@dataclass(frozen=True)
class Failure:
    """One image that could not be used, and why."""

    image_path: str
    reason: str


@dataclass(frozen=True)
class Header:
    """What all rows of a store share.

    Attributes:
        teacher: the teacher that made the vectors.
        layout: layout of the files.
        dtype: precision of stored vectors (always "float32" in layout "npy").
        normalized: whether rows have unit length (False: the raw output of the image tower).
        views: the views stored of each image; None without views.
    """

    teacher: TeacherCard
    layout: Layout
    dtype: Precision
    normalized: bool
    views: ViewSpec | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; "views" only where there are some."""
        views = {} if self.views is None else {"views": asdict(self.views)}
        return views | {
            "format": FORMAT,
            "version": VERSION,
            "teacher": self.teacher.to_json(),
            "layout": self.layout,
            "dtype": self.dtype,
            "normalized": self.normalized,
        }

    def check_same(self, found: Header, root: Path) -> None:
        """Check that this command may add to what `found` describes.

        Raises:
            MismatchError: teacher, views, layout or precision differ.
        """
        self.teacher.check_same(found.teacher, "This run", root)
        if self.views != found.views:
            raise MismatchError(
                f"{root} has embeddings with {_described(found.views)}, but this command "
                f"would write {_described(self.views)}. Use the same --views and "
                "--view-seed, or another output folder."
            )
        mine = (self.layout, self.dtype, self.normalized)
        theirs = (found.layout, found.dtype, found.normalized)
        if mine != theirs:
            raise MismatchError(
                f"{root} has embeddings of layout, precision, normalized = {theirs}, but this "
                f"command would write {mine}. Use the same options, or another output folder."
            )

    @classmethod
    def from_json(cls, path: Path, value: dict[str, Any]) -> Header:
        """Invert `to_json`; `path` names the file in messages.

        Raises:
            FormatError: it is of another kind or a newer version, or a field is wrong.
        """
        check_format(path, value, FORMAT, MERGED_VERSION)
        layout, dtype = value.get("layout"), value.get("dtype")
        if layout not in ("clip-retrieval", "npy") or dtype not in ("float16", "float32"):
            raise FormatError(
                f"{path}: expected layout clip-retrieval or npy and dtype float16 or float32, "
                f"found {layout!r} and {dtype!r}. Delete the folder and run `clipdistill embed` "
                "again."
            )
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
        raise FormatError(f"the description of the views cannot be read: {error!r}") from error


@dataclass(frozen=True)
class Shard:
    """The files of one shard.

    Attributes:
        folder: store that it belongs to.
        number: of the shard in that store.
        vectors: `.npy` of its vectors.
        rows: parquet of its rows.
        count: number of its rows; -1: not counted yet.
        prefix: what a merged pool puts before the names of its images; may be empty.
    """

    folder: Path
    number: int
    vectors: Path
    rows: Path
    count: int = -1
    prefix: str = ""

    def named(self, key: str) -> str:
        """The name of one of its images in the pool."""
        return f"{self.prefix}/{key}" if self.prefix and key else key

    def open(self, dim: int | None) -> NDArray[np.floating]:
        """Map the vectors (count, dim) without reading them.

        Raises:
            FormatError: the file is missing, truncated, of another shape, or not of floats.
        """
        remedy = f"Delete it and {self.rows}, then run `clipdistill embed` again."
        try:
            # numpy cannot map an array of no rows.
            vectors: NDArray[np.floating] = read_array(self.vectors, mapped=self.count > 0)
        except (FormatError, InputError) as error:
            raise FormatError(f"{error} {remedy}") from error
        fine = vectors.ndim == 2 and len(vectors) == self.count and vectors.dtype.kind == "f"
        if not fine or (dim is not None and vectors.shape[1] != dim):
            raise FormatError(
                f"{self.vectors}: expected floats ({self.count}, {dim or 'dimension'}), found "
                f"{vectors.dtype} {vectors.shape}. {remedy}"
            )
        return vectors


@dataclass(frozen=True)
class Embeddings:
    """Embeddings that were read.

    Attributes:
        root: folder of the store.
        header: teacher and layout.
        rows: one per image, no image twice; in columns, each is made when it is read.
        mapped: float16 or float32 (N, D) on the disk; `mapped[rows]` reads those of some rows.
        shards: the shards; empty for a folder without a card.
        order: int (N,), row of each image in the concatenated shards; None: in their order.
    """

    root: Path
    header: Header
    rows: Rows
    mapped: Vectors
    shards: tuple[Shard, ...] = ()
    order: NDArray[np.integer] | None = None

    @property
    def teacher(self) -> TeacherCard:
        """The teacher that made the vectors."""
        return self.header.teacher

    @functools.cached_property
    def vectors(self) -> NDArray[np.floating]:
        """All vectors, float16 or float32 (N, D); where a store has several shards, in memory."""
        return self.mapped.whole()

    def by_image(self) -> dict[str, int]:
        """Return the row number of each image key: a dictionary, for small sets."""
        return {key: index for index, key in enumerate(self.rows.keys)}

    def views(self) -> Views | None:
        """Open the stored views; None where there are none.

        Raises:
            FormatError: one of their files is missing or damaged.
        """
        if self.header.views is None or not self.shards:
            return None
        found = open_views(self.header, self.shards)
        return found if found is None or self.order is None else found.of(self.order)


class EmbeddingStore:
    """Appends embeddings of one teacher to a folder.

    Opening an existing folder reads neither its rows nor its vectors.

    Attributes:
        root: the folder.
        header: teacher and layout.
        shards: numbers of the complete shards, ascending.
        count: rows in them; an image that changed has two.

    Raises:
        MismatchError: the folder has embeddings of another teacher, layout or precision, or
            embeddings without a card.
        FormatError: the folder's card cannot be read.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, root: Path, header: Header) -> None:
        self.root = ensure_folder(root)
        self.header = header
        if read_merged(root / META) is not None:
            raise MismatchError(
                f"{root} is a pool that was merged of other folders; no images are embedded into "
                "it. Choose another output folder, and merge that one, too."
            )
        found = read_header(root)
        if found is not None:
            header.check_same(found, root)
        elif shard_numbers(root) or any(_bare_vectors(root)):
            raise MismatchError(
                f"{root} has embeddings without a card that names their teacher. Choose another "
                "output folder."
            )
        self.shards = shard_numbers(root)
        self.count = sum(shard.count for shard in counted(own_shards(root), header))

    def rows(self) -> Iterator[tuple[int, Rows]]:
        """Stream the rows in order of writing: the number of the first of each part, and the part.

        Raises:
            FormatError: a table is damaged.
        """
        return iter_rows(own_shards(self.root), self.header)

    def stored(self) -> tuple[Vectors, Views | None]:
        """Open the vectors (N, D) and the views of all rows, in order of writing.

        Raises:
            FormatError: a file is missing or damaged.
        """
        dim = self.header.teacher.dim
        if self.header.layout == "npy":
            keys = Rows.joined(part for _, part in self.rows()).keys
            return Vectors.of(_stack(self.root, keys, dim)), None
        shards = counted(own_shards(self.root), self.header)
        return map_vectors(shards, dim), open_views(self.header, shards)

    def append(
        self,
        rows: Sequence[Row],
        vectors: NDArray[np.floating],
        views: tuple[NDArray[np.floating], NDArray[np.float32]] | None = None,
    ) -> None:
        """Write one shard; it is complete when this returns.

        Args:
            rows: n images.
            vectors: float (n, D), one per row.
            views: embeddings (n, K, D) and parameters (n, K, 8) of the views, if the header has
                views.
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
            write_vectors(self.root, number, self.header, vectors, views)
        self._write_shard(number, rows)

    def _write_shard(self, number: int, rows: Sequence[Row]) -> None:
        write_shard_rows(self.root, number, rows, self.header)
        self.shards.append(number)
        self.count += len(rows)

    def finish(self, failures: Iterable[Failure]) -> None:
        """Write the failures and, last, `meta.json`, which marks a complete store."""
        failures = list(failures)
        lines = [json.dumps(asdict(failure), ensure_ascii=False) for failure in failures]
        text = "".join(line + "\n" for line in lines)
        write_bytes(self.root / FAILURES, text.encode(errors="backslashreplace"))
        counts = {
            "shards": len(self.shards),
            "rows": self.count,
            "failures": len(failures),
        }
        write_json(self.root / META, {**self.header.to_json(), **counts})


def _described(views: ViewSpec | None) -> str:
    return (
        "no views"
        if views is None
        else f"{many(views.count, 'view')} per image (seed {views.seed})"
    )


def read_failures(root: Path) -> tuple[Failure, ...]:
    """Read the images that a finished store could not use; none without such a file.

    Raises:
        FormatError: a line is damaged.
    """
    path = root / FAILURES
    if not path.is_file():
        return ()
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line)
            found.append(Failure(str(value["image_path"]), str(value["reason"])))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(
                f"{path}, line {number}: expected an image and a reason ({error!r}). Delete the "
                "file, or run `clipdistill embed` again."
            ) from error
    return tuple(found)


def read_header(root: Path) -> Header | None:
    """Return the header of a store, complete or not; None when the folder has no card.

    Raises:
        FormatError: the card cannot be read.
    """
    if (root / META).is_file():
        value = read_json(root / META, "the embeddings' card")
        if ENTRY in value and value.get("teacher") is None:
            return None  # merged of folders without a card
        return Header.from_json(root / META, value)
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
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path}: the card of the embeddings is not JSON ({error}). {REMEDY}"
        ) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: the card of the embeddings is not a JSON object. {REMEDY}")
    return Header.from_json(path, value)


def load_embeddings(root: Path) -> Embeddings:
    """Load a store of either layout, or a folder of `.npy` files without a card, as the older
    scripts wrote it.

    Raises:
        InputError: there is no such folder, or no embeddings in it.
        FormatError: a shard is truncated, does not fit its rows or the teacher's dimension, or
            holds values that are not finite.
    """
    found = _load_any(embeddings_at_hand(root))
    check_finite(root, found.rows.keys, found.mapped)
    return found


def check_finite(root: Path, keys: Texts, vectors: Vectors) -> None:
    """Check that the vectors of images are finite.

    Raises:
        FormatError: one is not.
    """
    wrong = vectors.first_not_finite()
    if wrong is not None:
        raise FormatError(
            f"{root}: the embedding of {keys[wrong]!r} is not finite (NaN or infinite). Delete the "
            "folder and run `clipdistill embed --precision fp32`."
        )


def embeddings_at_hand(root: Path) -> Path:
    """Return `root`, or a copy on this machine of embeddings in object storage.

    Raises:
        InputError: the store cannot be read, or has no such folder.
        OutputError: the copy cannot be written.
    """
    if isinstance(root, RemotePath) and not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder of embeddings. Make it with: clipdistill embed"
        )
    copy = folder_at_hand(root, skip=CACHE)
    if copy is not root and read_merged(copy / META) is not None:
        raise FormatError(
            f"{root}: a pool merged of several folders cannot be read from object storage: its "
            "manifest names folders of a machine. Give one of its folders."
        )
    return copy


def _load_any(root: Path) -> Embeddings:
    if not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder of embeddings. Make it with: clipdistill embed"
        )
    header = read_header(root)
    files = shard_files(root)
    if not files:
        return _load_bare(root)
    counts: list[int] = []

    def parts() -> Iterator[Rows]:
        for shard in files:
            rows = _read_rows(shard, header)
            counts.append(len(rows))
            yield rows

    every = Rows.joined(parts())
    if not every:
        raise InputError(
            f"{root}: there are no embeddings in it yet. Run the same `clipdistill embed` command "
            "again to resume."
        )
    shards = tuple(replace(shard, count=count) for shard, count in zip(files, counts, strict=True))
    if header is None:
        header = _foreign_header(shards[0].open(None))
    keep = Index(every.keys).latest()
    kept = every if keep is None else every.take(keep)
    dim = header.teacher.dim
    if header.layout == "npy":
        return Embeddings(root, header, kept, Vectors.of(_stack(root, kept.keys, dim)))
    mapped = map_vectors(shards, dim)
    if keep is not None:
        mapped = mapped.take(keep)
    return Embeddings(root, header, kept, mapped, shards, keep)


def open_views(header: Header, shards: Sequence[Shard]) -> Views | None:
    """Open the stored views of all rows, in their order; None where there are none.

    Raises:
        FormatError: one of their files is missing or damaged.
    """
    if header.views is None:
        return None
    places = [(shard.folder, shard.number, shard.count) for shard in shards]
    return read_views(places, header.views, header.teacher.dim)


def counted(shards: Sequence[Shard], header: Header | None) -> list[Shard]:
    """Count the rows of shards, without reading them, and check the card of each.

    Raises:
        MismatchError: one is of another teacher.
        FormatError: a table cannot be opened.
    """
    copy_ahead([shard.rows for shard in shards])
    found = []
    for shard in shards:
        with open_parquet(shard.rows) as file:
            check_card(shard.rows, file.schema_arrow, header, shard.folder)
            found.append(replace(shard, count=int(file.metadata.num_rows)))
    return found


def iter_rows(shards: Sequence[Shard], header: Header | None) -> Iterator[tuple[int, Rows]]:
    """Stream the rows of shards: the number of the first row of each, and its rows.

    Raises:
        MismatchError: a shard is of another teacher.
        FormatError: a table is damaged.
    """
    start = 0
    for shard in shards:
        rows = _read_rows(shard, header)
        yield start, rows
        start += len(rows)


def map_vectors(shards: Sequence[Shard], dim: int) -> Vectors:
    """Check the vectors of every shard, and map them when they are used.

    Raises:
        FormatError: a file is missing, truncated, of another shape, or not of floats.
    """
    kinds = {shard.open(dim).dtype for shard in shards}
    counts = [shard.count for shard in shards]
    opened = Mapped(lambda place: shards[place].open(dim))
    return Vectors(opened, counts, (dim,), np.result_type(*kinds))


def shard_numbers(root: Path) -> list[int]:
    """Return the numbers of the complete shards, ascending."""
    return sorted(_numbered(root / ROWS, ROWS_NAME))


def shard_files(root: Path) -> list[Shard]:
    """Return the complete shards, by number, or those of the folders of a merged pool.

    The `.npy` of one may be missing.

    Raises:
        InputError: a folder of a merged pool is not there.
        MismatchError: a folder of a merged pool has changed since.
        FormatError: in a folder of others, vectors have no rows: it is half-written.
    """
    merged = read_merged(root / META)
    if merged is None:
        return own_shards(root)
    return [shard for one in merged for shard in _merged_shards(root, one)]


def _merged_shards(root: Path, known: MergedFolder) -> list[Shard]:
    folder = Path(os.path.normpath(root / known.folder))
    if not folder.is_dir():
        raise InputError(
            f"{root} is a pool merged of several folders, and {folder} is not there. Move it back, "
            "or run `clipdistill pool merge` again without it."
        )
    found = own_shards(folder)
    change = change_of(known, [(shard.number, shard.rows) for shard in found])
    if change:
        raise MismatchError(
            f"{root} is a pool merged of several folders, and {folder} has changed since: "
            f"{change}. Run the same `clipdistill pool merge` command again."
        )
    return [
        replace(shard, count=known.shards[shard.number][0], prefix=known.prefix) for shard in found
    ]


def own_shards(root: Path) -> list[Shard]:
    """Return the complete shards in a folder, by number; the `.npy` of one may be missing.

    Raises:
        FormatError: in a folder of others, vectors have no rows: it is half-written.
    """
    vectors = _numbered(root / VECTORS, VECTORS_NAME)
    rows = _numbered(root / ROWS, ROWS_NAME)
    missing = root / VECTORS
    alone = sorted(vectors.keys() - rows.keys())
    # Our own vectors without rows are those of a shard that was being written; it is done again.
    if rows and alone and read_header(root) is None:
        raise FormatError(
            f"{vectors[alone[0]]}: its rows are missing (metadata_{alone[0]}.parquet in "
            f"{root / ROWS}), so this shard is half-written. Write or download it again, or delete "
            "it."
        )
    return [
        Shard(root, n, vectors.get(n, missing / f"img_emb_{n}.npy"), rows[n]) for n in sorted(rows)
    ]


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ()
    matches = ((re.fullmatch(pattern, path.name), path) for path in files)
    return {int(match[1]): path for match, path in matches if match}


def _bare_vectors(root: Path) -> Iterator[Path]:
    """Every `.npy` of one image in a folder without a card."""
    ours = (VECTORS, CACHE, VIEWS)
    for path in root.rglob("*.npy"):
        if path.relative_to(root).parts[0] not in ours and not path.name.startswith("."):
            yield path


def npy_path(root: Path, image_path: str) -> Path:
    """Return the file of an image's vector in layout "npy": its key with the ending `.npy`."""
    return root / Path(image_path).with_suffix(".npy")


def _rows_path(root: Path, number: int) -> Path:
    plain = root / ROWS / f"metadata_{number}.parquet"
    return plain if plain.exists() else _numbered(root / ROWS, ROWS_NAME).get(number, plain)


def _vectors_path(root: Path, number: int) -> Path:
    plain = root / VECTORS / f"img_emb_{number}.npy"
    return plain if plain.exists() else _numbered(root / VECTORS, VECTORS_NAME).get(number, plain)


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a shard's parquet without reading its rows; read from it inside `reading_parquet`."""
    with reading_parquet(path):
        return open_rows(at_hand(path), PURPOSE)


@contextlib.contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors about `path` into a `FormatError`; name the file in those of types."""
    try:
        yield
    except TypeMismatch as error:
        raise FormatError(f"{path}: {error}. {REMEDY}") from error
    except (UnicodeDecodeError, arrow(PURPOSE).ArrowException, OSError) as error:
        raise FormatError(f"{path}: not a readable parquet file ({error}). {REMEDY}") from error


def _parquet(path: Path) -> pyarrow.Table:
    with open_parquet(path) as file, reading_parquet(path):
        return file.read()


def check_card(path: Path, schema: pyarrow.Schema, header: Header | None, root: Path) -> None:
    """Check that a shard was made by the teacher of its folder.

    Args:
        path: the shard's parquet.
        schema: its schema.
        header: of the folder; None: it has no card.
        root: the folder.

    Raises:
        MismatchError: it is of another teacher.
    """
    stored = _stored_header(path, schema)
    if stored is None and header is None:
        return
    remedy = f"Shards of different teachers are mixed in {root}: take out those that do not belong."
    if stored is None or header is None:
        which = "has no card that names its teacher" if stored is None else "has one"
        raise MismatchError(
            f"{path} {which}, but other shards {'have one' if stored is None else 'have none'}. "
            f"{remedy}"
        )
    try:
        header.teacher.check_same(stored.teacher, root, path)
    except MismatchError as error:
        raise MismatchError(
            f"{path} was made with teacher {stored.teacher}, but other shards with "
            f"{header.teacher}. {remedy}"
        ) from error


def _read_rows(shard: Shard, header: Header | None) -> Rows:
    path = shard.rows
    table = _parquet(path)
    check_card(path, table.schema, header, shard.folder)
    return _named(shard, _parse_rows(path, table))


def read_shard_rows(shard: Shard) -> Rows:
    """Read the rows of one shard.

    Raises:
        FormatError: its table is damaged.
    """
    return _named(shard, _parse_rows(shard.rows, _parquet(shard.rows)))


def _named(shard: Shard, rows: Rows) -> Rows:
    if not shard.prefix:
        return rows
    return Rows(Texts.of(map(shard.named, rows.keys)), rows.contents, rows.sizes, rows.times)


def _parse_rows(path: Path, table: pyarrow.Table) -> Rows:
    if "image_path" not in table.column_names:
        raise FormatError(
            f"{path}: expected a column image_path, found {table.column_names}. {REMEDY}"
        )
    if _stored_header(path, table.schema) is None:
        # Of clip-retrieval's own files only the path is used; their other columns differ.
        with reading_parquet(path):
            return Rows.named(texts_of(table.column("image_path"), "image_path"))
    if not set(COLUMNS) <= set(table.column_names):
        raise FormatError(
            f"{path}: expected the columns {list(COLUMNS)}, found {table.column_names}. {REMEDY}"
        )
    with reading_parquet(path):
        return Rows.read(table)


def write_vectors(
    root: Path,
    number: int,
    header: Header,
    vectors: NDArray[np.floating],
    views: tuple[NDArray[np.floating], NDArray[np.float32]] | None = None,
) -> None:
    """Write the vectors of one shard of layout clip-retrieval; arguments as in `append`."""
    with atomic_path(_vectors_path(root, number)) as temporary:
        np.save(temporary, np.asarray(vectors, dtype=header.dtype))
    if views is not None:
        write_views(root, number, np.asarray(views[0], dtype=header.dtype), views[1])


def write_shard_rows(root: Path, number: int, rows: Sequence[Row], header: Header) -> None:
    """Write the rows of one shard, after its vectors: readers see it from now on."""
    card = json.dumps(header.to_json(), ensure_ascii=False).encode()
    with atomic_path(_rows_path(root, number)) as temporary:
        write_rows(temporary, Row, rows, PURPOSE, {b"clipdistill": card})


def _stack(root: Path, keys: Sequence[str], dim: int | None) -> NDArray[np.float32]:
    """Read per-image vectors to (N, dim); None: the dimension of the first vector."""
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
                f"{vector.shape}. Give a folder in which every .npy has one embedding."
            )
        vectors.append(np.asarray(vector, dtype=np.float32))
    return np.stack(vectors)


def _foreign_header(vectors: NDArray[np.floating]) -> Header:
    """Header of vectors without a card: clip-retrieval's own, or the older scripts'."""
    teacher = TeacherCard("unknown", "", None, vectors.shape[1], LogitScale(), Preprocess(224))
    unit = bool(np.allclose(np.linalg.norm(vectors[:256].astype(np.float32), axis=1), 1, atol=2e-3))
    return Header(teacher, "clip-retrieval", "float32", unit)


def _load_bare(root: Path) -> Embeddings:
    """Load a folder of per-image vectors without a card; the keys have no image ending."""
    paths = sorted(_bare_vectors(root))
    if not paths:
        raise InputError(
            f"{root}: there are no embeddings in it. Make them with: clipdistill embed"
        )
    keys = [path.relative_to(root).as_posix() for path in paths]
    vectors = _stack(root, keys, None)
    header = replace(_foreign_header(vectors), layout="npy")
    return Embeddings(root, header, Rows.named(keys), Vectors.of(vectors))


def find_rows(embeddings: Embeddings, keys: Sequence[str]) -> NDArray[np.integer]:
    """Return the row number of each of `keys`, int (n,); -1 where it is not embedded.

    Folders without a card are matched by the name without ending, as in the older scripts, and
    clip-retrieval's own files by the end of the stored path.
    """
    if embeddings.teacher.fingerprint is not None:
        return Index(embeddings.rows.keys).find(keys)
    if embeddings.header.layout == "clip-retrieval":
        finder = RowFinder(keys, len(embeddings.rows), by_ends=True)
        finder.add(np.arange(len(embeddings.rows)), embeddings.rows.keys)
        return finder.rows()
    index = Index(embeddings.rows.keys)
    found = np.full(len(keys), -1, np.intp)
    paths = [Path(key) for key in keys]
    older = [path.with_name(path.name.split(".")[0] + ".npy") for path in paths]
    plain = [path.with_suffix(".npy") for path in paths]
    for names in ([path.as_posix() for path in plain], [p.as_posix() for p in older]):
        found = np.where(found < 0, index.find(names), found)
    return np.where(found < 0, index.find([path.name for path in older]), found)


def match_rows(embeddings: Embeddings, keys: Sequence[str]) -> dict[str, int]:
    """Return the row numbers of those of `keys` that are embedded: `find_rows`, for small sets."""
    rows = find_rows(embeddings, keys).tolist()
    return {key: row for key, row in zip(keys, rows, strict=True) if row >= 0}


def unit_vectors(embeddings: Embeddings) -> NDArray[np.float32]:
    """Return all vectors as float32 (N, D) of unit length."""
    return normalized(embeddings.vectors)
