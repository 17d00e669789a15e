"""What all charts share: the figure, its colours, quiet axes, and the way to SVG text."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from ..errors import MissingExtraError

SIZE = (8.0, 5.0)
"""Inches; an SVG scales."""
INK = "#1b1f24"
"""Text and marks without a series."""
FAINT = "#8a9099"
"""Axes and grids."""
SERIES = ("#0b6e7f", "#c2571a", "#6a4fb3", "#3a7d34", "#b0305c", "#8a6d00")
"""One colour a series; distinct in hue and lightness, but never the only difference."""
ON_SERIES = "#fdfdfd"
"""Text on the first series' colour."""
MARKERS = "osD^vP*X"


def figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure of `size` inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "Drawing a chart") from error
    return Figure(figsize=size, layout="constrained")


def check_available() -> None:
    """Check that charts can be drawn, before the work whose results they show.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure()


def quiet(axes: Any, grid: str = "y") -> None:
    """No box, no tick marks, a faint grid along "x", "y" or "both"; "" for none."""
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" and grid != "x")
        spine.set_color(FAINT)
    axes.tick_params(which="both", length=0, labelsize=9.5, labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9.5)
    if grid:
        axes.grid(True, axis=grid, color=FAINT, alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(drawn: Any, handles: list[Any], columns: int) -> None:
    """A legend without a frame below the axes; its texts are never read as formulas."""
    box = drawn.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.4,
    )
    for text in box.get_texts():
        text.set_parse_math(False)


def svg(drawn: Any, *, clear: bool = False) -> str:
    """A figure as SVG text without an XML declaration; `clear` leaves out the white ground."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "clipdistill"}),
        warnings.catch_warnings(),
    ):
        # A letter that matplotlib's own font lacks is measured as a box; the reader's has it.
        warnings.filterwarnings("ignore", message="Glyph")
        drawn.savefig(
            buffer, format="svg", transparent=clear, metadata={"Date": None, "Creator": None}
        )
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.S)
