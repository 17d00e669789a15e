"""Progress from Python: lines in a script, a bar in a notebook, and what is chosen."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest

import clipdistill
from clipdistill.core import lines, reporters
from clipdistill.core import progress as channel


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def long_task(clock) -> None:
    with channel.track("embedding", 100, "images") as step:
        for _ in range(10):
            clock(3)
            step(10, note="1 failed")


def test_a_script_gets_a_line_now_and_then(clock, capsys):
    reporters.with_progress(lambda: long_task(clock))()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "embedding: 10/100, 3.3 images/s, 0:03, 0:27 left, 1 failed"
    assert lines[-1] == "embedding: 100 images in 0:30, 3.3 images/s, 1 failed"
    assert 3 <= len(lines) <= 5


def test_a_short_task_says_nothing(clock, capsys):
    with clipdistill.progress("plain"), channel.track("embedding", 1, "images") as step:
        clock(1)
        step()
    assert capsys.readouterr().err == ""


def test_the_choice_holds_within_the_block_only(clock, capsys):
    with clipdistill.progress("none"):
        reporters.with_progress(lambda: long_task(clock))()
    assert capsys.readouterr().err == ""
    assert not channel.chosen()


def test_an_unknown_kind_is_refused():
    with pytest.raises(clipdistill.InputError, match="Did you mean plain"):
        clipdistill.progress("plane")
    assert not channel.chosen()


def test_a_notebook_gets_a_bar_that_is_updated(clock, monkeypatch):
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    def display(html: str, display_id: bool) -> Handle:
        shown.append(html)
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = type("ZMQInteractiveShell", (), {})  # type: ignore[attr-defined]
    ipython.display = types.ModuleType("IPython.display")  # type: ignore[attr-defined]
    ipython.display.HTML, ipython.display.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)

    def task() -> None:
        with channel.track("<b>", 100, "images") as step:
            clock(3)
            step(50)
            clock(3)
            step(50)

    reporters.with_progress(task)()
    assert '<progress value="50" max="100">' in shown[0]
    assert "&lt;b&gt;" in shown[0]
    assert shown[-1] == "&lt;b&gt;: 100 images in 0:06, 17 images/s"
