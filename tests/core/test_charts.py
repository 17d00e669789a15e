"""Charts: SVG that parses, says what it shows, and is the same every time."""

from __future__ import annotations

import re
import xml.dom.minidom

import numpy as np
import pytest

from clipdistill.core.charts import Bar, Line, Point, bars, heat_map, inline, lines, marks, scatter

pytest.importorskip("matplotlib")

POINTS = [Point(3, 90, "a & <b>", "onnxruntime"), Point(40, 91, "$x_1$", "torch")]


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize("points", [POINTS, POINTS[:1], []])
def test_scatter(points: list[Point], log_x: bool) -> None:
    drawn = scatter(points, title="A <title>", x_label="ms", y_label="%", log_x=log_x)
    assert drawn.startswith("<svg")  # no XML declaration: it goes into a page as it is
    wanted = {"A <title>", "ms", "%", *(point.label for point in points)}
    assert wanted <= texts_of(drawn)
    assert drawn == scatter(points, title="A <title>", x_label="ms", y_label="%", log_x=log_x)


def texts_of(drawn: str) -> set[str]:
    page = xml.dom.minidom.parseString(drawn)
    return {
        child.data.strip()
        for node in page.getElementsByTagName("text")
        for child in node.childNodes
        if child.nodeType == child.TEXT_NODE
    }


def test_bars_show_every_value_and_label() -> None:
    drawn = bars(
        [Bar("a & <b>", 50, 80, "50%"), Bar("$x_1$", 100, None, "100%")],
        width=4,
        x_label="% right",
        name="student",
        mark_name="teacher",
    )
    assert {"a & <b>", "$x_1$", "50%", "100%", "% right", "student", "teacher"} <= texts_of(drawn)


def test_heat_map_writes_counts_that_are_there() -> None:
    counts = np.array([[7, 0], [3, 12]])
    drawn = heat_map(counts, ["left", "right"], x_label="answer", y_label="truth")
    assert {"7", "3", "12", "left", "right", "answer", "truth"} <= texts_of(drawn)
    assert "0" not in texts_of(drawn)


@pytest.mark.parametrize("log_y", [False, True])
def test_lines(log_y: bool) -> None:
    curves = [Line("one", (1, 2, 3), (0.5, 0.1, 0.01)), Line("two", (1,), (0.2,), 1)]
    drawn = lines(curves, size=(4, 3), x_label="epoch", y_label="loss", log_y=log_y, whole_x=True)
    assert {"one", "two", "epoch", "loss", "1", "2", "3"} <= texts_of(drawn)


def test_inline_charts_meet_in_a_page_without_touching() -> None:
    chart = marks(
        [Point(1, 2, "", 'id="a"', "url(#x)"), Point(2, 3, "", "b", "c")],
        size=(4, 3),
        x_label="#1b1f24",
        y_label="y",
    )
    first = inline(chart, "first", "A & <title>", "two points")
    second = inline(chart, "second", "A & <title>", "two points")
    pages = [xml.dom.minidom.parseString(drawn).documentElement for drawn in (first, second)]
    ids = [
        {node.getAttribute("id") for node in page.getElementsByTagName("*")} - {""}
        for page in pages
    ]
    assert not ids[0] & ids[1]
    for page, own in zip(pages, ids, strict=True):
        used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', page.toxml()))
        assert used
        assert used - {"x"} <= own  # x is a stranger's word, and stays as it is
        assert page.getAttribute("role") == "img"
        assert set(page.getAttribute("aria-labelledby").split()) <= own
        for tag, words in (("title", "A & <title>"), ("desc", "two points")):
            assert page.getElementsByTagName(tag)[0].firstChild.data == words
    assert "url(#x)" in texts_of(first)
    assert "#1b1f24" in texts_of(first)
    styles = re.findall(r'style="([^"]*)"', first)
    assert "var(--ink)" in first
    assert not re.search(r"font-family|#1b1f24|#0b6e7f", " ".join(styles))
