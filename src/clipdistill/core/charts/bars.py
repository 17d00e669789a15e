"""Horizontal bar charts: one bar per label, with an optional mark for a value to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .canvas import INK, SERIES, figure, legend, quiet, svg

ROW = 0.235
"""Height of a bar with its gap, in inches."""


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: text left of the bar.
        value: length of the bar, 0 to 100.
        mark: position of the mark, 0 to 100; None for none.
        note: text right of the bar, such as "92%".
    """

    label: str
    value: float
    mark: float | None = None
    note: str = ""


def bars(
    drawn_bars: Sequence[Bar], *, width: float, x_label: str, name: str, mark_name: str = ""
) -> str:
    """Draw bars from top to bottom and return SVG text with a transparent background.

    Args:
        drawn_bars: one bar per row.
        width: width in inches; the height follows from the number of bars.
        x_label: label of the x axis.
        name: legend entry of the bars.
        mark_name: legend entry of the marks; without it no marks are drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from matplotlib.lines import Line2D

    drawn = figure((width, ROW * len(drawn_bars) + 0.85))
    axes = drawn.add_subplot()
    rows = range(len(drawn_bars))
    axes.barh(rows, [bar.value for bar in drawn_bars], height=0.62, color=SERIES[0])
    for row, bar in zip(rows, drawn_bars, strict=True):
        axes.text(104.5, row, bar.note, va="center", fontsize=8.5, color=INK, parse_math=False)
        if mark_name and bar.mark is not None:
            axes.plot([bar.mark], [row], marker="D", markersize=5.5, color=SERIES[4], clip_on=False)
    axes.set_yticks(list(rows), [bar.label for bar in drawn_bars], parse_math=False)
    axes.set(xlim=(0, 100), ylim=(len(drawn_bars) - 0.4, -0.6))
    axes.set_xlabel(x_label)
    quiet(axes, "x")
    if mark_name:
        handles = [
            Line2D([], [], color=SERIES[0], linewidth=6, label=name),
            Line2D([], [], color=SERIES[4], linestyle="", marker="D", label=mark_name),
        ]
        legend(drawn, handles, 2)
    return svg(drawn, clear=True)
