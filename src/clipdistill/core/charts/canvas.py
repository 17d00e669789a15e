"""What all charts share: the figure, its colours, the style of axes and legends, SVG output."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from ..errors import MissingExtraError

SIZE = (8.0, 5.0)
"""Default size of a figure in inches; an SVG can be scaled."""
INK = "#1b1f24"
"""Colour of text, and of marks that belong to no series."""
FAINT = "#8a9099"
"""Colour of axes and grids."""
SERIES = ("#0b6e7f", "#c2571a", "#6a4fb3", "#3a7d34", "#b0305c", "#8a6d00")
"""One colour per series.  They differ in hue and lightness, but are never the only difference."""
ON_SERIES = "#fdfdfd"
"""Colour of text on the first series' colour."""
MARKERS = "osD^vP*X"


def figure(size: tuple[float, float] = SIZE) -> Any:
    """Make an empty figure of `size` inches.

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
    """Style axes: no box, no tick marks, a faint grid along "x", "y" or "both" ("" for none)."""
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


def log_scale(axes: Any, which: str) -> None:
    """Make the "x" or "y" axis logarithmic, labelled at 1, 2 and 5 times each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend(drawn: Any, handles: list[Any], columns: int) -> None:
    """Draw a legend without a frame below the axes; its texts are never parsed as formulas."""
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
    """Render a figure as SVG text (no XML declaration); `clear` makes it transparent."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "clipdistill"}),
        warnings.catch_warnings(),
    ):
        # A letter that matplotlib's font lacks is measured as a box; the viewer's font has it.
        warnings.filterwarnings("ignore", message="Glyph")
        drawn.savefig(
            buffer, format="svg", transparent=clear, metadata={"Date": None, "Creator": None}
        )
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), count=1, flags=re.S)
