"""Set-ups of processes that embed, with a fault each: in place of `embed.shard_worker`.

Other processes import this module, so the faults reach them.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipdistill.core.errors import MissingExtraError
from clipdistill.distillation import embed
from clipdistill.images import loading

real_worker = embed.shard_worker
real_decoder = embed.decode_worker
real_load = loading.load_one


def dies_once(out: str, *arguments: Any) -> Callable[[str], None]:
    """Dies in the middle of the third shard, as by the system for want of memory, but once."""
    work = real_worker(out, *arguments)

    def one(task: str) -> None:
        mark = Path(out, "died")
        if task == "2" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        work(task)

    return one


def slow(out: str, *arguments: Any) -> Callable[[str], None]:
    """Takes a while for each shard, so that there is time to kill something."""
    work = real_worker(out, *arguments)

    def one(task: str) -> None:
        time.sleep(0.5)
        work(task)

    return one


def slow_machine(out: str, *arguments: Any) -> Callable[[str], None]:
    """The first process that comes is slow, and counts its shards."""
    work = real_worker(out, *arguments)
    try:
        Path(out, "slow").touch(exist_ok=False)
    except FileExistsError:
        return work

    def one(task: str) -> None:
        with Path(out, "slow").open("a") as file:
            file.write(f"{task}\n")
        time.sleep(3)
        work(task)

    return one


def poisoned(out: str, *arguments: Any) -> Callable[[str], None]:
    """An image named poison.png ends the process that decodes it, as a damaged decoder does."""
    loading.load_one = _poisoned_load
    return real_worker(out, *arguments)


def poisoned_decoder(*arguments: Any) -> Callable[[str], None]:
    """In place of `embed.decode_worker`: the same image ends its process as well."""
    loading.load_one = _poisoned_load
    return real_decoder(*arguments)


def _poisoned_load(item: Any, *more: Any) -> Any:
    if item.key == "poison.png" and not item.problem:
        os.kill(os.getpid(), signal.SIGSEGV)
    return real_load(item, *more)


def dies_always(out: str, *arguments: Any) -> Callable[[str], None]:
    """Dies in the third shard, whichever process embeds it."""
    work = real_worker(out, *arguments)

    def one(task: str) -> None:
        if task == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        work(task)

    return one


def full_disk(out: str, *arguments: Any) -> Callable[[str], None]:
    """No file can be larger than a kilobyte, from the third shard on."""
    work = real_worker(out, *arguments)

    def one(task: str) -> None:
        if int(task) >= 2:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit))
        work(task)

    return one


def without_extra(*arguments: Any) -> Callable[[str], None]:
    """As on a machine without what training needs."""
    raise MissingExtraError("open_clip", "train", "Embedding images")
