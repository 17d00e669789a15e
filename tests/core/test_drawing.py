"""What strangers wrote cannot steer a terminal or break a line, wherever it is drawn."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from clipdistill import cli
from clipdistill.core import console, lines
from clipdistill.core.progress import message, reporting, track
from clipdistill.core.results import Table, list_some
from clipdistill.core.wording import HIDDEN, drawn, escaped
from clipdistill.show.live.answer import Prediction
from clipdistill.show.live.loop import Speed, Status
from clipdistill.show.live.terminal import display, line

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\rb\nDone.\ud800"
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800]")


@pytest.fixture(params=["console", "plain"])
def reporter(request):
    return console.ConsoleReporter() if request.param == "console" else lines.PlainReporter()


def test_tables_keep_a_row_on_its_line(capsys):
    table = Table(EVIL, ("name", ">" + EVIL), ((EVIL, "1"), ("b", EVIL)))
    console.show([table])
    rich, plain, html = capsys.readouterr().out, table.text(), table.html()
    for text in (rich, plain, html):
        assert not STEERS.search(text)
        assert "Done." in text
    assert len(plain.splitlines()) == 4
    assert "\nDone." not in rich


def test_lines_errors_and_messages(capsys, reporter):
    console.show([f"Written: {EVIL}", *list_some("Failed:", [EVIL])])
    console.show_error(f"{EVIL}\nTry: this")
    with reporting(reporter):
        message(EVIL)
        reporter.table(Table("t", ("c",), ((EVIL,),)))
    shown = capsys.readouterr()
    assert not STEERS.search(shown.out + shown.err)
    assert "\n  Try: this\n" in shown.err  # our own line breaks stay
    assert "\nDone." not in shown.out + shown.err
    assert "\n  Done." in shown.out


def test_progress_of_a_task(monkeypatch, capsys, reporter):
    monkeypatch.setattr(lines, "PATIENCE", 0.0)
    with reporting(reporter), track(EVIL, 2, EVIL) as step:
        step(1, EVIL)
    err = capsys.readouterr().err
    assert "Done." in err
    assert not STEERS.search(err)
    assert "\nDone." not in err


def test_bars_on_a_terminal(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    monkeypatch.setattr(console, "_console", lambda *, stderr: screen)
    bars = console._Bars()
    bar = console._Bar(bars, lines.Task(EVIL, 2, "things", 0))
    bar._show()
    bar.step(1, EVIL)
    bars.progress.refresh()
    bar.end()
    assert "\x1b]0;" not in screen.file.getvalue()
    assert "\x1b[2J" not in screen.file.getvalue()
    assert "\\x1b]0;owned" in screen.file.getvalue()


def test_the_live_display_of_demo():
    prediction = Prediction(EVIL, ((EVIL, 0.9), ("b", 0.1)))
    status = Status(
        seconds=1.0,
        shown=1,
        speed=Speed(),
        dropped=0,
        broken=0,
        note=EVIL,
        source=EVIL,
        model=EVIL,
        runtime=EVIL,
    )
    screen = Console(file=io.StringIO(), width=300)
    screen.print(display(prediction, status))
    screen.print(display(None, status))
    text = screen.file.getvalue() + line(prediction, status)
    assert not STEERS.search(text)
    assert "\nDone." not in text


def test_logs_with_debug():
    record = logging.LogRecord("lib", logging.ERROR, "f.py", 1, "%s", (EVIL,), None)
    assert not STEERS.search(cli._LogLines("%(message)s").format(record))


@given(st.text(st.characters()))
def test_json_is_exact_and_steers_nothing(text):
    with pytest.MonkeyPatch.context() as patch:
        for encoding in ("utf-8", "cp1252", "ascii"):
            buffer = io.BytesIO()
            patch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding=encoding))
            cli._print_json({"label": text})
            found = buffer.getvalue()
            assert json.loads(found) == {"label": text}
            assert not HIDDEN.search(found.decode().replace("\n", ""))


@given(st.text(st.characters()))
def test_escaping_twice_is_escaping_once(text):
    assert escaped(escaped(text)) == escaped(text)
    assert not HIDDEN.search(drawn(text).replace("\n", ""))
