"""The page that classifies images in a browser: its markup, style and script.

`demo --web` and `export --target web` show this page.  Each adds a module `source.js`, which gives
the page its answers: from the demo's server, or from a model in the browser itself.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

PageFile = Literal["index.html", "page.css", "page.js"]


def page_file(name: PageFile) -> bytes:
    """Read a file of the page, UTF-8."""
    return (files(__package__) / "static" / name).read_bytes()
