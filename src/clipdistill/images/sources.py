"""Finding images: a folder (searched recursively), WebDataset tars, files, globs, braces.

Folders and tars may lie in object storage (`core.storage`).
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import tarfile
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, ImageError, InputError
from ..core.node_cache import unpacked
from ..core.progress import message
from ..core.storage import Entry, RemotePath, entry_of, read_member, scan
from ..core.texts import BLOCK, Texts
from .decode import AVIF_ENDINGS, HEIF_ENDINGS, endings
from .patterns import expand_braces, fits, is_pattern, may_fit_below, split_pattern
from .tars import tar_members

MAX_BYTES = 3 << 29
"""Bytes of an encoded image above which it is not read: 179 megapixels of RGBA with 16 bits."""

COMPRESSED_TARS = (".tar.gz", ".tgz")
"""Endings of compressed tars; they are unpacked once per machine (`core.node_cache`)."""
TARS_AT_ONCE = 8
"""Tars in object storage whose members are listed at the same time."""

LARGEST = (1 << 63) - 1
"""Largest size or position that a listing holds."""

_NOT_READ = """
.3fr .arw .bpg .cr2 .cr3 .crw .cur .dcm .dcr .dds .dng .emf .eps .erf .exr .fits .flif
.hdp .hdr .heics .icns .ico .iiq .j2c .j2k .jls .jp2 .jpc .jpf .jpm .jpx .jxl .jxr
.kdc .mos .mrw .nef .nrw .orf .pam .pbm .pcx .pef .pfm .pgm .pnm .ppm .psb .psd .qoi
.raf .ras .raw .rw2 .rwl .sgi .sr2 .srf .srw .svg .svgz .tga .wdp .wmf .x3f .xbm .xcf
.xpm
"""
NOT_READ = frozenset(_NOT_READ.split())
"""File name endings of images that are counted but not read, beside those in `decode` whose decoder
is not installed."""


@dataclass(frozen=True)
class ImageItem:
    """One image that was found.

    Attributes:
        key: its name below the source, with forward slashes ("cats/1.jpg", "00000.tar/1.jpg").
        path: the file, or the tar that holds it.
        size: bytes of the encoded image.
        mtime_ns: modification time of `path` in nanoseconds.
        offset: position of its first byte in a tar; None for a file of its own.
        problem: why it cannot be read, where that is known from the listing; usually empty.
    """

    key: str
    path: Path
    size: int
    mtime_ns: int
    offset: int | None = None
    problem: str = ""

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises:
            ImageError: it cannot be read (deleted, permissions, a truncated tar, not a regular
                file, more than `MAX_BYTES`).
        """
        if self.problem:
            raise ImageError(self.problem)
        try:
            if isinstance(self.path, RemotePath) and not _is_compressed(self.path.name):
                return _fetched(self, self.path)
            if self.offset is None:
                return read_file(self.path)
            if self.size > MAX_BYTES:
                raise ImageError(_over_limit(self.size))
            with open_regular(self.path) as handle:
                handle.seek(self.offset)
                data = handle.read(self.size)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from error
        except (MemoryError, OverflowError) as error:
            raise ImageError("there is not enough memory to read it") from error
        if len(data) != self.size:
            raise ImageError(f"the tar ends after {len(data)} of {self.size} bytes")
        return data


def _fetched(item: ImageItem, path: RemotePath) -> bytes:
    """The bytes of an image in object storage.

    Raises:
        ImageError: there is no such object (any more), it may not be read, is too large or too
            short.
        ServiceError: the store fails.
    """
    if item.size > MAX_BYTES:
        raise ImageError(_over_limit(item.size))
    try:
        if item.offset is None:
            data = path.read_range(0, item.size)
        else:
            data = read_member(path, item.offset, item.size, item.mtime_ns)
    except FileNotFoundError as error:
        raise ImageError("cannot be read: there is no such object any more") from error
    except InputError as error:
        raise ImageError(f"cannot be read: {error}") from error
    if len(data) != item.size:
        raise ImageError(f"the object ends after {len(data)} of its {item.size} bytes")
    return data


