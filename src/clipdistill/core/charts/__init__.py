"""Charts as SVG text, to be written to a file or put into a page (needs matplotlib: `plots`).

matplotlib's figures are used without pyplot: no window, no global state, and nothing that depends
on this machine's fonts, since text stays text.  The same values give the same text.

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
