"""Locks of outputs: no two processes write the same output at the same time.

A lock is a hidden file, in a folder that is an output or beside a file that is one, which is locked
with `flock` and holds the verb, the process and the machine that has it.  The system releases the
lock when the process ends, however it ends, so that the file of a killed process blocks nobody; the
next process that writes this output takes it over and removes it.

Where the system has no such locks (Windows, some network disks) nothing is locked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from .errors import OutputError
from .files import ensure_folder, writing
from .progress import message
from .storage import RemotePath
from .storage_locks import locked_in_store

LOCK = ".clipdistill-lock"
"""Name of the lock of a folder; that of a file has a digest of the file's name behind it."""
MOST_BYTES = 500
"""Bytes of a lock that are read."""
POLL_SECONDS = 0.2
"""Between two attempts of a process that waits."""

_held: ContextVar[frozenset[str]] = ContextVar("clipdistill_locks", default=frozenset())
"""Locks that this call of a verb has already: the verbs that it calls need not take them again."""


@contextlib.contextmanager
def locked(folder: Path, verb: str, patience: float = 0.0) -> Iterator[None]:
    """Make `folder`, and keep other processes from writing to it as long as the block runs.

    What was made and is still empty afterwards is removed again.

    Args:
        folder: the output.
        verb: shown to the process that is refused.
        patience: seconds to wait for a process that has the lock.

    Raises:
        OutputError: it cannot be made or written to, or another process has the lock.
    """
    if isinstance(folder, RemotePath):
        with locked_in_store(ensure_folder(folder) / LOCK, folder, verb, patience):
            yield
        return
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        ensure_folder(folder)
        with _lock(folder / LOCK, folder, verb, patience):
            yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # it has files
                path.rmdir()


@contextlib.contextmanager
def locked_files(verb: str, *files: Path | None) -> Iterator[None]:
    """Keep other processes from writing `files` as long as the block runs; makes their folders.

    Args:
        verb: shown to the process that is refused.
        files: the outputs; those that are None are left out.

    Raises:
        OutputError: a folder cannot be made or written to, or another process has a lock.
    """
    with contextlib.ExitStack() as stack:
        for path in filter(None, files):
            ensure_folder(path.parent)
            digest = hashlib.blake2b(os.fsencode(path.name), digest_size=6).hexdigest()
            stack.enter_context(_lock(path.with_name(f"{LOCK}-{digest}"), path, verb))
        yield


@contextlib.contextmanager
def _lock(lock: Path, output: Path, verb: str, patience: float = 0.0) -> Iterator[None]:
    name = os.path.realpath(lock)
    handle = None if name in _held.get() else _take(lock, output, patience)
    if handle is None:
        yield
        return
    _held.set(_held.get() | {name})
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(handle, 0)
            os.write(handle, f"{verb} {os.getpid()} {platform.node()}\n".encode())
        yield
    finally:
        _held.set(_held.get() - {name})
        with contextlib.suppress(OSError):
            lock.unlink()
        _release(handle)


def _take(lock: Path, output: Path, patience: float) -> int | None:
    """Make and lock the file `lock`, and return its descriptor; None: there are no locks here.

    Raises:
        OutputError: it cannot be written, or another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    give_up, waits = time.monotonic() + patience, False
    while True:
        with writing(output):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(handle)
            os.close(handle)
            if time.monotonic() < give_up:
                if not waits:
                    message(f"{output}: waiting for {holder}, which is writing it.")
                waits = True
                time.sleep(POLL_SECONDS)
                continue
            raise OutputError(
                f"{output}: {holder} is writing it now. Wait until it has finished, or choose "
                "another output."
            ) from error
        except OSError:
            lock.unlink(missing_ok=True)
            os.close(handle)
            return None
        if _is_at(handle, lock):
            return handle
        os.close(handle)  # the process that had it has removed the file since


def _release(handle: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)  # also for a child that inherited the descriptor
    os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Describe the process that has a lock."""
    text = os.pread(handle, MOST_BYTES, 0).decode(errors="replace")
    found = re.fullmatch(r"([a-z][a-z -]*) (\d+) (.*)\n", text)
    if found is None:
        return "another process"
    verb, process, machine = found.groups()
    where = "" if machine == platform.node() else f" on {machine}"
    return f"`clipdistill {verb}` (process {process}{where})"
