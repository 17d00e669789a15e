"""Object storage: paths such as s3://bucket/folder, which fsspec reads and writes.

A `RemotePath` has the methods of a `Path` that clipdistill uses, so that what reads and writes
files need not distinguish them.  What needs a file of this machine (`open`, memory-mapping) gets an
error that names the path, or a copy: see `core.node_cache`.

Objects appear whole or not at all, so writing one is atomic.  fsspec is imported when a path with a
scheme is used, and only the schemes of `SCHEMES` are opened: no pipes, no chains ("a::b"), no local
files behind a URL of a store.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import io
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import (
    ClipDistillError,
    InputError,
    MissingExtraError,
    OptionError,
    OutputError,
    ServiceError,
    first_line,
)
from .storage_errors import (
    ADDRESS,
    beyond_the_end,
    no_connection,
    reason,
    refusal,
)

if TYPE_CHECKING:
    LocalPath = Path
else:
    LocalPath = type(Path())

SCHEMES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""Schemes of stores, and the package that opens each."""
IN_MEMORY = "memory"
"""fsspec's store in the memory of this process, for tests."""
READ_ONLY = {
    "hf": "hf:// can only be read: every file that is written to the hub is a commit, and nothing "
    "there can be locked. Choose another output; `hf upload` copies it to the hub afterwards."
}
"""Schemes of stores that are not written to, and why."""
BLOCK = 4 << 20
"""Bytes that are read at once from a large object."""
BLOCKS = 16
"""Blocks that are kept, for all objects together."""
TRIES = 4
"""Attempts of a request, beside those that the store's own package makes."""
PAUSE = 0.5
"""Seconds before the second attempt; doubled before each further one."""
MOST_TIME = (1 << 31) * 1_000_000_000
"""Nanoseconds that every file system takes as the time of a file; a multiple of 1000."""
PATIENCE = 120.0
"""Seconds after which there is no further attempt: a store that does not answer takes long."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_Value = TypeVar("_Value")


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether a text begins with a scheme, also where a `Path` has joined its slashes."""
    return bool(_URL.match(str(text)))


def location(name: str | os.PathLike[str]) -> Path:
    """Return the path that a text names: of this machine, or a `RemotePath`.

    file:///home/me/photos is a path of this machine.

    Raises:
        OptionError: the scheme is unknown, or several are chained.
    """
    if isinstance(name, RemotePath):
        return name
    text = os.fspath(name)
    found = _URL.match(text)
    if text.startswith("pipe:") or ("::" in text and ":/" in text):
        raise OptionError(
            f"{text}: expected one path or URL. Commands (pipe:) and chains (::) are never opened."
        )
    if found is None:
        return Path(text)
    scheme, rest = found[1].lower(), text[found.end() :]
    url = f"{found[1]}://{rest}"
    if scheme == "file":
        return Path("/" + rest)
    if scheme not in SCHEMES and scheme != IN_MEMORY:
        known = ", ".join(f"{one}://" for one in (*SCHEMES, "file"))
        raise OptionError(f"{url}: expected a path, or a URL that begins with {known}.")
    if not rest.strip("/"):
        raise OptionError(f"{url}: expected the name of a bucket after {scheme}://.")
    if ".." in rest.split("/"):
        raise OptionError(f"{url}: expected a URL without '..'.")
    return RemotePath(f"{scheme}:/{rest}")


def absolute_name(path: Path) -> str:
    """Return the text that names `path` from any working folder; see `location`."""
    return str(path) if isinstance(path, RemotePath) else os.path.abspath(path)


@dataclass(frozen=True)
class Entry:
    """What a folder of a store holds.

    Attributes:
        path: of the object or folder.
        is_folder: whether it is a folder.
        size: bytes of an object.
        version: another number after each change: nanoseconds of the last one.  Stores that count
            in seconds get microseconds that follow from the checksum, those without times (hf://) a
            number that follows from it alone.  In gs:// it is the generation, which is in
            microseconds.  0 when unknown.
    """

    path: RemotePath
    is_folder: bool
    size: int
    version: int


