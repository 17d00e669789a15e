"""One drawing function per kind: dog, cat, fish ...

Every function draws its object with a `Pen` inside the square [-1, 1] x [-1, 1] (x to the right, y
down, the object upright).  The pen moves, turns and scales it.  The random generator of a function
varies the details (petals, tails, the time on the clock), never the kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]
Rng = np.random.Generator

CREAM: RGB = (252, 246, 232)
GLASS: RGB = (206, 232, 248)
GOLD: RGB = (250, 190, 50)
LEAF: RGB = (92, 160, 76)
METAL: RGB = (196, 200, 208)
NIGHT: RGB = (38, 36, 46)
ROSE: RGB = (238, 130, 140)
WOOD: RGB = (140, 98, 66)

_TURN = 2 * math.pi
_CIRCLE = tuple((math.cos(_TURN * i / 30), math.sin(_TURN * i / 30)) for i in range(30))


def mix(colour: RGB, other: RGB, share: float) -> RGB:
    """`colour` with `share` (0 to 1) of `other` in it."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return r, g, b


@dataclass(frozen=True)
class Ink:
    """The tones of one object, derived from its colour (8-bit RGB)."""

    base: RGB
    dark: RGB
    light: RGB
    line: RGB

    @classmethod
    def of(cls, base: RGB) -> Ink:
        """Tones around `base`; near-black objects get lighter tones, to show their details."""
        night = max(base) < 80
        dark = mix(base, (255, 255, 255), 0.22) if night else mix(base, (20, 10, 40), 0.25)
        light = mix(base, (255, 255, 255), 0.36 if night else 0.42)
        return cls(base, dark, light, mix(base, (24, 16, 36), 0.74))


def smooth(points: Sequence[Point], steps: int = 6) -> list[Point]:
    """A closed Catmull-Rom curve through `points`, `steps` corners between neighbours."""
    curve = []
    count = len(points)
    for i in range(count):
        p, q, r, s = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            a = -0.5 * t + t * t - 0.5 * t**3
            b = 1 - 2.5 * t * t + 1.5 * t**3
            c = 0.5 * t + 2 * t * t - 1.5 * t**3
            d = -0.5 * t * t + 0.5 * t**3
            curve.append(
                (
                    a * p[0] + b * q[0] + c * r[0] + d * s[0],
                    a * p[1] + b * q[1] + c * r[1] + d * s[1],
                )
            )
    return curve


def ellipse(
    x: float,
    y: float,
    rx: float,
    ry: float,
    *,
    turn: float = 0.0,
    start: float = 0.0,
    end: float = 1.0,
) -> list[Point]:
    """Points on an ellipse, `turn` in radians; `start` and `end` in turns, clockwise from +x."""
    if (start, end) == (0.0, 1.0):
        unit: Sequence[Point] = _CIRCLE
    else:
        steps = max(4, round(30 * abs(end - start)))
        angles = (_TURN * (start + (end - start) * i / steps) for i in range(steps + 1))
        unit = [(math.cos(a), math.sin(a)) for a in angles]
    c, s = math.cos(turn), math.sin(turn)
    return [(x + c * rx * u - s * ry * v, y + s * rx * u + c * ry * v) for u, v in unit]


