"""Charts as SVG text, to be written to a file or put into a page (needs matplotlib: `plots`).

matplotlib's figures are used without pyplot: no window, no global state, and nothing that depends
on this machine's fonts, since text stays text.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import MissingExtraError

SIZE = (8.0, 5.0)
"""Inches; an SVG scales."""
MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Point:
    """One mark of a scatter plot.

    Attributes:
        x: where.
        y: where.
        label: beside it.
        group: marks of one group look alike and share an entry of the legend.
    """

    x: float
    y: float
    label: str
    group: str


def scatter(
    points: Sequence[Point], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """Draw marks with labels; returns SVG text without an XML declaration, fit for a page.

    The same points give the same text.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.add_subplot()
    for index, group in enumerate(dict.fromkeys(point.group for point in points)):
        own = [point for point in points if point.group == group]
        axes.scatter(
            [point.x for point in own], [point.y for point in own],
            marker=MARKERS[index % len(MARKERS)], label=group, zorder=2,
        )  # fmt: skip
    low, right = _lower_halves(points), _right_halves(points, log_x)
    for point in points:
        # Labels of neighbours go to different sides, and none out of the picture.
        across, align = (-6, "right") if point in right else (6, "left")
        axes.annotate(
            point.label, (point.x, point.y), textcoords="offset points", fontsize=8,
            xytext=(across, -10 if point in low else 5), ha=align, parse_math=False,
        )  # fmt: skip
    if log_x:
        _log_axis(axes)
    axes.margins(x=0.15, y=0.1)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="both", alpha=0.3)
    if points:
        figure.legend(fontsize=8, loc="outside lower right", ncols=4)
    return _svg(figure)


def check_available() -> None:
    """Check that charts can be drawn, before the work whose results they show.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    _figure()


def _lower_halves(points: Sequence[Point]) -> set[Point]:
    """Every second point, going by height: what lies side by side is labelled above and below."""
    return set(sorted(points, key=lambda point: (point.y, point.x))[::2])


def _right_halves(points: Sequence[Point], log_x: bool) -> set[Point]:
    """The points right of the middle."""
    places = [math.log(point.x) if log_x else point.x for point in points]
    middle = (min(places, default=0) + max(places, default=0)) / 2
    return {point for point, place in zip(points, places, strict=True) if place > middle}


def _log_axis(axes: Any) -> None:
    """Logarithmic, with 1, 2 and 5 of each power of ten written out."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "Drawing a chart") from error
    return Figure(figsize=SIZE, layout="constrained")


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "clipdistill"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return re.sub(r"^.*?(?=<svg)", "", text, count=1, flags=re.S)