class _Numbers:
    """Collects integers of 64 bits in a column of as few bytes each as they need."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.integer]] = []
        self._last = array("q")

    def add(self, number: int) -> None:
        """Add one."""
        self._last.append(number)
        if len(self._last) == BLOCK:
            self._pack()

    def column(self) -> NDArray[np.integer]:
        """Take all of them out, integers (N,)."""
        self._pack()
        column = np.concatenate([np.empty(0, np.uint32), *self._blocks])
        self._blocks.clear()
        return column

    def _pack(self) -> None:
        block = np.array(self._last, np.int64)
        self._last = array("q")
        if not len(block):
            return
        low, high = int(block.min()), int(block.max())
        kinds = (np.uint32, np.int32, np.int64)
        self._blocks.append(block.astype(next(k for k in kinds if _fits(low, high, k))))


def _fits(low: int, high: int, kind: type[np.integer]) -> bool:
    return np.iinfo(kind).min <= low and high <= np.iinfo(kind).max


class Listing(Sequence[ImageItem]):
    """Images that were found, in columns: 16 to 28 bytes each beside the key.

    An `ImageItem` is made when it is read.

    Attributes:
        keys: their keys.
        sizes: bytes of each, uint32 or int64 (N,).
        times: modification times in nanoseconds, int64 (N,).
    """

    __slots__ = ("_offsets", "_paths", "_places", "_problems", "_root", "keys", "sizes", "times")

    def __init__(
        self,
        root: Path,
        keys: Texts,
        sizes: NDArray[np.integer],
        times: NDArray[np.int64],
        paths: Sequence[Path] = (),
        places: NDArray[np.int32] | None = None,
        offsets: NDArray[np.int64] | None = None,
        problems: dict[int, str] | None = None,
    ) -> None:
        """Store columns.

        Args:
            root: folder of the images.
            keys: see the class.
            sizes: see the class.
            times: see the class.
            paths: files whose names do not follow from root and key, such as tars.
            places: int32 (N,), number of each image's file in `paths`; -1: root / key.
                None: all -1.
            offsets: int64 (N,), position in a tar; -1 for files of their own. None: all -1.
            problems: place of an image -> why it cannot be read.
        """
        self._root, self.keys, self.times = root, keys, times
        small = not len(sizes) or (sizes.min() >= 0 and sizes.max() < 1 << 32)
        self.sizes: NDArray[np.integer] = sizes.astype(np.uint32, copy=False) if small else sizes
        self._paths, self._places, self._offsets = paths, places, offsets
        self._problems = problems or {}

    @classmethod
    def of(cls, root: Path, items: Iterable[ImageItem]) -> Listing:
        """Store items, which are read once, sorted by key."""
        if isinstance(items, Listing):
            return items
        sizes, times, offsets, places = (_Numbers() for _ in range(4))
        paths: list[Path] = []
        problems: dict[int, str] = {}
        folder = str(root / "x")[:-1]

        def keys() -> Iterator[str]:
            for number, item in enumerate(items):
                if item.problem:
                    problems[number] = item.problem
                own = str(item.path) == folder + item.key
                if not own and not (paths and paths[-1] is item.path):
                    paths.append(item.path)
                offset = -1 if item.offset is None else item.offset
                if max(item.size, offset) > LARGEST:  # a damaged header can claim any size
                    problems.setdefault(number, _over_limit(item.size))
                sizes.add(min(item.size, LARGEST))
                times.add(item.mtime_ns)
                offsets.add(min(offset, LARGEST))
                places.add(-1 if own else len(paths) - 1)
                yield item.key

        names = Texts.of(keys())
        starts = offsets.column()
        found = cls(
            root,
            names,
            sizes.column(),
            times.column().astype(np.int64, copy=False),
            paths,
            places.column().astype(np.int32, copy=False) if paths else None,
            starts.astype(np.int64, copy=False) if (starts >= 0).any() else None,
            problems,
        )
        if names.ascending():
            return found
        every = list(names)
        return found.take(np.array(sorted(range(len(every)), key=every.__getitem__), np.intp))

    def take(self, places: NDArray[np.integer]) -> Listing:
        """The images at `places`, int (n,), in that order."""
        problems = {}
        if self._problems:
            problems = {
                new: self._problems[old]
                for new, old in enumerate(places.tolist())
                if old in self._problems
            }
        return Listing(
            self._root,
            self.keys.take(places),
            self.sizes[places],
            self.times[places],
            self._paths,
            None if self._places is None else self._places[places],
            None if self._offsets is None else self._offsets[places],
            problems,
        )

    def tars(self) -> list[Path]:
        """The tars that hold some of the images."""
        return list(dict.fromkeys(path for path in self._paths if is_tar(path.name)))

    def in_tars(self) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
        """A number for each image's tar, int (N,), and its offset in it; None unless all have one.

        Images of one tar follow one another.
        """
        if self._places is None or self._offsets is None or (self._offsets < 0).any():
            return None
        return self._places, self._offsets

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> ImageItem: ...
    @overload
    def __getitem__(self, index: slice) -> Listing: ...
    def __getitem__(self, index: int | slice) -> ImageItem | Listing:
        """One image, or some of them."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]
        return self._item(place, self.keys[place])

    def __iter__(self) -> Iterator[ImageItem]:
        for place, key in enumerate(self.keys):
            yield self._item(place, key)

    def _item(self, place: int, key: str) -> ImageItem:
        number = -1 if self._places is None else int(self._places[place])
        offset = -1 if self._offsets is None else int(self._offsets[place])
        return ImageItem(
            key,
            self._root / key if number < 0 else self._paths[number],
            int(self.sizes[place]),
            int(self.times[place]),
            None if offset < 0 else offset,
            self._problems.get(place, ""),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} images>"


