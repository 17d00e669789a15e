"""A pool: embedded images on disk, searched exactly, however many there are.

A pool is a folder that `embed` wrote, or other embeddings in clip-retrieval's layout.  It is never
loaded as a whole: shards are mapped one at a time and converted to float32 in blocks that fit the
processor's cache, and only the best rows of each block are kept.  So the memory of a search is that
of the blocks (and 4 bytes per row for the lengths), not of the pool.

Exact search reads every vector for every batch of queries.  It is suitable for up to some millions
of rows (about a gigabyte of float16 per million rows of 512).  An approximate index would be faster
for more rows, but is not supported: its file formats are not safe to open from untrusted sources.

A row number is the place of a row in the order of writing; it stays the same when rows are
appended.  An image that changed and was embedded again has two rows: the earlier row is stale, and
is never found.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, MismatchError, OptionError
from ..core.files import read_array
from ..core.storage import location
from ..core.texts import Texts, places_sorting
from ..core.vectors import Mapped
from ..core.zeroshot import LogitScale, normalized
from ..formats.cards import TeacherCard
from ..formats.embeddings import (
    ROWS,
    VECTORS,
    Embeddings,
    Header,
    Shard,
    check_card,
    embeddings_at_hand,
    find_rows,
    load_embeddings,
    open_parquet,
    read_header,
    reading_parquet,
    shard_files,
)
from ..formats.parquet import texts
from ..formats.row_finder import RowFinder
from ..images.loading import default_workers
from ..images.preprocess import Preprocess
from .nearest import LARGEST_HALF, TILE, Best, Buffer, Floats, Found, Rows, joined

if TYPE_CHECKING:
    import pyarrow

CHUNK_ROWS = 1024
"""Rows that a thread converts to float32 at a time: 2 MB of 512 dimensions."""
TASK_ROWS = 8192
"""Rows per task of a thread."""
QUERIES_AT_ONCE = 256
"""Queries per pass over the pool, which bounds the memory."""
FOUND_AT_ONCE = 1 << 21
"""Results per pass over the pool, over all queries; each takes a few times 16 bytes."""
TABLE_CACHE = 128 << 20
"""Bytes of decoded metadata that a pool keeps between searches."""
NAMES_AT_ONCE = 1 << 16
"""Names per block while a pool's names are streamed."""
UNIT_TOLERANCE = 0.01


@dataclass(frozen=True)
class PoolRow:
    """The metadata of one row.

    Attributes:
        image_path: key of the image below the images folder, or the path that the maker of the pool
            stored; empty when unknown.
        url: URL of the image; empty when unknown.
        caption: caption of the image; empty when unknown.
        extra: the other columns, as JSON values.
    """

    image_path: str = ""
    url: str = ""
    caption: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shard:
    """Rows `start` to `start + count`: a pair of files, or vectors and names in memory."""

    start: int
    count: int
    vectors: Path | Floats
    rows: Path | Texts
    prefix: str = ""

    @property
    def stop(self) -> int:
        return self.start + self.count

    def open(self, dim: int | None) -> NDArray[np.floating]:
        """Map the vectors (count, dim) without reading them.

        Raises:
            FormatError: the file is missing, truncated, of another shape, or not of floats.
        """
        if not isinstance(self.vectors, Path):
            return self.vectors
        try:
            # numpy cannot map an array of no rows.
            array: NDArray[np.floating] = read_array(self.vectors, mapped=self.count > 0)
        except (InputError, FormatError) as error:
            raise FormatError(f"{error} {_REMEDY}") from error
        fine = array.ndim == 2 and len(array) == self.count and array.dtype.kind == "f"
        if not fine or (dim is not None and array.shape[1] != dim):
            raise FormatError(
                f"{self.vectors}: expected floats ({self.count}, {dim or 'dimension'}), one row "
                f"for each of {self.rows}, found {array.dtype} {array.shape}. {_REMEDY}"
            )
        return array


_REMEDY = "Embed the images again, or download the pool again."


