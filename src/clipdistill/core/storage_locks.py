"""Locks of outputs in object storage: an object that only one process can create.

The process that has it writes it again every `BEAT` seconds.  One that finds it waits until it has
seen it change, and is refused; where it does not change, its process was killed, and the lock is
taken over.  So no clocks are compared.  A killed process of this machine is recognised at once.

Where a store cannot create an object only if there is none, nothing is locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import ClipDistillError, OutputError
from .files import alive
from .storage import RemotePath

BEAT = 10.0
"""Seconds between two writings of a lock."""
BEATS = 4
"""Beats without a change after which a lock belongs to nobody."""


@contextlib.contextmanager
def locked_in_store(lock: Path, output: Path, verb: str, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing `output` as long as the block runs.

    Args:
        lock: the object.
        output: named in messages.
        verb: shown to the process that is refused.
        patience: seconds to wait for a process that has the lock.

    Raises:
        OutputError: another process has the lock, or it cannot be written.
    """
    assert isinstance(lock, RemotePath)
    holder = _Holder(lock, verb)
    if not _take(holder, output, patience):
        yield
        return
    ended = threading.Event()
    beating = threading.Thread(target=holder.beat, args=(ended,), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(ClipDistillError, OSError):
            if holder.is_mine(lock.read_bytes()):
                lock.unlink(missing_ok=True)


class _Holder:
    """What this process writes into its lock."""

    def __init__(self, lock: RemotePath, verb: str) -> None:
        self.lock = lock
        self._about = {"verb": verb, "process": os.getpid(), "host": platform.node()}
        self._about["token"] = uuid.uuid4().hex
        self._beats = 0

    def data(self) -> bytes:
        """The content, another one each time."""
        self._beats += 1
        return json.dumps({**self._about, "beats": self._beats}).encode()

    def is_mine(self, data: bytes) -> bool:
        """Whether a lock's content is this process's."""
        return str(self._about["token"]).encode() in data

    def beat(self, ended: threading.Event) -> None:
        """Write the lock again and again; a store that fails for a while is borne."""
        while not ended.wait(BEAT):
            with contextlib.suppress(ClipDistillError, OSError):
                self.lock.write_bytes(self.data())


def _take(holder: _Holder, output: Path, patience: float) -> bool:
    """Create the lock; False where the store cannot.

    Raises:
        OutputError: another process has it.
    """
    lock = holder.lock
    seen, since = b"", time.monotonic()
    give_up = time.monotonic() + patience
    while True:
        try:
            if lock.create(holder.data()):
                return True
        except (NotImplementedError, TypeError):
            return False
        try:
            found = lock.read_bytes()
        except FileNotFoundError:
            continue
        verb, process, host = _described(found)
        here = host == platform.node()
        if here and process > 0 and not alive(process):
            lock.unlink(missing_ok=True)
            continue
        if (here or (seen and found != seen)) and time.monotonic() >= give_up:
            where = "" if here else f" on {host}"
            raise OutputError(
                f"{output}: `clipdistill {verb}` (process {process}{where}) is writing it now. "
                "Wait until it has finished, or choose another output."
            )
        if not seen:
            seen, since = found, time.monotonic()
        elif time.monotonic() - since > BEATS * BEAT:
            lock.unlink(missing_ok=True)
            seen = b""
        time.sleep(min(0.5, BEAT / 4))


def _described(data: bytes) -> tuple[str, int, str]:
    """Verb, process and machine that a lock names."""
    try:
        about = json.loads(data)
        return str(about["verb"])[:40], int(about["process"]), str(about["host"])[:200]
    except (ValueError, KeyError, TypeError):
        return "?", 0, ""
