"""Charts: SVG that parses, says what it shows, and is the same every time."""

from __future__ import annotations

import xml.dom.minidom

import pytest

from clipdistill.charts import Point, scatter

pytest.importorskip("matplotlib")

POINTS = [Point(3, 90, "a & <b>", "onnxruntime"), Point(40, 91, "$x_1$", "torch")]


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize("points", [POINTS, POINTS[:1], []])
def test_scatter(points: list[Point], log_x: bool) -> None:
    drawn = scatter(points, title="A <title>", x_label="ms", y_label="%", log_x=log_x)
    assert drawn.startswith("<svg")  # no XML declaration: it goes into a page as it is
    page = xml.dom.minidom.parseString(drawn)
    texts = {
        child.data.strip() for node in page.getElementsByTagName("text")
        for child in node.childNodes if child.nodeType == child.TEXT_NODE
    }  # fmt: skip
    assert {"A <title>", "ms", "%", *(point.label for point in points)} <= texts
    assert drawn == scatter(points, title="A <title>", x_label="ms", y_label="%", log_x=log_x)
