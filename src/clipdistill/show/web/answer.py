"""What models say of a picture, as the page shows it: HTML without scripts, every text escaped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.zeroshot import top_k
from ...models.recognizer import UNKNOWN, Recognizer

SHOWN = 5
"""Labels with a bar."""
EMPTY = (
    '<div class="answer"><p class="hint">Choose a picture, an example or the camera: the answer '
    "appears here.</p></div>"
)


@dataclass(frozen=True)
class Opinion:
    """What one model says of one picture.

    Attributes:
        title: "Student", "Teacher" or "Model".
        model: its name and what runs it.
        labels: the classes it chose from.
        probabilities: float32 (C,), of these classes.
        milliseconds: resizing and the model took; decoding is not in it.
        least: probability below which the answer is "unknown"; 0: never.
    """

    title: str
    model: str
    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]
    milliseconds: float
    least: float = 0.0

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """(label, probability) of the likeliest, the best first."""
        best = top_k(self.probabilities[None], SHOWN)[0]
        return [(self.labels[index], float(self.probabilities[index])) for index in best]

    @property
    def best(self) -> str:
        """The likeliest label."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def unknown(self) -> bool:
        """The likeliest label is not likely enough to be an answer."""
        return float(self.probabilities.max()) < self.least

    @property
    def answer(self) -> str:
        """The likeliest label, or "unknown"."""
        return UNKNOWN if self.unknown else self.best


def ask(recognizer: Recognizer, image: Image.Image, title: str) -> Opinion:
    """Ask one model about an RGB picture of any size."""
    start = time.perf_counter()
    pixels = np.stack([recognizer.preprocess.to_pixels(image)])
    probabilities = recognizer.probabilities(pixels)[0]
    took = 1000 * (time.perf_counter() - start)
    model = f"{short_name(recognizer.name)} · {recognizer.runtime}"
    return Opinion(title, model, recognizer.labels, probabilities, took)


def short_name(name: str) -> str:
    """A model's name without the folders before it; a hub's or open_clip's name as it is."""
    prefix, colon, rest = name.partition(":")
    if colon and not prefix.endswith("dir"):
        return name
    path = rest if colon else prefix
    if colon or path.startswith(("/", ".")) or path.endswith((".onnx", ".engine", ".pth")):
        return path.rstrip("/").rsplit("/", 1)[-1]
    return name


def judged(predictions: Sequence[Opinion], least: float) -> list[Opinion]:
    """The same predictions with this threshold; the last of two is the teacher's and has none."""
    return [replace(one, least=0.0 if one.title == "Teacher" else least) for one in predictions]


def render(predictions: Sequence[Opinion]) -> str:
    """The answer: one card a model, and whether they agree."""
    cards = "".join(_card(one) for one in predictions)
    verdict = agreement(predictions)
    note = f'<p class="agreement">{escape(verdict)}</p>' if verdict else ""
    say = escape(spoken(predictions), quote=True)
    return f'<div class="answer" data-say="{say}"><div class="cards">{cards}</div>{note}</div>'


def render_problem(sentence: str) -> str:
    """Why there is no answer."""
    text = escape(sentence, quote=True)
    return f'<div class="answer" data-say="{text}"><p class="problem">{text}</p></div>'


def agreement(predictions: Sequence[Opinion]) -> str:
    """Whether student and teacher say the same; "" where only one was asked."""
    if len(predictions) != 2:
        return ""
    student, teacher = predictions
    if student.unknown:
        does = "is" if student.best == teacher.best else "is not"
        return f"The student is not sure; its best guess {does} what the teacher says."
    if student.best == teacher.best:
        return f"They agree: {student.best}."
    return f"They disagree: the student says {student.best}, the teacher {teacher.best}."


def spoken(predictions: Sequence[Opinion]) -> str:
    """The answer for a screen reader, short; without shares, which change with every frame."""
    said = [f"{one.title}: {one.answer}." for one in predictions]
    return " ".join([*said, agreement(predictions)]).strip()


def _card(one: Opinion) -> str:
    ranked = one.ranked
    share = "below the threshold" if one.unknown else _percent(ranked[0][1])
    kind = " unsure" if one.unknown else ""
    first, *others = ranked  # the threshold concerns the first alone
    rows = _bar(*first, one.least) + "".join(_bar(*other) for other in others)
    return (
        f'<section class="card{kind}" aria-label="{escape(one.title, quote=True)}">'
        f'<div class="who"><h2>{escape(one.title)}</h2>'
        f'<span class="took">{_milliseconds(one.milliseconds)}</span></div>'
        f'<p class="verdict"><strong>{escape(one.answer)}</strong> <span>{share}</span></p>'
        f'<ol class="bars">{rows}</ol>'
        f'<p class="model">{escape(one.model)}</p></section>'
    )


def _bar(label: str, share: float, least: float = 0.0) -> str:
    tick = f'<span class="tick" style="left:{100 * least:.1f}%"></span>' if least > 0 else ""
    return (
        f'<li><span class="name" title="{escape(label, quote=True)}">{escape(label)}</span>'
        f'<span class="bar" aria-hidden="true"><span class="fill" style="width:{100 * share:.1f}%">'
        f'</span>{tick}</span><span class="share">{_percent(share)}</span></li>'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