def open_pool(root: Path) -> Pool:
    """Open a folder of embeddings for searching; this reads the names, but no vectors.

    Embeddings in layout "npy" (one file per image) are loaded into memory, because that layout is
    for small sets.

    Raises:
        InputError: there is no such folder, or there are no embeddings in it.
        FormatError: a shard is missing, truncated or does not fit its rows.
        MissingExtraError: pyarrow is not installed.
    """
    root = embeddings_at_hand(location(root))
    if not root.is_dir():
        raise InputError(
            f"{root}: no such pool. Expected a folder of embeddings, made with: clipdistill embed"
        )
    header = read_header(root)
    files = shard_files(root)
    if not files and any((root / VECTORS).glob("*.npy")):
        raise FormatError(
            f"{root}: vectors in {VECTORS}/, but none of their rows in {ROWS}/. "
            f"A pool needs both. {_REMEDY}"
        )
    if not files or (header is not None and header.layout == "npy"):
        return _pool_in_memory(root)
    return _pool_on_disk(root, header, files)


def _pool_in_memory(root: Path) -> Pool:
    found = load_embeddings(root)
    names = found.rows.keys
    shard = _Shard(0, len(names), normalized(found.vectors), names)
    return Pool(root, found.teacher, (shard,), np.empty(0, np.int64), found)


def _pool_on_disk(root: Path, header: Header | None, files: list[Shard]) -> Pool:
    shards: list[_Shard] = []
    dim = None if header is None else header.teacher.dim
    start = 0
    for one in files:
        with open_parquet(one.rows) as file:
            count = int(file.metadata.num_rows)
            check_card(one.rows, file.schema_arrow, header, one.folder)
        shard = _Shard(start, count, one.vectors, one.rows, one.prefix)
        found = shard.open(dim).shape[1]
        if count:
            dim = found
            shards.append(shard)
            start += count
    if dim is None or not shards:
        raise InputError(f"{root}: no embeddings in it yet. Run `clipdistill embed` to its end.")
    # Only our own rows name their image uniquely; elsewhere two tars may both have a "000.jpg".
    stale = np.empty(0, np.int64) if header is None else _stale_rows(shards)
    teacher = _unknown_teacher(dim) if header is None else header.teacher
    return Pool(root, teacher, tuple(shards), stale)


def teacher_names(pool: Pool, model_name: str | None, pretrained: str | None) -> tuple[str, str]:
    """Name and weights tag of the teacher for a pool's queries: the pool's own, unless named.

    Raises:
        OptionError: the pool does not name its teacher, and no other is named.
    """
    if model_name is not None:
        return model_name, pretrained or ""
    if pool.teacher.fingerprint is None:
        raise OptionError(
            f"{pool.root}: the pool does not name its teacher. Name it with --model-name NAME "
            f"--pretrained TAG (its vectors have {pool.dim} dimensions)."
        )
    return pool.teacher.model_name, pretrained or pool.teacher.pretrained


def _unknown_teacher(dim: int) -> TeacherCard:
    return TeacherCard("unknown", "", None, dim, LogitScale(), Preprocess(224))


def _stale_rows(shards: Sequence[_Shard]) -> Rows:
    """Rows whose image has a later row, ascending; needs 14 bytes per row while it runs."""
    hashes = np.empty(shards[-1].stop, np.int64)
    for shard in shards:
        names = map(hash, _names(shard))
        hashes[shard.start : shard.stop] = np.fromiter(names, np.int64, shard.count)
    order = places_sorting(hashes)
    hashes.sort()
    same = hashes[1:] == hashes[:-1]
    suspects = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
    last: dict[str, int] = {}
    stale: list[int] = []
    for shard in shards:
        mine = suspects[(suspects >= shard.start) & (suspects < shard.stop)]
        names_here = list(_names(shard)) if len(mine) else []
        for row in mine.tolist():
            name = names_here[row - shard.start]
            if name and name in last:
                stale.append(last[name])
            last[name] = row
    return np.sort(np.asarray(stale, np.int64))


def _names(shard: _Shard) -> Iterator[str]:
    if not isinstance(shard.rows, Path):
        yield from shard.rows
        return
    before = f"{shard.prefix}/" if shard.prefix else ""
    with open_parquet(shard.rows) as file, reading_parquet(shard.rows):
        if "image_path" not in file.schema_arrow.names:
            yield from [""] * shard.count
            return
        for batch in file.iter_batches(columns=["image_path"]):
            for name in texts(batch.column(0), "image_path"):
                yield f"{before}{name}" if name else ""


