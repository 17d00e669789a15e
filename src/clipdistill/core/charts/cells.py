"""A heat map of counts: the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .canvas import FAINT, INK, ON_SERIES, SERIES, figure, quiet, svg

CELL = 0.3
"""Side of a cell, in inches."""
DARK = 0.55
"""Share of a row above which its cell is dark enough for light text."""


def heat_map(
    counts: NDArray[np.int64], labels: Sequence[str], *, x_label: str, y_label: str
) -> str:
    """Draw counts as cells, each as dark as its share of the row, and return SVG text.

    Args:
        counts: int64 (C, C).
        labels: names of the C rows, which are also those of the columns.
        x_label: label of the x axis: what a column is.
        y_label: label of the y axis: what a row is.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from matplotlib.patches import Rectangle

    count = len(labels)
    drawn = figure((CELL * count + 1.7, CELL * count + 1.4))
    axes = drawn.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        share = float(shares[row, column])
        cell = Rectangle(
            (column - 0.5, row - 0.5),
            1,
            1,
            facecolor=SERIES[0],
            alpha=0.12 + 0.88 * share,
            linewidth=0,
        )
        axes.add_patch(cell)
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color=ON_SERIES if share > DARK else INK,
        )
    places = list(range(count))
    axes.set_xticks(
        places, labels, rotation=60, ha="right", rotation_mode="anchor", parse_math=False
    )
    axes.set_yticks(places, labels, parse_math=False)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    for place in range(count + 1):
        axes.axhline(place - 0.5, color=FAINT, alpha=0.25, linewidth=0.5)
        axes.axvline(place - 0.5, color=FAINT, alpha=0.25, linewidth=0.5)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    quiet(axes, "")
    return svg(drawn, clear=True)
