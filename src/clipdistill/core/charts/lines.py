"""Line charts: learning curves, reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .canvas import FAINT, MARKERS, SERIES, figure, legend, log_scale, quiet, svg


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: legend entry.
        x: ascending values.
        y: one value per x; above 0 on a logarithmic axis.
        place: index of its colour and marker; lines of one thing keep it over several charts.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    place: int = 0


def lines(
    drawn_lines: Sequence[Line],
    *,
    size: tuple[float, float],
    x_label: str,
    y_label: str,
    log_y: bool = False,
    diagonal: bool = False,
    whole_x: bool = False,
) -> str:
    """Draw lines and return SVG text with a transparent background.

    Lines of at most 40 values have a marker at each value.

    Args:
        drawn_lines: the lines.
        size: width and height in inches.
        x_label: label of the x axis.
        y_label: label of the y axis.
        log_y: make the y axis logarithmic.
        diagonal: draw a faint line where y equals x, and both axes from 0 to 100.
        whole_x: label the x axis with whole numbers only (epochs).

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = figure(size)
    axes = drawn.add_subplot()
    if diagonal:
        axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 103), ylim=(0, 103))
    handles = [_draw(axes, line) for line in drawn_lines]
    if log_y:
        log_scale(axes, "y")
    if whole_x:
        _whole_numbers(axes)
    quiet(axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(handles) > 1:
        legend(drawn, handles, 2)
    return svg(drawn, clear=True)


def _draw(axes: Any, line: Line) -> Any:
    many = len(line.x) > 40
    (handle,) = axes.plot(
        line.x,
        line.y,
        color=SERIES[line.place % len(SERIES)],
        linewidth=1.8,
        label=line.name,
        marker="" if many else MARKERS[line.place % len(MARKERS)],
        markersize=4.5,
    )
    return handle


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