class Pool:
    """Embeddings that can be searched; made by `open_pool`, and safe to share between threads.

    Attributes:
        root: the folder.
        teacher: the teacher that made the vectors; its fingerprint is None when it is unknown.
    """

    def __init__(
        self,
        root: Path,
        teacher: TeacherCard,
        shards: tuple[_Shard, ...],
        stale: Rows,
        loaded: Embeddings | None = None,
    ) -> None:
        self.root = root
        self.teacher = teacher
        self._shards = shards
        self._starts = np.array([shard.start for shard in shards], np.int64)
        self._stale = stale
        self._loaded = loaded
        # Factor that scales each row to unit length: 0 not computed yet, NaN for rows never found.
        self._scales = np.zeros(self.stored, np.float32)
        self._tables = _Tables()
        self._mapped = Mapped(lambda place: shards[place].open(teacher.dim))

    def __len__(self) -> int:
        """The number of images: the stored rows without the stale ones."""
        return self.stored - len(self._stale)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.teacher.dim

    @property
    def stored(self) -> int:
        """The number of rows, including stale ones; row numbers are below it."""
        return self._shards[-1].stop

    @property
    def broken(self) -> int:
        """The number of rows with NaN or infinite values that `search` or `blocks` met so far."""
        wrong = int(np.isnan(self._scales).sum())
        return wrong - int(np.isnan(self._scales[self._stale]).sum())

    def search(
        self, queries: Floats, k: int, *, workers: int | None = None, chunk_rows: int = CHUNK_ROWS
    ) -> Found:
        """Find the `k` most similar rows of each query, exactly.

        Rows that are stale or hold NaN or infinite values are never found.

        Args:
            queries: float32 (Q, D) of unit length.
            k: number of rows per query.
            workers: number of threads; default: one per processor, at most 16.
            chunk_rows: rows that are converted to float32 at a time.

        Raises:
            InputError: `k` is below 1, or queries are not finite or not of unit length.
            MismatchError: the queries have another dimension than the pool.
            FormatError: a shard was changed or cut short since the pool was opened.
        """
        queries = self._checked(queries, k)
        k = min(k, self.stored)
        size = max(1, min(QUERIES_AT_ONCE, FOUND_AT_ONCE // k))
        groups = range(0, len(queries), size)
        parts = [
            self._search(
                queries[first : first + size],
                k,
                default_workers() if workers is None else max(1, workers),
                max(1, chunk_rows),
            )
            for first in groups
        ]
        return Found(
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.rows for part in parts]),
        )

    def vectors(self, rows: Sequence[int] | Rows) -> Floats:
        """Return the vectors of `rows`, float32 (n, D) of unit length.

        Raises:
            InputError: a row number does not exist.
        """
        wanted = self._known(rows)
        result = np.empty((len(wanted), self.dim), np.float32)
        for shard, places in self._by_shard(wanted):
            result[places] = self._open(shard)[wanted[places] - shard.start]
        return normalized(result)

    def blocks(self, chunk_rows: int = 4096) -> Iterator[tuple[Rows, Floats]]:
        """Stream the pool: row numbers (n,) and their vectors, float32 (n, D) of unit length.

        Rows that are stale or hold NaN or infinite values are left out.
        """
        buffer = Buffer(chunk_rows, self.dim)
        for shard in self._shards:
            vectors = self._open(shard)
            for start in range(0, shard.count, chunk_rows):
                source = vectors[start : start + chunk_rows]
                groups = buffer.groups(source)
                scales = self._scale(shard.start + start, groups, source)
                fine = np.flatnonzero(np.isfinite(scales))
                rows = groups.reshape(-1, self.dim)[fine]
                yield shard.start + start + fine, rows * scales[fine, None]

    def metadata(self, rows: Sequence[int] | Rows) -> list[PoolRow]:
        """Return the metadata of `rows`, in their order.

        Raises:
            InputError: a row number does not exist.
            FormatError: a metadata file cannot be read.
        """
        wanted = self._known(rows)
        result: list[PoolRow] = [PoolRow("")] * len(wanted)
        for shard, places in self._by_shard(wanted):
            local = wanted[places] - shard.start
            for place, row in zip(places.tolist(), self._tables.read(shard, local), strict=True):
                result[place] = row
        return result

    def names(self) -> Iterator[tuple[int, str]]:
        """Stream row numbers and image paths ("" when unknown); stale rows are left out."""
        stale = set(self._stale.tolist())
        for shard in self._shards:
            for row, name in enumerate(_names(shard), shard.start):
                if row not in stale:
                    yield row, name

    def rows_of(self, keys: Collection[str]) -> dict[str, int]:
        """Map image keys (names below an images folder) to rows, for those that are embedded.

        A pool without a known teacher may hold whole paths.  Then a key stands for the row whose
        path ends with it, if there is only one.
        """
        names = list(keys)
        rows = self.find(names).tolist()
        return {key: row for key, row in zip(names, rows, strict=True) if row >= 0}

    def find(self, keys: Sequence[str]) -> NDArray[np.integer]:
        """Return the row of each image key, int (n,), as `rows_of`; -1 where it is not embedded.

        It streams the pool's names: the memory is that of the keys.
        """
        if not len(keys):
            return np.empty(0, np.int64)
        if self._loaded is not None:
            return find_rows(self._loaded, keys)
        finder = RowFinder(keys, self.stored, by_ends=self.teacher.fingerprint is None)
        for rows, names in self._named():
            finder.add(rows, names)
        return finder.rows()

    def _named(self) -> Iterator[tuple[Rows, Texts]]:
        """Stream row numbers (n,) and image paths in blocks; stale rows are left out."""
        for shard in self._shards:
            left = _names(shard)
            start = shard.start
            while block := list(itertools.islice(left, NAMES_AT_ONCE)):
                rows = np.arange(start, start + len(block))
                fine = ~np.isin(rows, self._stale)
                yield rows[fine], Texts.of(block).take(np.flatnonzero(fine))
                start += len(block)

    def _checked(self, queries: Floats, k: int) -> Floats:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if k < 1:
            raise InputError(f"The number of results should be 1 or more, found {k}.")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise MismatchError(
                f"{self.root} holds vectors of {self.dim} dimensions, but the queries have the "
                f"shape {queries.shape}. Use the pool's own teacher: {self.teacher}."
            )
        if not len(queries):
            raise InputError("No queries were given.")
        lengths = np.linalg.norm(queries, axis=1)
        if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
            raise InputError(
                "Expected finite queries of unit length. Scale them with `zeroshot.normalized`."
            )
        return queries

    def _known(self, rows: Sequence[int] | Rows) -> Rows:
        wanted: Rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.stored:
            raise InputError(
                f"{self.root}: expected row numbers from the rows 0 to {self.stored - 1}, "
                f"found {wanted.min()} to {wanted.max()}."
            )
        return wanted

    def _by_shard(self, wanted: Rows) -> Iterator[tuple[_Shard, NDArray[np.intp]]]:
        """Yield each shard that holds some rows of `wanted`, with their places in `wanted`."""
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owner):
            yield self._shards[number], np.flatnonzero(owner == number)

    def _open(self, shard: _Shard) -> NDArray[np.floating]:
        return self._mapped[int(np.searchsorted(self._starts, shard.start))]

    def _search(self, queries: Floats, k: int, workers: int, chunk_rows: int) -> Found:
        tasks = self._tasks(chunk_rows)
        workers = min(workers, len(tasks))
        turns = itertools.count()  # next() is one step of the interpreter, so threads may share it
        stop = threading.Event()

        def work() -> list[Best]:
            return self._work(queries, k, chunk_rows, tasks, turns, stop)

        if workers == 1:
            return joined([work()])
        with ThreadPoolExecutor(workers, thread_name_prefix="search") as threads:
            try:
                futures = [threads.submit(work) for _ in range(workers)]
                return joined([future.result() for future in futures])
            finally:
                stop.set()

    def _tasks(self, chunk_rows: int) -> list[tuple[_Shard, int, int]]:
        """Parts of shards, in order of their rows."""
        size = max(chunk_rows, TASK_ROWS // chunk_rows * chunk_rows)
        return [
            (shard, start, min(start + size, shard.count))
            for shard in self._shards
            for start in range(0, shard.count, size)
        ]

    def _work(
        self,
        queries: Floats,
        k: int,
        chunk_rows: int,
        tasks: Sequence[tuple[_Shard, int, int]],
        turns: Iterator[int],
        stop: threading.Event,
    ) -> list[Best]:
        """Run one thread: take tasks until there are none; return the best of each tile."""
        tiles = [queries[first : first + TILE] for first in range(0, len(queries), TILE)]
        best = [Best(len(tile), k) for tile in tiles]
        buffer = Buffer(chunk_rows, self.dim)
        for turn in turns:
            if turn >= len(tasks) or stop.is_set():
                break
            shard, first, last = tasks[turn]
            vectors = self._open(shard)
            for start in range(first, last, chunk_rows):
                source = vectors[start : min(start + chunk_rows, last)]
                groups = buffer.groups(source)
                scales = buffer.spread(self._scale(shard.start + start, groups, source))
                for tile, mine in zip(tiles, best, strict=True):
                    mine.add(buffer.products(tile, groups, scales), shard.start + start)
        return best

    def _scale(self, first: int, groups: Floats, source: NDArray[np.floating]) -> Floats:
        """Factors (n,) that scale the rows of a block to unit length; NaN for rows never found."""
        scales = self._scales[first : first + len(source)]
        if not scales.all():
            block = groups.reshape(-1, self.dim)[: len(source)]
            with np.errstate(all="ignore"):
                # One product per row: twice as fast as einsum, which also blocks other threads.
                squares = np.matmul(block[:, None], block[:, :, None])[:, 0, 0]
                fresh = 1 / np.maximum(np.sqrt(squares), np.float32(1e-12))
            fresh[~np.isfinite(squares)] = np.nan
            # `to_float32` converts halves that are not finite to 65536 and more.
            large = np.flatnonzero(~(squares < LARGEST_HALF**2))
            fresh[large[~np.isfinite(source[large]).all(axis=1)]] = np.nan
            near, after = np.searchsorted(self._stale, [first, first + len(source)])
            fresh[self._stale[near:after] - first] = np.nan
            scales[:] = fresh
        return scales


class _Tables:
    """Reads rows of metadata, and caches the tables that were read last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], pyarrow.Table] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: _Shard, local: Rows) -> list[PoolRow]:
        """Return the metadata of the rows `local` of a shard, in their order."""
        if not isinstance(shard.rows, Path):
            names = shard.rows
            return [PoolRow(names[index]) for index in local.tolist()]
        result: list[PoolRow] = [PoolRow("")] * len(local)
        start = 0
        for group, count in enumerate(self._groups(shard.rows)):
            places = np.flatnonzero((local >= start) & (local < start + count))
            if len(places):
                table = self._table(shard.rows, group)
                with reading_parquet(shard.rows):
                    rows = _pool_rows(table.take(local[places] - start))
                for place, row in zip(places.tolist(), rows, strict=True):
                    if shard.prefix and row.image_path:
                        row = replace(row, image_path=f"{shard.prefix}/{row.image_path}")
                    result[place] = row
            start += count
        return result

    def _groups(self, path: Path) -> list[int]:
        with open_parquet(path) as file:
            about = file.metadata
            return [about.row_group(n).num_rows for n in range(about.num_row_groups)]

    def _table(self, path: Path, group: int) -> pyarrow.Table:
        with self._lock:
            table = self._kept.pop((path, group), None)
            if table is None:
                with open_parquet(path) as file, reading_parquet(path):
                    table = file.read_row_group(group)
            self._kept[path, group] = table
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > TABLE_CACHE:
                self._kept.popitem(last=False)
        return table


def _pool_rows(table: pyarrow.Table) -> list[PoolRow]:
    """Convert a metadata table of any origin to rows; column names are matched in any case.

    Raises:
        FormatError: a column of texts holds something else.
    """
    known: dict[str, list[str | None]] = {}
    extra: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        lower = name.lower()
        if lower in ("image_path", "url", "caption") and lower not in known:
            known[lower] = texts(column, name)
        else:
            extra[name] = [_plain(value) for value in column.to_pylist()]
    captions = extra.get("TEXT") or extra.get("text")
    if "caption" not in known and captions:
        known["caption"] = [str(value or "") for value in captions]
    return [
        PoolRow(
            **{name: values[place] or "" for name, values in known.items()},
            extra={name: values[place] for name, values in extra.items()},
        )
        for place in range(table.num_rows)
    ]


def _plain(value: Any) -> Any:
    """Convert a value of a stranger's table to a JSON value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