def _over_limit(size: int) -> str:
    return f"{size} bytes is over the limit of {MAX_BYTES:,}"


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file of at most `MAX_BYTES`.

    Raises:
        ImageError: it is too large, or a device, pipe or socket, which may be endless.
        OSError: it cannot be opened or read.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_BYTES:
            raise ImageError(_over_limit(size))
        return handle.read(size)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; devices and pipes, which may hang, are not opened.

    A compressed tar is opened unpacked, an object of a store in blocks.

    Raises:
        ImageError: it is not a regular file.
        FormatError: it is a compressed tar that cannot be unpacked.
        OSError: it cannot be opened.
        ServiceError: the store fails.
    """
    if _is_compressed(path.name):
        path = unpacked(path)
    if isinstance(path, RemotePath):
        return path.reader()
    _check_regular(path.stat())
    # Checked again once it is open, when no other can take its place.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = open(os.open(path, flags), "rb")  # noqa: SIM115  (the caller closes it)
    try:
        _check_regular(os.fstat(handle.fileno()))
    except ImageError:
        handle.close()
        raise
    return handle


def _check_regular(status: os.stat_result) -> None:
    problem = _irregular(status)
    if problem:
        raise ImageError(problem)


def _irregular(status: os.stat_result) -> str:
    """Say what a path is that is not a regular file; empty when it is one."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return ""
    kinds = (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a folder"),
    )
    kind = next((name for test, name in kinds if test(mode)), "a device")
    return f"not a file but {kind}"


