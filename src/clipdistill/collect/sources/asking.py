"""Searching for several prompts at a time."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ...formats.urls import UrlRow

Ask = Callable[[str], Iterable[UrlRow]]
_Result = tuple[str, list[UrlRow] | BaseException]

JOIN_SECONDS = 2.0
"""Time for the other prompts to end, after one has failed."""


def ask_all(
    texts: Sequence[str], ask: Ask, workers: int, stop: threading.Event
) -> Iterator[tuple[str, Iterable[UrlRow]]]:
    """Search for every prompt; yield each prompt and its hits as soon as they are there.

    The first failure ends the search.  It is raised after the hits that the other threads had
    already found were yielded.  The threads are daemons, so Ctrl-C does not wait for answers.

    Args:
        texts: the prompts.
        ask: a prompt -> its hits.
        workers: number of prompts at the same time; 1: in this thread, and hits come one by one.
        stop: is set to stop the other threads.
    """
    if workers == 1:
        for text in texts:
            yield text, ask(text)
        return
    todo = iter(texts)
    lock = threading.Lock()
    results: queue.SimpleQueue[_Result] = queue.SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            with lock:
                text = next(todo, None)
            if text is None:
                return
            try:
                results.put((text, list(ask(text))))
            except BaseException as error:  # raised again by the thread that waits for it
                results.put((text, error))
                return

    threads = [_start(work) for _ in range(min(workers, len(texts)))]
    try:
        for _ in texts:
            text, rows = results.get()
            if isinstance(rows, BaseException):
                stop.set()
                yield from _last(threads, results)
                raise rows
            yield text, rows
    finally:
        stop.set()


def _start(work: Callable[[], None]) -> threading.Thread:
    # With a copy of the context, which holds the reporter of progress and messages.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), daemon=True, name="search")
    thread.start()
    return thread


def _last(
    threads: Sequence[threading.Thread], results: queue.SimpleQueue[_Result]
) -> Iterator[tuple[str, list[UrlRow]]]:
    """Yield the hits that other threads had found when one failed."""
    end = time.monotonic() + JOIN_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    while not results.empty():
        text, rows = results.get()
        if not isinstance(rows, BaseException):
            yield text, rows