class Pen:
    """Draws in unit-square coordinates on an image of any size, turned, mirrored and scaled."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        ink: Ink,
        *,
        centre: Point,
        radius: float,
        turn: float,
        mirror: bool,
    ) -> None:
        """`centre` and `radius` in pixels of `draw`; `turn` in radians, clockwise."""
        self.ink = ink
        self._draw = draw
        self._centre = centre
        self._radius = radius
        flip = -1.0 if mirror else 1.0
        c, s = radius * math.cos(turn), radius * math.sin(turn)
        self._matrix = (c * flip, -s, s * flip, c)

    def fill(self, points: Sequence[Point], colour: RGB, *, outline: bool = True) -> None:
        """A filled polygon, by default with the dark contour of the object."""
        corners = self._place(points)
        self._draw.polygon(corners, fill=colour)
        if outline:
            closed = corners + corners[:2]
            self._draw.line(closed, fill=self.ink.line, width=self._width(0.05), joint="curve")

    def stroke(self, points: Sequence[Point], width: float, colour: RGB) -> None:
        """A line with round ends; `width` in the units of the square."""
        corners = self._place(points)
        pixels = self._width(width)
        self._draw.line(corners, fill=colour, width=pixels, joint="curve")
        half = pixels / 2 - 0.5
        for x, y in (corners[0], corners[-1]):
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill=colour)

    def tube(self, points: Sequence[Point], width: float, colour: RGB) -> None:
        """A stroke with a contour around it: a tail, a handle, a rod."""
        self.stroke(points, width + 0.1, self.ink.line)
        self.stroke(points, width, colour)

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: RGB,
        *,
        turn: float = 0.0,
        outline: bool = True,
    ) -> None:
        """A filled ellipse."""
        self.fill(ellipse(x, y, rx, ry, turn=turn), colour, outline=outline)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        colour: RGB,
        *,
        outline: bool = True,
    ) -> None:
        """A filled rectangle."""
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.fill(corners, colour, outline=outline)

    def eye(self, x: float, y: float, radius: float) -> None:
        """A round eye, visible on light and on dark objects."""
        self.oval(x, y, radius, radius, (255, 255, 255))
        self.oval(x, y + radius * 0.1, radius * 0.62, radius * 0.62, NIGHT, outline=False)
        self.oval(
            x - radius * 0.2,
            y - radius * 0.2,
            radius * 0.24,
            radius * 0.24,
            (255, 255, 255),
            outline=False,
        )

    def _place(self, points: Sequence[Point]) -> list[Point]:
        a, b, c, d = self._matrix
        x0, y0 = self._centre
        # Rounded to 1/64 pixel, because the last bit of cos() differs between machines.
        return [
            (
                math.floor((x0 + a * x + b * y) * 64 + 0.5) / 64,
                math.floor((y0 + c * x + d * y) * 64 + 0.5) / 64,
            )
            for x, y in points
        ]

    def _width(self, width: float) -> int:
        return max(2, math.floor(width * self._radius + 0.5))


def dog(pen: Pen, rng: Rng) -> None:
    """Sits, with hanging ears, a pale muzzle and its tongue out."""
    ink = pen.ink
    pale = mix(ink.base, CREAM, 0.7)
    pen.tube([(0.45, 0.7), (0.78, 0.55), (0.9, 0.25 + 0.2 * rng.random())], 0.13, ink.base)
    pen.fill(
        smooth([(-0.38, 0.1), (0.38, 0.1), (0.58, 0.7), (0.45, 0.96), (-0.45, 0.96), (-0.58, 0.7)]),
        ink.base,
    )
    pen.oval(0, 0.62, 0.24, 0.32, pale, outline=False)
    for side in (-1, 1):
        pen.oval(side * 0.3, 0.9, 0.2, 0.1, pale)
    pen.fill(
        smooth(
            [
                (-0.42, -0.78),
                (0.42, -0.78),
                (0.58, -0.3),
                (0.36, 0.2),
                (0, 0.32),
                (-0.36, 0.2),
                (-0.58, -0.3),
            ]
        ),
        ink.base,
    )
    droop = 0.3 * rng.random()
    for side in (-1, 1):
        pen.fill(
            smooth(
                [
                    (side * 0.34, -0.84),
                    (side * 0.72, -0.72),
                    (side * 0.92, -0.1 - droop),
                    (side * 0.74, 0.12 - droop),
                    (side * 0.54, -0.2),
                ]
            ),
            ink.dark,
        )
        pen.eye(side * 0.24, -0.36, 0.14)
    pen.fill(smooth([(-0.1, 0.1), (0.1, 0.1), (0.11, 0.36), (0, 0.44), (-0.11, 0.36)]), ROSE)
    pen.oval(0, 0.02, 0.32, 0.2, pale)
    pen.oval(0, -0.1, 0.14, 0.1, NIGHT, outline=False)
    pen.stroke([(0, 0), (0, 0.1)], 0.04, NIGHT)


def cat(pen: Pen, rng: Rng) -> None:
    """Sits, with pointed ears, whiskers and a curled tail."""
    ink = pen.ink
    curl = 0.2 * rng.random()
    pen.tube(
        smooth([(0.3, 0.84), (0.8, 0.8), (0.84, 0.3), (0.7 + curl, 0.02)], 5)[:16], 0.13, ink.base
    )
    pen.fill(
        smooth([(-0.3, 0.1), (0.3, 0.1), (0.54, 0.7), (0.4, 0.96), (-0.4, 0.96), (-0.54, 0.7)]),
        ink.base,
    )
    for side in (-1, 1):
        pen.oval(side * 0.2, 0.9, 0.16, 0.09, ink.light)
        pen.fill([(side * 0.6, -0.98), (side * 0.14, -0.66), (side * 0.6, -0.3)], ink.base)
        pen.fill(
            [(side * 0.52, -0.82), (side * 0.3, -0.62), (side * 0.52, -0.46)], ROSE, outline=False
        )
    pen.fill(
        smooth(
            [
                (-0.34, -0.68),
                (0.34, -0.68),
                (0.66, -0.2),
                (0.36, 0.2),
                (0, 0.26),
                (-0.36, 0.2),
                (-0.66, -0.2),
            ]
        ),
        ink.base,
    )
    for x in (-0.14, 0, 0.14):
        pen.stroke([(x, -0.66), (x * 0.8, -0.46)], 0.06, ink.dark)
    pen.oval(0, 0.06, 0.24, 0.14, mix(ink.base, CREAM, 0.7), outline=False)
    pupil = 0.035 + 0.04 * rng.random()
    for side in (-1, 1):
        pen.oval(side * 0.27, -0.22, 0.14, 0.15, (190, 224, 96))
        pen.oval(side * 0.27, -0.22, pupil, 0.13, NIGHT, outline=False)
        for end in (-0.1, 0.06, 0.22):
            pen.stroke([(side * 0.22, 0.05), (side * 0.86, end)], 0.03, ink.line)
    pen.fill([(-0.08, -0.04), (0.08, -0.04), (0, 0.06)], ROSE)


def fish(pen: Pen, rng: Rng) -> None:
    """Swims to the left; stripes or scales."""
    ink = pen.ink
    spread = 0.42 + 0.14 * rng.random()
    pen.fill(
        smooth(
            [(0.42, 0), (0.74, -spread), (0.98, -spread), (0.82, 0), (0.98, spread), (0.74, spread)]
        ),
        ink.dark,
    )
    pen.fill(smooth([(-0.3, -0.36), (0.0, -0.72), (0.36, -0.6), (0.4, -0.2)]), ink.dark)
    pen.fill(smooth([(-0.1, 0.36), (0.14, 0.68), (0.32, 0.56), (0.3, 0.2)]), ink.dark)
    pen.fill(
        smooth(
            [
                (-0.96, 0.02),
                (-0.62, -0.36),
                (-0.1, -0.5),
                (0.36, -0.28),
                (0.6, 0),
                (0.36, 0.28),
                (-0.1, 0.5),
                (-0.62, 0.38),
            ]
        ),
        ink.base,
    )
    if rng.random() < 0.5:
        for x, half in ((-0.08, 0.43), (0.16, 0.33), (0.38, 0.2)):
            pen.stroke([(x, -half), (x + 0.08, 0), (x, half)], 0.09, ink.light)
    else:
        for x, y in (
            (-0.1, -0.2),
            (-0.1, 0.16),
            (0.12, 0),
            (0.12, -0.3),
            (0.12, 0.28),
            (0.34, -0.14),
            (0.34, 0.14),
        ):
            pen.stroke(ellipse(x, y, 0.1, 0.12, start=-0.25, end=0.25), 0.045, ink.dark)
    pen.stroke(ellipse(-0.5, 0, 0.16, 0.3, start=-0.22, end=0.22), 0.05, ink.line)
    pen.eye(-0.6, -0.1, 0.13)
    pen.stroke([(-0.9, 0.12), (-0.78, 0.16), (-0.7, 0.12)], 0.045, ink.line)


def bird(pen: Pen, rng: Rng) -> None:
    """Stands sideways, with a beak, one wing and two thin legs."""
    ink = pen.ink
    for x in (-0.08, 0.16):
        pen.stroke([(x, 0.5), (x, 0.9), (x - 0.16, 0.94)], 0.06, (206, 120, 40))
    lift = 0.24 * rng.random()
    pen.fill([(0.4, 0.08), (0.98, -0.06 - lift), (0.96, 0.2 - lift), (0.5, 0.42)], ink.dark)
    pen.fill([(-0.68, -0.56), (-0.99, -0.4), (-0.66, -0.3)], GOLD)
    pen.fill(
        smooth(
            [
                (-0.74, -0.5),
                (-0.46, -0.84),
                (-0.12, -0.66),
                (0.02, -0.26),
                (0.5, 0.04),
                (0.56, 0.34),
                (0.2, 0.6),
                (-0.3, 0.54),
                (-0.6, 0.16),
                (-0.62, -0.2),
            ]
        ),
        ink.base,
    )
    pen.fill(
        smooth(
            [(-0.54, 0.06), (-0.4, -0.1), (-0.26, 0.2), (-0.04, 0.44), (-0.3, 0.46), (-0.5, 0.26)]
        ),
        mix(ink.base, CREAM, 0.65),
        outline=False,
    )
    tip = 0.3 * rng.random()
    pen.fill(
        smooth(
            [
                (-0.22, -0.1),
                (0.1, -0.2),
                (0.44, 0.04),
                (0.74, 0.3 - 2 * tip),
                (0.3, 0.34),
                (-0.08, 0.24),
            ]
        ),
        ink.dark,
    )
    pen.stroke([(0.06, 0.1), (0.3, 0.16)], 0.045, ink.line)
    pen.eye(-0.48, -0.5, 0.12)


def tree(pen: Pen, rng: Rng) -> None:
    """A round crown of leaves, or a fir of three storeys."""
    ink = pen.ink
    pen.fill([(-0.14, 0.1), (0.14, 0.1), (0.24, 0.98), (-0.24, 0.98)], WOOD)
    if rng.random() < 0.4:
        for top, bottom, half in ((0.02, 0.62, 0.74), (-0.44, 0.2, 0.6), (-0.98, -0.22, 0.44)):
            pen.fill([(0, top), (half, bottom), (0, bottom + 0.08), (-half, bottom)], ink.base)
            pen.fill(
                [(0, top), (half, bottom), (half * 0.3, bottom + 0.05)], ink.dark, outline=False
            )
        return
    puffs = (
        (-0.44, -0.06, 0.4),
        (0.44, -0.06, 0.4),
        (-0.3, -0.5, 0.4),
        (0.3, -0.5, 0.4),
        (0.0, -0.64, 0.36),
        (0.0, 0.06, 0.36),
    )
    for x, y, r in puffs:
        pen.oval(x, y, r, r, ink.base)
    for x, y, r in puffs:
        pen.oval(x, y, r - 0.025, r - 0.025, ink.base, outline=False)
    for x, y in ((-0.4, -0.5), (0.06, -0.72), (-0.5, -0.04), (0.04, -0.2)):
        pen.stroke(ellipse(x, y, 0.17, 0.17, start=0.45, end=0.75), 0.06, ink.light)
    for x, y in ((0.5, 0.02), (0.36, -0.46), (0.0, 0.16)):
        pen.stroke(ellipse(x, y, 0.2, 0.2, start=0.0, end=0.25), 0.06, ink.dark)


def house(pen: Pen, rng: Rng) -> None:
    """Walls in the colour, a darker roof, a door, windows and perhaps a chimney."""
    ink = pen.ink
    if rng.random() < 0.7:
        pen.box(0.36, -0.86, 0.6, -0.3, (168, 96, 80))
    pen.box(-0.7, -0.16, 0.7, 0.94, ink.base)
    pen.fill([(0, -0.96), (0.96, -0.1), (-0.96, -0.1)], ink.dark)
    for y, half in ((-0.36, 0.56), (-0.62, 0.26)):
        pen.stroke([(-half, y), (half, y)], 0.045, ink.line)
    door = -0.34 if rng.random() < 0.5 else 0.34
    pen.box(door - 0.19, 0.3, door + 0.19, 0.94, WOOD)
    pen.oval(door + 0.1, 0.64, 0.04, 0.04, GOLD, outline=False)
    pen.box(-door - 0.24, 0.2, -door + 0.24, 0.64, GLASS)
    pen.stroke([(-door, 0.2), (-door, 0.64)], 0.05, ink.line)
    pen.stroke([(-door - 0.24, 0.42), (-door + 0.24, 0.42)], 0.05, ink.line)


def car(pen: Pen, rng: Rng) -> None:
    """Drives to the left: saloon or hatchback, two wheels, two windows."""
    ink = pen.ink
    back = 0.5 + 0.36 * rng.random()
    pen.fill(
        smooth(
            [
                (-0.6, 0.0),
                (-0.34, -0.46),
                (-0.1, -0.52),
                (back - 0.3, -0.52),
                (back - 0.06, -0.4),
                (back, 0.0),
                (0.0, 0.1),
            ]
        ),
        ink.base,
    )
    pen.fill([(-0.44, -0.06), (-0.26, -0.38), (0.0, -0.4), (0.0, -0.06)], GLASS)
    pen.fill([(0.1, -0.06), (0.1, -0.4), (back - 0.28, -0.4), (back - 0.12, -0.06)], GLASS)
    pen.fill(
        smooth(
            [
                (-0.98, 0.2),
                (-0.86, -0.02),
                (-0.5, -0.1),
                (0.5, -0.1),
                (0.9, -0.06),
                (0.98, 0.2),
                (0.94, 0.44),
                (0.5, 0.46),
                (-0.5, 0.46),
                (-0.94, 0.44),
            ]
        ),
        ink.base,
    )
    pen.stroke([(-0.9, 0.32), (0.9, 0.32)], 0.07, ink.dark)
    pen.stroke([(0.05, -0.02), (0.05, 0.26)], 0.04, ink.line)
    pen.stroke([(0.12, 0.06), (0.22, 0.06)], 0.05, ink.line)
    pen.oval(-0.88, 0.14, 0.07, 0.09, (255, 236, 150))
    pen.oval(0.91, 0.12, 0.05, 0.09, (226, 60, 50))
    for x in (-0.54, 0.54):
        pen.oval(x, 0.46, 0.27, 0.27, NIGHT)
        pen.oval(x, 0.46, 0.13, 0.13, METAL, outline=False)


def boat(pen: Pen, rng: Rng) -> None:
    """A sailing boat: hull and big sail in the colour, a pale foresail and a pennant."""
    ink = pen.ink
    pen.stroke([(0, -0.94), (0, 0.4)], 0.09, WOOD)
    pen.fill([(0.02, -0.96), (0.34, -0.86), (0.02, -0.76)], (226, 70, 60))
    full = 0.7 + 0.2 * rng.random()
    pen.fill([(0.08, -0.7), (0.3, -0.4), (full - 0.12, 0.0), (full, 0.26), (0.08, 0.26)], ink.light)
    pen.fill([(-0.08, -0.6), (-0.08, 0.26), (-0.66, 0.26), (-0.4, -0.1)], CREAM)
    if rng.random() < 0.5:
        pen.stroke([(0.1, -0.12), (full - 0.3, -0.12)], 0.06, ink.base)
        pen.stroke([(0.1, 0.08), (full - 0.12, 0.08)], 0.06, ink.base)
    pen.fill(
        [(-0.96, 0.38), (0.96, 0.38), (0.7, 0.84), (0.56, 0.92), (-0.5, 0.92), (-0.68, 0.84)],
        ink.base,
    )
    pen.stroke([(-0.84, 0.5), (0.84, 0.5)], 0.07, CREAM)
    for x in (-0.36, 0.0, 0.36):
        pen.oval(x, 0.7, 0.08, 0.08, GLASS)


def star(pen: Pen, rng: Rng) -> None:
    """Five points with facets, like a Christmas star."""
    ink = pen.ink
    inner = 0.4 + 0.08 * rng.random()
    rim = []
    for i in range(10):
        angle = _TURN * (i / 10 - 0.25)
        radius = 0.99 if i % 2 == 0 else inner
        rim.append((radius * math.cos(angle), radius * math.sin(angle)))
    pen.fill(rim, ink.base)
    for i in range(0, 10, 2):
        pen.fill([(0, 0), rim[i], rim[i + 1]], ink.dark, outline=False)
        pen.fill([(0, 0), rim[i], rim[i - 1]], mix(ink.base, ink.light, 0.5), outline=False)
    for i in range(10):
        pen.stroke([rim[i], rim[i - 1]], 0.05, ink.line)


def umbrella(pen: Pen, rng: Rng) -> None:
    """Open, with four panels, a scalloped hem and a hooked handle."""
    ink = pen.ink
    hook = ellipse(-0.15, 0.78, 0.15, 0.16, start=0.0, end=0.5)
    pen.tube([(0, -0.9), (0, 0.78), *hook], 0.07, WOOD)
    hem = 0.06 + 0.08 * rng.random()
    tips = (-0.98, -0.5, 0.0, 0.5, 0.98)
    for i, colour in enumerate((ink.base, ink.light, ink.base, ink.light)):
        left, right = tips[i], tips[i + 1]
        width = right - left
        arch = [(left + width * t, 0.06 - 4 * hem * t * (1 - t)) for t in (k / 6 for k in range(7))]
        seam_in = [_dome(right, k / 6) for k in range(7)]
        seam_out = [_dome(left, 1 - k / 6) for k in range(7)]
        pen.fill([*arch, *seam_in, *seam_out], colour)


def _dome(tip: float, share: float) -> Point:
    """A point on the seam of an umbrella, from its `tip` on the hem (share 0) to the top (1)."""
    angle = _TURN / 4 * (1 - share)
    return tip * math.sin(angle), 0.06 - 0.9 * math.cos(angle)


def mushroom(pen: Pen, rng: Rng) -> None:
    """A cap with pale dots on a cream stem."""
    ink = pen.ink
    stout = 0.22 + 0.1 * rng.random()
    pen.fill(
        smooth(
            [
                (-stout, 0.0),
                (stout, 0.0),
                (stout + 0.04, 0.6),
                (stout + 0.14, 0.94),
                (-stout - 0.14, 0.94),
                (-stout - 0.04, 0.6),
            ]
        ),
        CREAM,
    )
    pen.stroke([(stout - 0.04, 0.3), (stout, 0.8)], 0.08, mix(CREAM, WOOD, 0.3))
    pen.fill(
        smooth(
            [
                (-0.96, 0.08),
                (-0.8, -0.46),
                (-0.36, -0.84),
                (0.1, -0.9),
                (0.6, -0.68),
                (0.92, -0.2),
                (0.94, 0.12),
                (0.4, 0.24),
                (-0.4, 0.24),
            ]
        ),
        ink.base,
    )
    spot = 0.14 + 0.05 * rng.random()
    dots = CREAM if sum(ink.base) < 660 else ink.dark
    for x, y, r in (
        (-0.5, -0.28, spot),
        (0.02, -0.54, spot * 1.1),
        (0.5, -0.34, spot),
        (-0.08, -0.06, spot * 0.9),
        (0.66, 0.0, spot * 0.7),
        (-0.72, 0.02, spot * 0.6),
    ):
        pen.oval(x, y, r, r * 0.86, dots, outline=False)


def flower(pen: Pen, rng: Rng) -> None:
    """Round petals about a golden heart, on a stem with two leaves."""
    ink = pen.ink
    pen.tube([(0, -0.1), (0.04, 0.5), (0, 0.94)], 0.08, LEAF)
    for side, y in ((-1, 0.72), (1, 0.6)):
        pen.fill(
            smooth(
                [
                    (0.02, y),
                    (side * 0.24, y - 0.22),
                    (side * 0.56, y - 0.24),
                    (side * 0.34, y + 0.04),
                ]
            ),
            LEAF,
        )
    petals = int(rng.integers(5, 9))
    long = 0.25 if petals < 7 else 0.29
    wide = 0.62 / petals + 0.12
    for i in range(petals):
        angle = _TURN * (i + 0.5) / petals
        x, y = 0.4 * math.cos(angle), -0.38 + 0.4 * math.sin(angle)
        pen.oval(x, y, long, wide, ink.base if i % 2 or petals % 2 else ink.light, turn=angle)
    heart_colour = GOLD if ink.base[2] > 90 or ink.base[1] < 120 else WOOD
    pen.oval(0, -0.38, 0.24, 0.24, heart_colour)
    for i in range(5):
        x, y = 0.11 * math.cos(_TURN * i / 5), -0.38 + 0.11 * math.sin(_TURN * i / 5)
        pen.oval(x, y, 0.035, 0.035, mix(heart_colour, NIGHT, 0.35), outline=False)


def sun(pen: Pen, rng: Rng) -> None:
    """A smiling disc with pointed rays."""
    ink = pen.ink
    rays = int(rng.integers(10, 15))
    phase = rng.random()
    for i in range(rays):
        angle = _TURN * (i + phase) / rays
        reach = 0.98 if i % 2 == 0 else 0.84
        tips = [(0.52, angle - 0.17), (reach, angle), (0.52, angle + 0.17)]
        pen.fill(
            [(r * math.cos(a), r * math.sin(a)) for r, a in tips], ink.light if i % 2 else ink.base
        )
    pen.oval(0, 0, 0.56, 0.56, ink.base)
    for side in (-1, 1):
        pen.oval(
            side * 0.2, -0.12, 0.07, 0.1, NIGHT if max(ink.base) > 80 else CREAM, outline=False
        )
        pen.oval(side * 0.34, 0.08, 0.09, 0.07, ROSE, outline=False)
    pen.stroke(ellipse(0, 0.06, 0.22, 0.2, start=0.04, end=0.46), 0.06, ink.line)


def moon(pen: Pen, rng: Rng) -> None:
    """A crescent with craters and one sleepy eye."""
    ink = pen.ink
    depth = 0.2 + 0.16 * rng.random()
    outer = ellipse(0.1, 0, 0.94, 0.97, start=0.2, end=0.8)
    top, bottom = outer[-1], outer[0]
    inner = [
        (
            top[0] * (1 - t) + bottom[0] * t - 4 * t * (1 - t) * depth,
            top[1] * (1 - t) + bottom[1] * t,
        )
        for t in (k / 14 for k in range(1, 14))
    ]
    pen.fill([*outer, *inner], ink.base)
    for x, y, r in (
        (-0.58, -0.34, 0.1),
        (-0.62, 0.3, 0.13),
        (-0.28, 0.66, 0.08),
        (-0.3, -0.66, 0.07),
    ):
        pen.oval(x, y, r, r, ink.dark, outline=False)
    pen.stroke(ellipse(-0.5, -0.04, 0.13, 0.1, start=0.02, end=0.48), 0.06, ink.line)


def heart(pen: Pen, rng: Rng) -> None:
    """A valentine, glossy or stitched."""
    ink = pen.ink
    left = [
        (0, -0.5),
        (-0.14, -0.72),
        (-0.46, -0.86),
        (-0.8, -0.72),
        (-0.96, -0.36),
        (-0.84, 0.06),
        (-0.5, 0.48),
        (-0.2, 0.76),
        (0, 0.94),
    ]
    rim = smooth(left, 4)[: 4 * (len(left) - 1) + 1]
    whole = [*rim, *[(-x, y) for x, y in reversed(rim[1:-1])]]
    pen.fill(whole, ink.base)
    if rng.random() < 0.5:
        inner = [(0.8 * x, 0.8 * y - 0.02) for x, y in whole]
        for i in range(0, len(inner) - 1, 3):
            pen.stroke([inner[i], inner[i + 1]], 0.05, mix(ink.light, CREAM, 0.4))
    else:
        pen.stroke(
            ellipse(-0.46, -0.34, 0.28, 0.28, start=0.5, end=0.74), 0.13, mix(ink.light, CREAM, 0.5)
        )


def cup(pen: Pen, rng: Rng) -> None:
    """A steaming mug with one handle."""
    ink = pen.ink
    for x in (-0.42, -0.14, 0.14):
        sway = 0.08 + 0.06 * rng.random()
        pen.stroke(
            [(x, -0.56), (x + sway, -0.68), (x - sway / 2, -0.82), (x + sway, -0.96)],
            0.06,
            mix(METAL, CREAM, 0.5),
        )
    pen.tube(ellipse(0.5, 0.16, 0.34, 0.32, start=-0.25, end=0.25), 0.13, ink.base)
    pen.fill(
        smooth(
            [
                (-0.76, -0.38),
                (0.48, -0.38),
                (0.48, 0.5),
                (0.3, 0.86),
                (-0.14, 0.92),
                (-0.58, 0.86),
                (-0.76, 0.5),
            ]
        ),
        ink.base,
    )
    if rng.random() < 0.5:
        pen.stroke([(-0.72, 0.26), (-0.14, 0.34), (0.44, 0.26)], 0.12, ink.light)
    pen.stroke([(-0.6, 0.02), (-0.58, 0.52)], 0.09, ink.light)
    pen.oval(-0.14, -0.4, 0.64, 0.16, ink.light)
    pen.oval(-0.14, -0.38, 0.52, 0.1, (96, 60, 40), outline=False)


def key(pen: Pen, rng: Rng) -> None:
    """An old door key lying on its side: ring, shaft and bit."""
    ink = pen.ink
    pen.box(-0.2, -0.1, 0.96, 0.1, ink.base)
    first = 0.3 + 0.14 * rng.random()
    for x, y in ((0.62, 0.44), (0.86, 0.34 + 0.14 * rng.random())):
        pen.box(x - 0.08, 0.06, x + 0.08, y, ink.base)
    pen.box(0.52, -0.07, 0.95, 0.07, ink.base, outline=False)
    pen.box(-0.02 + first - 0.3, -0.19, 0.1 + first - 0.3, 0.19, ink.light)
    ring = ellipse(-0.54, 0, 0.3, 0.3)
    pen.tube([*ring, ring[0]], 0.19, ink.base)
    pen.stroke(ellipse(-0.54, 0, 0.31, 0.31, start=0.5, end=0.75), 0.06, ink.light)


def clock(pen: Pen, rng: Rng) -> None:
    """An alarm clock: bells, feet, a cream face and hands at any time."""
    ink = pen.ink
    for side in (-1, 1):
        pen.tube([(side * 0.5, 0.66), (side * 0.62, 0.92)], 0.1, ink.dark)
        pen.oval(side * 0.5, -0.66, 0.32, 0.2, ink.base, turn=side * 0.7)
    pen.tube([(0, -0.7), (0, -0.88)], 0.1, ink.dark)
    pen.oval(0, 0.08, 0.8, 0.8, ink.base)
    pen.oval(0, 0.08, 0.6, 0.6, CREAM)
    for i in range(12):
        u, v = math.cos(_TURN * i / 12), math.sin(_TURN * i / 12)
        inner = 0.42 if i % 3 == 0 else 0.48
        pen.stroke([(inner * u, 0.08 + inner * v), (0.53 * u, 0.08 + 0.53 * v)], 0.05, NIGHT)
    hour = rng.random()
    for turn, reach, width in ((hour, 0.28, 0.09), (hour * 12 % 1, 0.42, 0.06)):
        angle = _TURN * (turn - 0.25)
        pen.stroke(
            [(0, 0.08), (reach * math.cos(angle), 0.08 + reach * math.sin(angle))], width, NIGHT
        )
    pen.oval(0, 0.08, 0.07, 0.07, (220, 60, 50), outline=False)


def apple(pen: Pen, rng: Rng) -> None:
    """Round with a dent on top, a stalk and one leaf."""
    ink = pen.ink
    pen.fill(
        smooth(
            [
                (0, -0.42),
                (0.34, -0.58),
                (0.76, -0.42),
                (0.88, 0.06),
                (0.64, 0.66),
                (0.28, 0.92),
                (0, 0.84),
                (-0.28, 0.92),
                (-0.64, 0.66),
                (-0.88, 0.06),
                (-0.76, -0.42),
                (-0.34, -0.58),
            ]
        ),
        ink.base,
    )
    pen.stroke(ellipse(0.1, 0.16, 0.6, 0.6, start=0.02, end=0.17), 0.09, ink.dark)
    pen.stroke(
        ellipse(-0.4, -0.02, 0.26, 0.34, start=0.5, end=0.7), 0.12, mix(ink.light, CREAM, 0.4)
    )
    pen.stroke([(-0.18, -0.4), (0, -0.34), (0.18, -0.4)], 0.06, ink.line)
    lean = 0.2 * rng.random() - 0.1
    pen.stroke([(0, -0.38), (lean / 2, -0.62), (lean - 0.04, -0.9)], 0.1, WOOD)
    pen.fill(smooth([(0.06, -0.64), (0.24, -0.94), (0.64, -0.94), (0.46, -0.68)]), LEAF)
    pen.stroke([(0.14, -0.7), (0.48, -0.86)], 0.035, mix(LEAF, NIGHT, 0.4))


def butterfly(pen: Pen, rng: Rng) -> None:
    """Seen from above: four wings with spots, a thin body and two feelers."""
    ink = pen.ink
    spot = mix(ink.light, CREAM, 0.55)
    low = 0.56 + 0.16 * rng.random()
    for side in (-1, 1):
        pen.fill(
            smooth(
                [
                    (side * 0.06, 0.06),
                    (side * 0.5, 0.14),
                    (side * 0.76, 0.44),
                    (side * low, 0.86),
                    (side * 0.28, 0.72),
                ]
            ),
            ink.dark,
        )
        pen.fill(
            smooth(
                [
                    (side * 0.06, -0.1),
                    (side * 0.34, -0.62),
                    (side * 0.8, -0.82),
                    (side * 0.98, -0.5),
                    (side * 0.78, 0.06),
                    (side * 0.3, 0.16),
                ]
            ),
            ink.base,
        )
        pen.oval(side * 0.7, -0.5, 0.15, 0.13, spot, outline=False)
        pen.oval(side * 0.42, -0.2, 0.11, 0.1, spot, outline=False)
        pen.oval(side * 0.5, 0.5, 0.12, 0.12, spot, outline=False)
        pen.stroke([(0, -0.44), (side * 0.1, -0.72), (side * 0.26, -0.9)], 0.05, ink.line)
    pen.oval(0, 0.08, 0.09, 0.52, mix(WOOD, NIGHT, 0.5))
    pen.oval(0, -0.42, 0.11, 0.11, mix(WOOD, NIGHT, 0.5))


SHAPES: dict[str, Callable[[Pen, Rng], None]] = {
    shape.__name__: shape
    for shape in (
        dog,
        cat,
        fish,
        bird,
        butterfly,
        tree,
        flower,
        mushroom,
        apple,
        house,
        car,
        boat,
        umbrella,
        cup,
        key,
        clock,
        star,
        sun,
        moon,
        heart,
    )
}
"""Name of each kind, and the function that draws it."""
