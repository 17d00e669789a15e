"""Copies on this machine of what lies in object storage, and of compressed tars unpacked.

They are in `cache_folder()`, under names that follow from the original's name, size and time, so
that a changed original gets a new copy.  Every process of the machine uses the same copies.  The
copies that were not used for longest are deleted when there are more than `MOST_BYTES`.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import FormatError, OutputError
from .storage import BLOCK, Entry, RemotePath, entry_of, scan

MOST_BYTES = 64 << 30
"""Bytes of copies that are kept, and at most half of what the disk has free."""
PARTIAL = ".clipdistill-tmp-"
COPIED = (".npy", ".parquet", ".json", ".jsonl")
"""Endings of the files of embeddings: nothing else of a folder is copied."""
MOST_TIMES_LARGER = 100
"""Bytes for each byte of a compressed tar above which it is not unpacked: images gain nothing from
compression, and gzip reaches 1000."""

AT_ONCE = 16
"""Objects that are copied at the same time: each is a few megabytes, and waits for its answer."""

_turns = tuple(threading.Lock() for _ in range(64))
"""A copy is made by one thread; the others wait for it."""


def cache_folder() -> Path:
    """The folder of the copies: CLIPDISTILL_CACHE, or clipdistill in the user's cache folder."""
    own = os.environ.get("CLIPDISTILL_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipdistill"


def at_hand(path: Path) -> Path:
    """Return a file of this machine: `path` itself, or a copy of the object.

    Raises:
        FileNotFoundError: there is no such object.
        OutputError: the copy cannot be written.
    """
    if not isinstance(path, RemotePath):
        return path
    entry = entry_of(path)
    if entry is None:
        raise FileNotFoundError(f"{path}: no such object")
    return _copy(entry)


def copy_ahead(paths: Sequence[Path]) -> None:
    """Copy several objects at the same time, for calls of `at_hand` that follow."""
    remote = [path for path in paths if isinstance(path, RemotePath)]
    if remote:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy") as pool:
            for _ in pool.map(at_hand, remote):
                pass


def folder_at_hand(folder: Path, skip: str = "") -> Path:
    """Return a folder of embeddings of this machine: `folder` itself, or a copy of its objects.

    The copy has only what the store has; what changed there is copied anew, and what is gone there
    is deleted.

    Args:
        folder: the folder.
        skip: name of a folder in it that is this machine's own: it is neither copied nor deleted.

    Raises:
        OutputError: a copy cannot be written.
    """
    if not isinstance(folder, RemotePath):
        return folder
    copy = cache_folder() / "folders" / _readable(folder)
    _copy_folder(folder, copy, skip)
    return copy


def staging_folder(store: RemotePath) -> Path:
    """Return the folder of this machine in which an output is prepared; it need not exist."""
    return cache_folder() / "outputs" / _readable(store)


def _readable(folder: RemotePath) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(folder))[-60:]
    return f"{name}-{_digest(str(folder))[:12]}"


def _copy_folder(folder: RemotePath, copy: Path, skip: str) -> None:
    names, files = {skip}, []
    for entry in scan(folder):
        name = entry.path.name
        wanted = entry.is_folder or entry.path.suffix in COPIED
        if name.startswith(".") or name == skip or not wanted:
            continue
        names.add(name)
        if entry.is_folder:
            _copy_folder(entry.path, copy / name, skip)
        elif not _is_copy(copy / name, entry):
            files.append((entry, copy / name))
    if files:
        with _explained(copy):
            copy.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy") as pool:
            for _ in pool.map(_copy_file, *zip(*files, strict=True)):
                pass
    if copy.is_dir():
        for path in copy.iterdir():
            if path.name in names:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix in COPIED:
                path.unlink(missing_ok=True)


def _copy_file(entry: Entry, target: Path) -> None:
    with _explained(target):
        _write(target, entry.path.download)
        os.utime(target, ns=(entry.version, entry.version))


def _is_copy(path: Path, entry: Entry) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size == entry.size and status.st_mtime_ns == entry.version


@functools.lru_cache(maxsize=4096)
def unpacked(path: Path) -> Path:
    """Return a copy of a compressed tar that is not compressed; of a damaged one, its whole start.

    Raises:
        FormatError: it is no gzip file, or claims to be much larger than images make it.
        FileNotFoundError: there is no such file.
        OutputError: the copy cannot be written.
    """
    local = at_hand(path)
    status = local.stat()
    name = f"{os.path.abspath(local)}\n{status.st_size}\n{status.st_mtime_ns}"
    most = MOST_TIMES_LARGER * status.st_size

    def unpack(target: Path) -> None:
        left = most
        with gzip.open(local) as source, open(target, "wb") as file:
            while left >= 0:
                try:
                    piece = source.read1(BLOCK)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    if left == most:
                        raise FormatError(f"cut short, or not a gzip file ({error})") from error
                    return
                if not piece:
                    return
                left -= len(piece)
                file.write(piece)
        raise FormatError(f"unpacked, it has more than {most:,} bytes")

    return _kept("tars", name, ".tar", unpack)


def _copy(entry: Entry) -> Path:
    name = f"{entry.path}\n{entry.size}\n{entry.version}"
    return _kept("objects", name, entry.path.suffix, entry.path.download)


def _kept(kind: str, name: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The copy of a name; `make` writes it where there is none."""
    path = cache_folder() / kind / f"{_digest(name)}{suffix}"
    with _turns[hash(path.name) % len(_turns)], _explained(path):
        if path.exists():
            os.utime(path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, make)
        _room.add(path)
    return path


class _Room:
    """Counts what this process copies, and makes room after each `STEP` bytes."""

    STEP = 1 << 30

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new = self.STEP  # what earlier processes left is not known

    def add(self, path: Path) -> None:
        """Count a copy; the least recently used ones are deleted when there are too many."""
        with self._lock:
            self._new += path.stat().st_size
            if self._new >= self.STEP:
                self._new = 0
                _delete_oldest(path)


_room = _Room()


def _write(path: Path, make: Callable[[Path], None]) -> None:
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        make(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _delete_oldest(keep: Path) -> None:
    """Delete the copies that were not used for longest, until the others are few enough."""
    found = []
    for path in keep.parent.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    disk = os.statvfs(keep.parent) if hasattr(os, "statvfs") else None
    free = disk.f_bavail * disk.f_frsize if disk else MOST_BYTES
    most = min(MOST_BYTES, (total + free) // 2)
    for _, size, path in sorted(found):
        if total <= most:
            break
        if path != keep:
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path}: a copy of what lies in object storage cannot be written ({error}). Set "
            "CLIPDISTILL_CACHE to a folder with space."
        ) from error


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).hexdigest()
