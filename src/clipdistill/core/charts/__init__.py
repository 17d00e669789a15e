"""Charts as SVG text, to be written to a file or put into a page (needs matplotlib: `plots`).

matplotlib's figures are used without pyplot: no window and no global state.  Text is written as
text, so nothing depends on this machine's fonts, and the same values give the same SVG.

    scatter, marks, lines, bars, heat_map   values -> a whole SVG
    inline                                  that SVG -> a part of a page, in the page's own colours
"""

from .bars import Bar, bars
from .canvas import check_available
from .cells import heat_map
from .inline import inline
from .lines import Line, lines
from .points import Point, marks, scatter

__all__ = [
    "Bar",
    "Line",
    "Point",
    "bars",
    "check_available",
    "heat_map",
    "inline",
    "lines",
    "marks",
    "scatter",
]
