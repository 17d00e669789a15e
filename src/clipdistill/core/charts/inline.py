"""Charts as parts of an HTML page: described in words, in the page's own colours and fonts."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from .canvas import FAINT, INK, ON_SERIES, SERIES

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
COLOURS = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    ON_SERIES: "var(--on-series)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(SERIES, 1)},
}
"""Colours of the charts -> variables of the page, which defines them for light and dark mode."""


def inline(chart: str, ident: str, title: str, description: str) -> str:
    """Convert an SVG of this package to a part of an HTML page.

    It becomes one image with a name and a description, and fills the width of its place.  Its ids
    begin with `ident`, so that the ids of several charts in one page never clash.

    Args:
        chart: SVG text.
        ident: prefix of its ids, unique in the page.
        title: name of the chart for screen readers.
        description: summary of the chart's values for screen readers.
    """
    ET.register_namespace("", SVG)
    root = ET.fromstring(chart)
    width = root.attrib.pop("width", "")
    root.attrib.pop("height", None)
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{ident}-title {ident}-desc",
        "style": f"max-width: {_wide(width)}",
    }
    for child in [*root]:
        if child.tag == f"{{{SVG}}}metadata" or child.find(f"{{{SVG}}}style") is not None:
            root.remove(child)
    for element in root.iter():
        _adapt(element, ident)
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{ident}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode")


def _wide(points: str) -> str:
    """The largest width on the page: a little above its own, so that text does not grow large."""
    return f"{1.6 * float(points.removesuffix('pt') or 0):.0f}px"


def _adapt(element: ET.Element, ident: str) -> None:
    if "id" in element.attrib:
        element.attrib["id"] = f"{ident}-{element.attrib['id']}"
    if LINK in element.attrib:
        element.attrib["href"] = f"#{ident}-{element.attrib.pop(LINK).removeprefix('#')}"
    for name in ("clip-path", "style"):
        if name in element.attrib:
            element.attrib[name] = _style(element.attrib[name], ident)
    if element.tag == f"{{{SVG}}}text" and "fill" not in element.attrib.get("style", ""):
        element.attrib["style"] = f"{element.attrib.get('style', '')}; fill: var(--ink)".strip("; ")


def _style(text: str, ident: str) -> str:
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{ident}-\1)", text)
    text = re.sub(r"font-family:[^;]*;?\s*", "", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: COLOURS.get(match[0], match[0]), text)
