"""Atomic files: clipdistill writes every file with the functions of this module.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed.  A
reader sees the old file or the new one, never half of one, even when the writer is killed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import tempfile
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FormatError, InputError, OutputError
from .node_cache import at_hand
from .storage import RemotePath, check_writable

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPORARY_PREFIX = ".clipdistill-tmp-"
"""Prefix of temporary files; those that a killed writer left behind may be deleted."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
"""Error numbers of a full disk; errors of numpy's short writes have none."""

_counter = itertools.count()


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Convert the operating system's errors while writing `path` to an `OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutputError(
                f"No space left while writing {path} ({error}). What was finished before is kept; "
                "free some space (or choose another disk) and run the same command again."
            ) from error
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. "
            "Choose an output you may write to, or change its permissions."
        ) from error


def ensure_folder(folder: Path) -> Path:
    """Make `folder` and its parents, check that files can be made in it, and return it.

    Raises:
        OutputError: it cannot be made or written to, or a file is in the way.
    """
    if isinstance(folder, RemotePath):
        check_writable(folder)
        return folder
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(
                f"{folder} should be a folder, but a file of that name is in the way. "
                "Choose another output, or move that file."
            )
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary(folder / "probe")
        probe.touch()
        probe.unlink()
    return folder


def _temporary(path: Path) -> Path:
    """A unique name beside `path`, short however long the name of `path` is."""
    # The suffix is kept, because numpy and tensorboard depend on it.
    name = f"{TEMPORARY_PREFIX}{_host()}-{os.getpid()}-{next(_counter)}{path.suffix}"
    return path.with_name(name)


@functools.cache
def _host() -> str:
    """This machine in eight letters: a process number says nothing on another one."""
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


_cleaned: set[Path] = set()


def _remove_dead(folder: Path) -> None:
    """Delete temporary files of killed processes of this machine, once per folder and process."""
    if folder in _cleaned:
        return
    _cleaned.add(folder)
    mine = re.compile(re.escape(f"{TEMPORARY_PREFIX}{_host()}-") + r"(\d{1,10})-\d+\D")
    for name in names_in(folder):
        found = mine.match(f"{name}.")
        if found and not alive(int(found[1])):
            with contextlib.suppress(OSError):
                os.unlink(folder / name)


def alive(process: int) -> bool:
    """Whether a process of this machine runs; True where that cannot be found out."""
    if os.name != "posix":  # elsewhere `os.kill` ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (a no-op where folders cannot be synced)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is flushed and renamed to `path`.

    When the body raises, the temporary file is deleted and `path` stays unchanged.  What goes to
    object storage is uploaded instead, from a temporary file of this machine.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="clipdistill-") as folder:
            local = Path(folder) / f"upload{path.suffix}"
            with writing(local):
                yield local
            path.upload(local)
        return
    temporary = _temporary(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(path.parent)
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON to `path` atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # File names need not be valid Unicode; what UTF-8 cannot hold is written as JSON's escape.
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` names it in messages ("the student's card").

    Raises:
        InputError: there is no such file.
        FormatError: it is not UTF-8 JSON, or not an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: {what} is missing.") from error
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path}: {what} should be JSON, but cannot be read ({error})."
        ) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: {what} should be a JSON object, found {type(value).__name__}.")
    return value


def read_text(path: Path, what: str, expected: str) -> str:
    """Read UTF-8 text, or UTF-16 and UTF-32 text that begins with a byte order mark.

    Args:
        path: the file.
        what: name of the file in messages ("the prompts").
        expected: description of the file in messages.

    Raises:
        InputError: there is no such file.
        FormatError: it is not such text.
    """
    encoding = "utf-8"
    try:
        data = path.read_bytes()
        encoding = encoding_of(data)
        return data.decode(encoding)
    except OSError as error:
        raise InputError(
            f"{path}: {what} cannot be read ({error.strerror or error}). Expected {expected}."
        ) from error
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise FormatError(
                f"{path}: {what} begins like {encoding.upper()} text, but is not ({error}). Save "
                "it as UTF-8 text."
            ) from error
        raise FormatError(
            f"{path}: {what} should be UTF-8 text, but byte {error.start} "
            f"(0x{error.object[error.start]:02x}) is not. Convert the file, for example with: "
            f"iconv -f latin1 -t utf-8 {path}"
        ) from error


def encoding_of(start: bytes) -> str:
    """Return the encoding that a text's first four bytes name; UTF-8 where they name none."""
    marks = {"utf-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "utf-16": (b"\xff\xfe", b"\xfe\xff")}
    return next((name for name, some in marks.items() if start.startswith(some)), "utf-8-sig")


@contextlib.contextmanager
def describing(path: Path) -> Iterator[None]:
    """Add the file's name to a `FormatError` that is raised while its content is parsed."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}. Make the file again, or copy it again.") from error


def read_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """Read one `.npy` array, never unpickling; `mapped` leaves the values on the disk.

    Raises:
        InputError: there is no such file.
        FormatError: it is truncated, damaged, or not an array.
    """
    import numpy as np

    try:
        local = at_hand(path)
        value = np.load(local, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except (
        OSError,
        ValueError,
        EOFError,
        SyntaxError,
        TypeError,
        KeyError,
        MemoryError,
        OverflowError,
        tokenize.TokenError,
        zipfile.BadZipFile,
    ) as error:
        raise FormatError(
            f"{path}: expected a whole .npy array, found a damaged or truncated file ({error})."
        ) from error
    if not isinstance(value, np.ndarray):
        raise FormatError(f"{path}: expected one .npy array, found an .npz archive.")
    return value


def check_format(
    path: Path, value: dict[str, Any], kind: str, version: int, *, former: str = ""
) -> None:
    """Check the `format` and `version` fields that each of our json files carries.

    `former` is another name that this format had before.

    Raises:
        FormatError: the file is of another kind, or was written by a newer clipdistill.
    """
    if value.get("format") not in (kind, former or kind):
        raise FormatError(
            f"{path}: expected a {kind!r} file, found format {value.get('format')!r}. "
            "Check that the arguments are in the right order."
        )
    found = value.get("version")
    if not isinstance(found, int) or found > version:
        raise FormatError(
            f"{path}: {kind} version {found!r} is newer than this clipdistill reads ({version}). "
            "Update clipdistill."
        )


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed writers left in `folder` (not below it)."""
    for name in names_in(folder):
        if name.startswith(TEMPORARY_PREFIX):
            with contextlib.suppress(OSError):
                os.unlink(folder / name)


def names_in(folder: Path) -> Iterator[str]:
    """Yield the names of what is in a folder, in any order; nothing where it cannot be read.

    Names are read as they are used: `Path.iterdir` and `Path.glob` have all of them in memory.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
