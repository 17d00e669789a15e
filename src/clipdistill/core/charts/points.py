"""Scatter plots, such as accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .canvas import INK, MARKERS, SERIES, SIZE, figure, legend, log_scale, quiet, svg


@dataclass(frozen=True)
class Point:
    """One point of a scatter plot.

    Attributes:
        x: position on the x axis.
        y: position on the y axis.
        label: text beside the point (`scatter` only).
        group: points of one group share a marker and an entry of the legend.
        hue: points of one hue share a colour and an entry of the legend (`marks` only).
    """

    x: float
    y: float
    label: str
    group: str
    hue: str = ""


def scatter(
    points: Sequence[Point], *, title: str, x_label: str, y_label: str, log_x: bool = False
) -> str:
    """Draw labelled points on a white background and return SVG text.

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
        # Labels of neighbours go to different sides, and none outside the chart.
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
        log_scale(axes, "x")
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
    """Draw points without labels on a logarithmic x axis; the legend names markers and colours.

    Args:
        points: the points.
        size: width and height in inches.
        x_label: label of the x axis.
        y_label: label of the y axis.
        hues: order in which hues get their colours, including hues without points; other hues
            follow.

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
    log_scale(axes, "x")
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


def _groups(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.group for point in points))


def _lower_halves(points: Sequence[Point]) -> set[Point]:
    """Every second point by height, so that neighbours are labelled above and below in turn."""
    return set(sorted(points, key=lambda point: (point.y, point.x))[::2])


def _right_halves(points: Sequence[Point], log_x: bool) -> set[Point]:
    """The points right of the middle."""
    places = [math.log(point.x) if log_x else point.x for point in points]
    middle = (min(places, default=0) + max(places, default=0)) / 2
    return {point for point, place in zip(points, places, strict=True) if place > middle}
