"""How progress is shown outside a terminal: plain lines, a bar in a notebook, or nothing.

The command line draws bars on a terminal (`console`) and writes these lines elsewhere.  By default,
a verb that is called from Python writes lines in a script and draws a bar in a notebook.
"""

from __future__ import annotations

import contextlib
import functools
import html
import sys
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from . import progress as channel
from .console import ConsoleReporter
from .errors import InputError, did_you_mean
from .lines import PATIENCE, PlainReporter, Task
from .progress import Reporter, Silent, Step
from .wording import escaped

if TYPE_CHECKING:
    pass

Kind = Literal["auto", "plain", "bar", "none"]
REDRAW = 0.25
"""Seconds between two states of a notebook's bar."""


class progress:
    """Choose how verbs show their progress, from now on or within a `with` block.

    Example:
        clipdistill.progress("none")          # from now on
        with clipdistill.progress("plain"):   # here only
            clipdistill.embed("photos", "emb")

    Args:
        kind: "auto" (a bar in a notebook, lines elsewhere), "plain" (a line on stderr after two
            seconds, then every ten seconds, and one at the end), "bar" (a bar in a notebook or on a
            terminal), "none", or an object with the methods of
            `clipdistill.core.progress.Reporter`.
    """

    def __init__(self, kind: Kind | Reporter = "auto") -> None:
        self._token: Token[Reporter | None] = channel.install(_reporter(kind))

    def __enter__(self) -> progress:
        """Return itself; the reporter is installed already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the previous reporter."""
        channel.restore(self._token)


def with_progress(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a verb so that it shows progress even when no reporter was installed."""

    @functools.wraps(function)
    def verb(*args: Any, **kwargs: Any) -> Any:
        chosen = contextlib.nullcontext() if channel.chosen() else channel.reporting(_reporter())
        with chosen:
            return function(*args, **kwargs)

    return verb


def _reporter(kind: Kind | Reporter = "auto") -> Reporter:
    if not isinstance(kind, str):
        return kind
    if kind == "none":
        return Silent()
    if kind in ("auto", "bar") and in_notebook():
        return NotebookReporter()
    if kind == "bar":
        return ConsoleReporter()
    if kind in ("auto", "plain"):
        return PlainReporter()
    kinds = ("auto", "plain", "bar", "none")
    raise InputError(
        f"progress({kind!r}): expected one of {', '.join(map(repr, kinds))}, or a reporter."
        f"{did_you_mean(kind, kinds)}"
    )


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookReporter(PlainReporter):
    """Draws a bar below the cell of a notebook."""

    def start(
        self, task: str, total: int | None, unit: str, done: int
    ) -> tuple[Step, Callable[[], None]]:
        """See `progress.Reporter.start`."""
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        state = Task(task, total, unit, done)
        handle: Any = None
        drawn = 0.0

        def step(n: int = 1, note: str = "") -> None:
            nonlocal handle, drawn
            state.advance(n, note)
            if state.seconds < PATIENCE or state.seconds - drawn < REDRAW:
                return
            drawn = state.seconds
            shown = HTML(_bar(state))
            if handle is None:
                handle = display(shown, display_id=True)
            else:
                handle.update(shown)

        def end() -> None:
            if handle is not None:
                handle.update(HTML(html.escape(escaped(state.finished()))))

        return step, end


def _bar(state: Task) -> str:
    total = "" if state.total is None else f' value="{state.done}" max="{max(1, state.total)}"'
    name, status = (html.escape(escaped(text)) for text in (state.name, state.status()))
    return f"<div>{name} <progress{total}></progress> {status}</div>"