def content_id(data: bytes) -> str:
    """Name the bytes of a file: 32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def printable(name: str) -> str:
    r"""Convert a name to valid Unicode: bytes that are not UTF-8 are written as \xNN.

    Keys are written to JSON, parquet and the terminal, which refuse Python's surrogates for such
    bytes.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def is_picture(name: str) -> bool:
    """Whether a file name has an ending of `endings()`, in any case; hidden files do not count."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(endings()) and not base.startswith(".")


def _left_out(name: str) -> str:
    """The ending of an image that is not read; empty for other files and hidden ones."""
    base = name.rsplit("/", 1)[-1]
    ending = os.path.splitext(base)[1].lower()
    known = ending in NOT_READ or ending in AVIF_ENDINGS or ending in HEIF_ENDINGS
    return ending if known and not base.startswith(".") and ending not in endings() else ""


def _describe(left_out: Counter[str]) -> str:
    """Count images that are not read, by ending, with what would make them readable."""
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(left_out.items()))
    hints = [f"{counts}: not read."]
    if left_out.keys() & set(HEIF_ENDINGS):
        hints.append("For HEIC, install pillow-heif.")
    if left_out.keys() & set(AVIF_ENDINGS):
        hints.append("For AVIF, install Pillow 11.3 or later.")
    if left_out.keys() - {*HEIF_ENDINGS, *AVIF_ENDINGS}:
        hints.append("Convert them to JPEG or PNG to use them.")
    return " ".join(hints)


def list_images(root: Path) -> Listing:
    """List the images of a folder, of the tars in it, or of one tar, sorted by key.

    Args:
        root: the folder or tar; also a glob or braces ("shards/{000..012}.tar"), of which the keys
            are names below the folder before the first special character.  A name that braces
            stand for and that is missing gets a row with that reason.

    Raises:
        InputError: `root` does not exist or holds no image, or its braces are malformed.
        ServiceError: the store of a URL fails.
    """
    left_out: Counter[str] = Counter()
    if not _exists(root):
        if not is_pattern(str(root)):
            raise InputError(
                f"{root}: no such folder. Expected a folder of images or WebDataset tars."
            )
        items = _of_pattern(root, left_out)
    elif root.is_dir():
        items = Listing.of(root, _in_folder(root, left_out))
    elif is_tar(root.name):
        items = Listing.of(root.parent, _in_tar(root, printable(root.name), left_out))
    else:
        raise InputError(f"{root}: expected a folder of images or a .tar, found a file.")
    if not items:
        found = f" Found {_describe(left_out)}" if left_out else ""
        raise InputError(
            f"{root}: no images found. Expected files {', '.join(endings())} (or .tar) in it or "
            f"in a folder below it.{found}"
        )
    if left_out:
        _mention(f"{root}: {_describe(left_out)}")
    return items


def images_folder(root: Path) -> Path:
    """Return the folder below which all images of `root` lie: of `list_images`."""
    if _exists(root):
        return root
    names = len(split_pattern(str(root))[1]) if is_pattern(str(root)) else 0
    return root.parents[names - 1] if names else root


def is_tar(name: str) -> bool:
    """Whether a file name is that of a tar, compressed or not."""
    return name.lower().endswith((".tar", *COMPRESSED_TARS))


def _is_compressed(name: str) -> bool:
    return name.lower().endswith(COMPRESSED_TARS)


def _exists(path: Path) -> bool:
    return path.exists() if isinstance(path, RemotePath) else os.path.exists(path)


class _Chosen:
    """The files and folders below a folder that a pattern names."""

    def __init__(self, patterns: Iterable[str]) -> None:
        names = [tuple(pattern.split("/")) for pattern in patterns]
        self.globs = [one for one in names if is_pattern("/".join(one))]
        self.missing = dict.fromkeys(one for one in names if not is_pattern("/".join(one)))
        self._exact = set(self.missing)
        self._folders = {one[:length] for one in self._exact for length in range(1, len(one))}

    def takes(self, names: tuple[str, ...]) -> bool:
        """Whether a file, or all of a folder, is named; the named ones are no longer missing."""
        self.missing.pop(names, None)
        return names in self._exact or any(fits(names, pattern) for pattern in self.globs)

    def leads_on(self, names: tuple[str, ...]) -> bool:
        """Whether something in a folder may be named."""
        return names in self._folders or any(may_fit_below(names, one) for one in self.globs)


def _of_pattern(root: Path, left_out: Counter[str]) -> Listing:
    """List the images of a glob or of braces.

    Raises:
        InputError: nothing fits, or the braces are malformed.
    """
    _, rest = split_pattern(str(root))
    folder = images_folder(root)
    chosen = _Chosen(expand_braces("/".join(rest), str(root)))
    found = Listing.of(folder, _in_folder(folder, left_out, chosen))
    if not found:
        raise InputError(f"{root}: it fits no image and no tar in {folder}.")
    absent = [
        ImageItem("/".join(names), folder.joinpath(*names), 0, 0, problem="there is no such file")
        for names in chosen.missing
    ]
    return Listing.of(folder, sorted([*found, *absent], key=_key)) if absent else found


def _key(item: ImageItem) -> str:
    return item.key


@lru_cache(maxsize=64)
def _mention(text: str) -> None:
    """Show a message once per process: verbs list the same folder several times."""
    message(text)


def match_images(patterns: Sequence[str]) -> list[ImageItem]:
    """List the images of file names, folders and globs, in the order given.

    A named file is listed whatever its ending is, so that a wrong one gets its own message.

    Raises:
        InputError: a named file does not exist, or a glob matches nothing.
    """
    items: list[ImageItem] = []
    for pattern in patterns:
        path = Path(pattern)
        if os.path.isdir(path) or (os.path.isfile(path) and path.suffix.lower() == ".tar"):
            items += list_images(path)
        elif os.path.exists(path):
            items.append(_of_file(path, printable(pattern)))
        else:
            found = sorted(glob.glob(pattern, recursive=True))
            files = [name for name in found if not os.path.isdir(name)]
            if not files:
                what = "it matches folders only" if found else "no such image, folder or glob"
                raise InputError(f"{pattern}: {what}. Name images, a folder of them, or *.jpg.")
            items += [_link_safe(Path(name), printable(name)) for name in files]
    return items


def _of_file(path: Path, key: str) -> ImageItem:
    status = path.stat()
    problem = _irregular(status)
    return ImageItem(key, path, status.st_size, status.st_mtime_ns, problem=problem)


def _in_folder(
    root: Path, left_out: Counter[str], chosen: _Chosen | None = None
) -> Iterator[ImageItem]:
    """The images of a folder and the folders below it, mostly in the order of their keys."""
    found = _files(root, chosen)
    if isinstance(root, RemotePath):
        yield from _listed_ahead(found, left_out)
        return
    for file in found:
        yield from _items(file, left_out)


@dataclass(frozen=True)
class _File:
    """A file below a folder, with what a store tells of it."""

    path: Path
    key: str
    entry: Entry | None


def _files(root: Path, chosen: _Chosen | None) -> Iterator[_File]:
    """The files of a folder and the folders below it; with `chosen` those that it takes."""
    folders = [(_entries(root), chosen)]
    while folders:
        entries, choice = folders[-1]
        found = next(entries, None)
        if found is None:
            folders.pop()
            continue
        path, name, is_folder, entry = found
        below = path.relative_to(root)
        taken = choice is None or choice.takes(below.parts)
        if is_folder:
            inner = None if taken else choice
            if inner is not None and not inner.leads_on(below.parts):
                continue
            if not name.startswith(".") and not _loops(path):
                folders.append((_entries(path), inner))
        elif taken:
            yield _File(path, printable(below.as_posix()), entry)


def _items(file: _File, left_out: Counter[str]) -> list[ImageItem]:
    """The images of a file: none, one, or those of a tar."""
    name = file.path.name
    if is_tar(name):
        return _in_tar(file.path, file.key, left_out, file.entry)
    if is_picture(name):
        if file.entry is None:
            return [_link_safe(file.path, file.key)]
        return [ImageItem(file.key, file.path, file.entry.size, file.entry.version)]
    if ending := _left_out(name):
        left_out[ending] += 1
    return []


def _listed_ahead(files: Iterator[_File], left_out: Counter[str]) -> Iterator[ImageItem]:
    """The images of files in object storage; several tars are listed at the same time."""

    def listed(file: _File) -> tuple[list[ImageItem], Counter[str]]:
        count: Counter[str] = Counter()
        return _items(file, count), count

    waiting: deque[Future[tuple[list[ImageItem], Counter[str]]]] = deque()
    pool = ThreadPoolExecutor(TARS_AT_ONCE, thread_name_prefix="tars")
    try:
        while True:
            while len(waiting) < TARS_AT_ONCE and (file := next(files, None)) is not None:
                waiting.append(pool.submit(listed, file))
            if not waiting:
                return
            items, count = waiting.popleft().result()
            left_out.update(count)
            yield from items
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _entries(folder: Path) -> Iterator[tuple[Path, str, bool, Entry | None]]:
    """Path, name, whether it is a folder, what a store tells: what is in a folder, by key."""
    if isinstance(folder, RemotePath):
        stored = [(_order(one.path.name, one.is_folder), one) for one in scan(folder)]
        for _, one in sorted(stored, key=lambda pair: pair[0]):
            yield one.path, one.path.name, one.is_folder, one
        return
    found: list[tuple[str, str, bool]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False
                found.append((_order(entry.name, is_folder), entry.name, is_folder))
    except OSError as error:
        _refuse(error)
    for _, name, is_folder in sorted(found):
        yield folder / name, name, is_folder, None


def _order(name: str, is_folder: bool) -> str:
    """What the keys of a file, or of all in a folder or tar, begin with."""
    return printable(name) + ("/" if is_folder or is_tar(name) else "")


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"{error.filename}: this folder cannot be read ({error.strerror}). Change its permissions, "
        "or take it out of the images."
    ) from error


def _loops(path: Path) -> bool:
    """Whether a folder is a link to one of its own parents."""
    if isinstance(path, RemotePath):
        return False
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _link_safe(path: Path, key: str) -> ImageItem:
    """Make the item of a file; one that vanished or is a dangling link gets a row with a reason."""
    try:
        return _of_file(path, key)
    except OSError:
        return ImageItem(key, path, 0, 0)


def _in_tar(
    path: Path, key: str, left_out: Counter[str], entry: Entry | None = None
) -> list[ImageItem]:
    """List the images of a tar.

    A damaged member gives a row of its own, and a tar that is cut short or damaged between its
    members gives one for the tar.  A later member of the same name replaces the earlier, as when
    unpacking.  No name leads out of the tar.
    """
    items: dict[str, ImageItem] = {}
    try:
        with open_regular(path) as file:
            if entry is None and isinstance(path, RemotePath):
                entry = entry_of(path)
            time = path.stat().st_mtime_ns if entry is None else entry.version
            for member in tar_members(file, file.seek(0, os.SEEK_END)):
                if not member.name:
                    problem = f"cut short or damaged ({member.problem})"
                    items.setdefault(key, ImageItem(key, path, 0, 0, problem=problem))
                elif is_picture(member.name):
                    parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
                    name = printable("/".join([key, *parts]))
                    items[name] = ImageItem(
                        name, path, member.size, time, member.offset, member.problem
                    )
                elif ending := _left_out(member.name):
                    left_out[ending] += 1
    except (InputError, FormatError) as error:
        items[key] = ImageItem(key, path, 0, 0, problem=str(error))
    # A damaged header can name any size and any character set.
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        problem = f"cut short, or not an uncompressed tar ({error})"
        items[key] = ImageItem(key, path, 0, 0, problem=problem)
    return sorted(items.values(), key=lambda item: item.key)
