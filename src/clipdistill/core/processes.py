"""Running tasks in several processes of this machine.

What is run is named by a function that sets a process up and returns the function for one task; the
tasks are texts, such as paths.  Nothing here depends on what the tasks are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from .errors import ClipDistillError

SetUp = Callable[..., Callable[[str], Any]]
"""Called once per process with plain values; returns the function that does one task."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        task: the task.
        value: what the function returned; None where it failed.
        reason: why it failed; empty where it did not.
        died: whether its process ended with it.
    """

    task: str
    value: Any = None
    reason: str = ""
    died: bool = False


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    task: str | None = None


def run_processes(
    set_up: SetUp, arguments: tuple[Any, ...], tasks: Iterable[str], workers: int
) -> Iterator[Outcome]:
    """Do tasks in processes and yield what became of each, in the order of finishing.

    A process that dies costs its own task, and another takes its place.  When the caller stops
    early, the processes are ended.

    Args:
        set_up: a function of a module, which the processes import.
        arguments: for `set_up`, each picklable.
        tasks: what to do; read as processes become free.
        workers: number of processes.

    Raises:
        ClipDistillError: `set_up` raised it.
    """
    left = iter(tasks)
    started: list[_Worker] = []
    try:
        while len(started) < workers and (task := next(left, None)) is not None:
            started.append(_start(set_up, arguments, task))
        while started:
            ready = wait([one.pipe for one in started])
            for worker in [one for one in started if one.pipe in ready]:
                outcome = _answer(worker)
                ended = outcome.died
                if ended:
                    started.remove(worker)
                yield outcome
                task = next(left, None)
                if ended and task is not None:
                    started.append(_start(set_up, arguments, task))
                elif not ended:
                    worker.task = task
                    worker.pipe.send(task)
                    if task is None:
                        worker.process.join()
                        started.remove(worker)
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.join()


def _start(set_up: SetUp, arguments: tuple[Any, ...], task: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, set_up, arguments), daemon=True)
    process.start()
    theirs.close()
    mine.send(task)
    return _Worker(process, mine, task)


def _answer(worker: _Worker) -> Outcome:
    task = worker.task or ""
    try:
        value, error = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        reason = f"its process ended without a word (exit code {code})"
        return Outcome(task, reason=reason, died=True)
    if isinstance(error, ClipDistillError):
        raise error
    return Outcome(task, value, error or "")


def _work(pipe: Connection, set_up: SetUp, arguments: tuple[Any, ...]) -> None:
    """Run in a process: set up, then answer each task until there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    try:
        function = set_up(*arguments)
    except ClipDistillError as error:
        pipe.recv()
        pipe.send((None, error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):  # the first process has ended
        while (task := pipe.recv()) is not None:
            pipe.send(done(function, task))


def done(function: Callable[[str], Any], task: str) -> tuple[Any, str]:
    """Do one task: what it returned, and why it failed (empty where it did not)."""
    try:
        return function(task), ""
    except Exception as error:  # a task's failure is a row of the caller's report
        return None, f"{type(error).__name__}: {error}"
