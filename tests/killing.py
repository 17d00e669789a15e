"""Run something in a process of its own, and kill it without warning (SIGKILL).

The processes are forked from a server that has imported PyTorch but never computed, so one is
there in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch._dynamo",
        "timm",
        "open_clip",
        "pyarrow.parquet",
        "torch.utils.tensorboard",
        "clipdistill.distillation.trainer",
        "clipdistill.models.teacher",
        "clipdistill.distillation.embed",
        "clipdistill.distillation.distill",
    ]
)


@contextlib.contextmanager
def running(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[BaseProcess]:
    """Start `target` in another process; at the end of the block it is killed if it still runs."""
    process = _context.Process(target=target, args=args, kwargs=kwargs)
    process.start()
    try:
        yield process
    finally:
        kill(process)


def kill(process: BaseProcess) -> None:
    """Kill -9, and wait until it is dead."""
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def run_to_end(target: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run `target` in another process and check that it ended well."""
    with running(target, *args, **kwargs) as process:
        process.join(120)
        assert process.exitcode == 0


def killed_when(
    happened: Callable[[], bool], target: Callable[..., Any], *args: Any, **kwargs: Any
) -> bool:
    """Start `target` and kill it as soon as `happened()`; False when it was done before that."""
    with running(target, *args, **kwargs) as process:
        give_up = time.monotonic() + 120
        while process.is_alive() and not happened():
            assert time.monotonic() < give_up, "it neither ended nor came to the point of the kill"
            time.sleep(0.001)
        kill(process)
        assert process.exitcode in (0, -signal.SIGKILL), f"it failed by itself: {process.exitcode}"
        return process.exitcode != 0


def after(seconds: float) -> Callable[[], bool]:
    """A condition that holds `seconds` from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def changed(path: Path) -> Callable[[], bool]:
    """A condition that holds as soon as the file is another one than now."""

    def stamp() -> tuple[int, int] | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    before = stamp()
    return lambda: stamp() not in (before, None)


def grown(folder: Path, by: int) -> Callable[[], bool]:
    """A condition that holds as soon as `folder` holds so many files more than now."""

    def count() -> int:
        names = os.listdir(folder) if folder.is_dir() else []
        return sum(not name.startswith(".") for name in names)

    enough = count() + by
    return lambda: count() >= enough


def soon_after(condition: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """A condition that holds `seconds` after another began to hold."""
    since: list[float] = []

    def holds() -> bool:
        if not since and condition():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() >= since[0] + seconds

    return holds


def _hold(path: Path, ready: Path, folder: bool) -> None:
    from clipdistill.core.locks import locked, locked_files

    with locked(path, "distill") if folder else locked_files("distill", path):
        ready.touch()
        time.sleep(120)


@contextlib.contextmanager
def holding(path: Path, ready: Path, *, folder: bool) -> Iterator[BaseProcess]:
    """Let another process have the lock of `path` as long as the block runs."""
    with running(_hold, path, ready, folder) as process:
        give_up = time.monotonic() + 60
        while not ready.exists():
            assert process.is_alive()
            assert time.monotonic() < give_up
            time.sleep(0.01)
        ready.unlink()
        yield process
