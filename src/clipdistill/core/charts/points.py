"""Marks with labels: accuracy against latency, what is said against what is true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .canvas import INK, MARKERS, SERIES, SIZE, figure, legend, quiet, svg


@dataclass(frozen=True)
class Point:
    """One mark of a scatter plot.

    Attributes:
        x: where.
        y: where.
        label: beside it.
        group: marks of one group have the same form and share an entry of the legend.
        hue: likewise, the same colour; the group's own colour unless given.
    """

    x: float
    y: float
    label: str
    group: str
    hue: str = ""


def scatter(
    points: Sequence[Point], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """Draw marks with labels; returns SVG text without an XML declaration, fit for a page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = figure(SIZE)
    axes = drawn.add_subplot()
    for index, group in enumerate(_groups(points)):
        own = [point for point in points if point.group == group]
        axes.scatter(
            [point.x for point in own],
            [point.y for point in own],
            marker=MARKERS[index % len(MARKERS)],
            label=group,
            zorder=2,
        )
    low, right = _lower_halves(points), _right_halves(points, log_x)
    for point in points:
        # Labels of neighbours go to different sides, and none out of the picture.
        across, align = (-6, "right") if point in right else (6, "left")
        axes.annotate(
            point.label,
            (point.x, point.y),
            textcoords="offset points",
            fontsize=8,
            xytext=(across, -10 if point in low else 5),
            ha=align,
            parse_math=False,
        )
    if log_x:
        log_axis(axes)
    axes.margins(x=0.15, y=0.1)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="both", alpha=0.3)
    if points:
        drawn.legend(fontsize=8, loc="outside lower right", ncols=4)
    return svg(drawn)


def marks(
    points: Sequence[Point],
    *,
    size: tuple[float, float],
    x_label: str,
    y_label: str,
    hues: Sequence[str] = (),
) -> str:
    """Draw marks without labels on a logarithmic axis; forms and colours stand in the legend.

    Args:
        points: what to draw.
        size: inches.
        x_label: below.
        y_label: beside.
        hues: the order in which hues take their colours, whether there are points of them or not;
            others come after these.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from matplotlib.lines import Line2D

    drawn = figure(size)
    axes = drawn.add_subplot()
    present = list(dict.fromkeys(point.hue for point in points))
    groups = _groups(points)
    places = list(dict.fromkeys([*hues, *present]))
    colour = {hue: SERIES[index % len(SERIES)] for index, hue in enumerate(places)}
    form = {group: MARKERS[index % len(MARKERS)] for index, group in enumerate(groups)}
    for point in points:
        axes.plot(
            [point.x],
            [point.y],
            linestyle="",
            marker=form[point.group],
            markersize=8,
            color=colour[point.hue],
            markeredgewidth=0,
        )
    log_axis(axes)
    quiet(axes, "both")
    axes.margins(x=0.1, y=0.15)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    handles = [
        *(Line2D([], [], color=colour[hue], linewidth=5, label=hue) for hue in present),
        *(
            Line2D([], [], color=INK, linestyle="", marker=form[group], label=group)
            for group in groups
        ),
    ]
    legend(drawn, handles, 2)
    return svg(drawn, clear=True)


def log_axis(axes: Any) -> None:
    """Logarithmic, with 1, 2 and 5 of each power of ten written out."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _groups(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.group for point in points))


def _lower_halves(points: Sequence[Point]) -> set[Point]:
    """Every second point, going by height: what lies side by side is labelled above and below."""
    return set(sorted(points, key=lambda point: (point.y, point.x))[::2])


def _right_halves(points: Sequence[Point], log_x: bool) -> set[Point]:
    """The points right of the middle."""
    places = [math.log(point.x) if log_x else point.x for point in points]
    middle = (min(places, default=0) + max(places, default=0)) / 2
    return {point for point, place in zip(points, places, strict=True) if place > middle}