class RemotePath(LocalPath):
    """The path of an object, or of what its name makes a folder; made by `location`."""

    __slots__ = ()

    def __str__(self) -> str:
        """The URL; of a relative path, only the names."""
        text = super().__str__()
        scheme, separator, rest = text.partition(":/")
        known = scheme in SCHEMES or scheme == IN_MEMORY
        return f"{scheme}://{rest}" if separator and known else text

    def __fspath__(self) -> str:
        """Refuse to be opened as a file of this machine."""
        raise InputError(
            f"{self}: expected a file or folder of this machine, found a URL. Copy it first."
        )

    def __reduce__(self) -> Any:
        """Pickle as the URL."""
        return (location, (str(self),))

    def absolute(self) -> RemotePath:
        """Return the path itself: a URL is absolute."""
        return self

    def is_dir(self, **_: Any) -> bool:
        """Whether there is anything below it.

        Raises:
            InputError: there is no such bucket, or it may not be read.
        """
        return next(scan(self), None) is not None

    def is_file(self, **_: Any) -> bool:
        """Whether it is an object."""
        return entry_of(self) is not None

    def exists(self, **_: Any) -> bool:
        """Whether it is an object or a folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        """Yield what is in the folder, sorted; nothing when there is no such folder."""
        return iter(sorted(entry.path for entry in scan(self)))

    def rglob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        """Yield the objects below it whose last name fits `pattern`."""
        folders = [self]
        while folders:
            for entry in scan(folders.pop()):
                if entry.is_folder:
                    folders.append(entry.path)
                elif fnmatch.fnmatchcase(entry.path.name, pattern):
                    yield entry.path

    def read_bytes(self) -> bytes:
        """Return the whole object.

        Raises:
            FileNotFoundError: there is none.
        """
        system, name = _opened(self)
        return bytes(_asked(self, lambda: system.cat_file(name)))

    def read_range(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start`; fewer where the object ends before.

        Raises:
            FileNotFoundError: there is no such object.
        """
        if count <= 0:
            return b""
        system, name = _opened(self)
        try:
            data = _asked(self, lambda: system.cat_file(name, start=start, end=start + count))
        except _BeyondTheEnd:
            return b""
        return bytes(data)

    def reader(self, entry: Entry | None = None) -> io.BufferedReader:
        """Open the object for reading at any position; at most `BLOCKS` blocks are in memory.

        Raises:
            FileNotFoundError: there is no such object.
        """
        found = entry or entry_of(self)
        if found is None:
            raise FileNotFoundError(f"{self}: no such object")
        return io.BufferedReader(_Reader(self, found.size, found.version), 1 << 16)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        system, name = _opened(self)
        try:
            _asked(self, lambda: system.rm_file(name), writing=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Delete every object below it."""
        for path in list(self.rglob("*")):
            path.unlink(missing_ok=True)

    def upload(self, source: Path) -> None:
        """Write the object from a file of this machine; readers see it once it is whole."""
        _written(self, lambda system, name: system.put_file(str(source), name))

    def create(self, data: bytes) -> bool:
        """Write a small object unless there is one; returns whether it was written.

        A request whose answer was lost is repeated, and finds what it has written itself: so
        `data` has to be unique.

        Raises:
            NotImplementedError: the store has no such request.
        """
        try:
            _written(self, lambda system, name: system.pipe_file(name, data, mode="create"))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return self.read_bytes() == data
            return False
        return True

    def write_bytes(self, data: Any) -> int:
        """Write a small object."""
        _written(self, lambda system, name: system.pipe_file(name, bytes(data)))
        return len(bytes(data))

    def download(self, target: Path) -> None:
        """Copy the object to a file of this machine, in blocks."""
        entry = entry_of(self)
        if entry is None:
            raise FileNotFoundError(f"{self}: no such object")
        with open(target, "wb") as file:
            for start in range(0, entry.size, BLOCK):
                file.write(self.read_range(start, min(BLOCK, entry.size - start)))


def remove_tree(folder: Path) -> None:
    """Delete a folder with all it holds, as far as possible."""
    if isinstance(folder, RemotePath):
        folder.remove_tree()
        return
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def scan(folder: RemotePath) -> Iterator[Entry]:
    """Yield what is in a folder, unsorted; nothing when there is no such folder.

    Raises:
        InputError: there is no such bucket, or it may not be read.
    """
    system, name = _opened(folder)
    try:
        found = _asked(folder, lambda: system.ls(name, detail=True))
    except FileNotFoundError:
        _check_bucket(folder)
        return
    for about in found:
        last = str(about["name"]).rstrip("/").rsplit("/", 1)[-1]
        own = str(about["name"]).strip("/") == name.strip("/")
        if last not in ("", ".", "..") and "\0" not in last and not own:
            path = folder / last
            assert isinstance(path, RemotePath)
            yield _entry(path, about)


def check_writable(folder: RemotePath) -> None:
    """Check that objects can be written into a folder.

    Raises:
        OutputError: they cannot.
    """
    _opened(folder, writing=True)
    probe = folder / f".clipdistill-tmp-probe-{os.getpid()}"
    assert isinstance(probe, RemotePath)
    probe.write_bytes(b"")
    with contextlib.suppress(ClipDistillError, OSError):  # it may be allowed to write only
        probe.unlink(missing_ok=True)


def _entry(path: RemotePath, about: dict[str, Any]) -> Entry:
    return Entry(
        path, about.get("type") == "directory", int(about.get("size") or 0), _version(about)
    )


def _version(about: dict[str, Any]) -> int:
    generation = str(about.get("generation") or "")
    if generation.isdecimal():
        return int(generation) * 1000 % MOST_TIME  # there are servers that count nanoseconds
    time = _time(about)
    checksum = about.get("ETag") or about.get("blob_id")
    if not checksum or time % 1_000_000_000:
        return time
    digest = hashlib.blake2b(str(checksum).encode(), digest_size=8).digest()
    most = 1_000_000_000 if time else MOST_TIME
    return time + int.from_bytes(digest, "little") * 1000 % most


def _time(about: dict[str, Any]) -> int:
    for key in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = about.get(key)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return int(value.timestamp() * 1_000_000) * 1000
        if isinstance(value, int | float):
            return int(value * 1_000_000) * 1000
    return 0


def entry_of(path: RemotePath) -> Entry | None:
    """What is known of an object; None when there is none."""
    system, name = _opened(path)
    try:
        about = _asked(path, lambda: system.info(name))
    except FileNotFoundError:
        return None
    return None if about.get("type") == "directory" else _entry(path, about)


def _check_bucket(folder: RemotePath) -> None:
    """Refuse a bucket that does not exist; a folder that does not exist is an empty one."""
    system, _ = _opened(folder)
    if folder.parts[0] in (f"{IN_MEMORY}:", "hf:"):
        return
    try:
        _asked(folder, lambda: system.ls(folder.parts[1], detail=True))
    except FileNotFoundError as error:
        raise InputError(_no_bucket(folder)) from error


def _no_bucket(path: RemotePath) -> str:
    return f"{path}: there is no bucket {path.parts[1]!r}. Check its name, or make it first."


def _opened(path: RemotePath, *, writing: bool = False) -> tuple[Any, str]:
    """The file system of a path, and its name there.

    Raises:
        InputError: the path is none of a store, or the settings of the store are wrong.
        OutputError: the store can only be read.
        MissingExtraError: the package of the store is not installed.
    """
    scheme, _, rest = str(path).partition("://")
    if not rest or (scheme not in SCHEMES and scheme != IN_MEMORY) or ".." in rest.split("/"):
        raise InputError(f"{path}: expected the URL of a store, such as s3://bucket/folder.")
    if writing and scheme in READ_ONLY:
        raise OutputError(f"{path}: {READ_ONLY[scheme]}")
    try:
        return _system(scheme), f"/{rest}" if scheme == IN_MEMORY else rest
    except ImportError as error:
        package = (error.name or "fsspec").partition(".")[0]
        raise MissingExtraError(package, "storage", str(path)) from error
    # Each store's package has its own errors, such as of its settings.
    except Exception as error:
        raise InputError(
            f"{path}: {scheme}:// cannot be used ({first_line(error)}). Check its settings."
        ) from error


@functools.cache
def _system(scheme: str) -> Any:
    """The file system of a scheme; nothing of listings is kept in memory.

    Raises:
        ImportError: its package is not installed.
    """
    package = SCHEMES.get(scheme, "fsspec")
    if package == "huggingface_hub":
        from .hub_storage import Hub

        # It warns of every attempt that it repeats.
        logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
        return Hub()
    import fsspec

    if package == "gcsfs":
        # Else it asks each bucket's kind by gRPC, once more for each request where that fails.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs errors that it raises, too
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise ImportError(str(error), name=package) from error


def _written(path: RemotePath, write: Callable[[Any, str], object]) -> None:
    """Send a request that writes an object.

    Raises:
        OutputError: the store can only be read, there is no such bucket, or it may not be written.
        FileExistsError, NotImplementedError, ServiceError: as `_asked`.
    """
    system, name = _opened(path, writing=True)
    try:
        _asked(path, lambda: write(system, name), writing=True)
    except FileNotFoundError as error:
        raise OutputError(_no_bucket(path)) from error


def _asked(path: RemotePath, ask: Callable[[], _Value], *, writing: bool = False) -> _Value:
    """Send a request, again where the store failed.

    Raises:
        FileNotFoundError: there is no such object or bucket.
        FileExistsError: there is one.
        NotImplementedError: the store has no such request.
        InputError: credentials are missing or not sufficient, or the store refuses the name
            (writing: OutputError).
        ServiceError: the store failed `TRIES` times, or cannot be reached.
    """
    attempt, give_up = 0, time.monotonic() + PATIENCE
    while attempt < TRIES and (not attempt or time.monotonic() < give_up):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        attempt += 1
        try:
            answer = ask()
            _answered.add(_protocol(path))
            return answer
        except (ClipDistillError, FileExistsError, FileNotFoundError, NotImplementedError):
            raise
        # Each store's package has its own errors of networks and of services.
        except Exception as error:
            if isinstance(error, TypeError | ImportError):
                raise
            if beyond_the_end(error):
                raise _BeyondTheEnd from error
            if "precondition" in str(error).lower():
                raise FileExistsError(str(error)) from error
            if problem := refusal(_protocol(path), error):
                raise (OutputError if writing else InputError)(f"{path}: {problem}") from error
            last = error
            if no_connection(error) and _protocol(path) not in _answered:
                break
    if no_connection(last):
        raise ServiceError(
            f"{path}: the store cannot be reached ({reason(last)}). Check the network, and "
            f"{ADDRESS[_protocol(path)]} if it is set; then run the same command again."
        ) from last
    raise ServiceError(
        f"{path}: the store failed {attempt} times ({reason(last)}). What was finished before is "
        "kept: run the same command again later."
    ) from last


_answered: set[str] = set()
"""Stores that have answered this process.  For one that never has, the attempts that its package
makes are enough: there is no network, or its address is wrong."""


def _protocol(path: RemotePath) -> str:
    scheme = path.parts[0].rstrip(":")
    return {"s3a": "s3", "gcs": "gs"}.get(scheme, scheme)


class _BeyondTheEnd(Exception):
    """An object ends before the bytes that were asked for."""


class _Blocks:
    """The blocks of objects that were read last; threads share them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], Future[bytes]] = OrderedDict()

    def get(self, path: RemotePath, version: int, number: int) -> bytes:
        """One block of an object, which is read once by all threads; the last is shorter."""
        key = (str(path), version, number)
        with self._lock:
            future = self._kept.get(key)
            mine = future is None
            if future is None:
                future = self._kept[key] = Future()
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
        if mine:
            try:
                future.set_result(path.read_range(number * BLOCK, BLOCK))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
        return future.result()


_blocks = _Blocks(BLOCKS)


def read_member(path: RemotePath, start: int, count: int, version: int) -> bytes:
    """Return `count` bytes of a large object from `start`; fewer where the object ends before.

    Small pieces are read in whole blocks: their neighbours are wanted next.

    Args:
        path: the object.
        start: first byte.
        count: bytes.
        version: see `Entry`.

    Raises:
        FileNotFoundError: there is no such object.
    """
    if count > BLOCK:
        return path.read_range(start, count)
    pieces = []
    end = start + count
    while start < end:
        number, offset = divmod(start, BLOCK)
        piece = _blocks.get(path, version, number)[offset : offset + end - start]
        if not piece:
            break
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


class _Reader(io.RawIOBase):
    """An object, read through `_blocks`."""

    def __init__(self, path: RemotePath, size: int, version: int) -> None:
        self._path, self._size, self._version = path, size, version
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as in a file."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; returns the bytes."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._position, BLOCK)
        if count <= 0:
            return 0
        data = read_member(self._path, self._position, count, self._version)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
