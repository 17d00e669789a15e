"""Drawing the prediction into the frame."""

from __future__ import annotations

import numpy as np

from ...core.wording import percent
from .frames import Pixels
from .letters import Letters, shorten
from .loop import Seen
from .opencv import load_cv2

SHORTEST = 360
"""Least shorter side in pixels; smaller frames are enlarged, so that the text is readable."""
LONGEST = 3840
"""Longest side of an enlarged frame in pixels."""
LINES = 24
"""Lines of text per shorter side of the frame."""
PANEL = 0.62
"""Width of the panel as a share of the shorter side."""
DARK = 0.28
"""Brightness of the frame behind the panel, so that white text is readable on any frame."""
BAR = np.array([30, 110, 190], dtype=np.uint8)
"""Colour of the bars: white text has a contrast of 5.2:1 on it."""


def annotate(seen: Seen, letters: Letters) -> Pixels:
    """Draw label, bars and speed into the upper left corner of the frame.

    Returns:
        RGB uint8 (H, W, 3), a new array; small frames are enlarged by a whole factor.
    """
    canvas = enlarged(seen.answer.frame.pixels)
    shorter = min(canvas.shape[:2])
    line = max(12, shorter // LINES)
    margin = line // 2
    wide = min(canvas.shape[1] - 2 * margin, round(PANEL * shorter))
    prediction, speed = seen.prediction, seen.status.speed
    room = (canvas.shape[0] - 2 * margin - 4 * line) // (line + line // 2)
    bars = prediction.ranked[: max(1, room)]
    high = 2 * line + len(bars) * (line + line // 2) + line + margin
    left, top = margin, margin
    panel = canvas[top : top + high, left : left + wide]
    np.multiply(panel, DARK, out=panel, casting="unsafe")
    inner = wide - 2 * margin
    left, y = left + margin, top + margin // 2
    title = shorten(letters, prediction.headline, round(1.3 * line), inner)
    letters.draw(canvas, title, left, y, round(1.3 * line))
    y += 2 * line - margin // 2
    for label, share in bars:
        _bar(canvas, letters, (left, y, inner, line), label, share)
        y += line + line // 2
    small = max(11, round(0.8 * line))
    fps = f"{speed.fps:.1f} frames/s  " if speed.fps else ""
    footer = f"{fps}{1000 * speed.latency:.1f} ms"
    letters.draw(canvas, shorten(letters, footer, small, inner), left, y, small)
    return canvas


def enlarged(pixels: Pixels) -> Pixels:
    """Copy a frame, enlarged to `SHORTEST` pixels unless a side would exceed `LONGEST`."""
    short, long = sorted(pixels.shape[:2])
    times = min(-(-SHORTEST // short), LONGEST // long)
    if times <= 1:
        return pixels.copy()
    cv2 = load_cv2()
    size = (times * pixels.shape[1], times * pixels.shape[0])
    larger: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    return larger


def _bar(
    canvas: Pixels, letters: Letters, box: tuple[int, int, int, int], label: str, share: float
) -> None:
    left, top, wide, line = box
    full = round(wide * min(1.0, max(0.0, share)))
    canvas[top : top + line + line // 4, left : left + full] = BAR
    number = percent(share)
    space = letters.width(number, line)
    pad = line // 4
    name = shorten(letters, label, line, wide - space - 3 * pad)
    letters.draw(canvas, name, left + pad, top + pad // 2, line)
    letters.draw(canvas, number, left + wide - space - pad, top + pad // 2, line)
