"""The page itself: what is on it, and what happens when something is touched."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio
from PIL import Image

from ...core.errors import ClipDistillError, ImageError
from ...images.decode import decode
from .answer import EMPTY, Opinion, ask, judged, render, render_problem, short_name
from .classes import LONGEST_TEXT, ClassLists, parse_classes

TITLE = "clipdistill demo"
MAX_UPLOAD = 20 << 20
"""Bytes of an uploaded picture."""
MAX_PIXELS = 50_000_000
"""Pixels (width x height) of an uploaded picture."""
STREAM_SECONDS = 0.2
"""Between two frames of the camera; a slow model makes it longer, and frames between are lost."""
STREAMS = 4
"""Cameras (browser tabs) answered at once."""
NO_ENCODER = (
    "The list is fixed: new classes need a text encoder, and none is at hand. Start the demo with "
    "--teacher to edit it."
)
CAMERA = (
    '<p class="hint">Frames stay on this machine, and none is kept. The browser asks before it '
    "lets the page see the camera.</p>"
)
Labels = tuple[str, ...]
DECODED_SIDE = 1024
"""Pixels that a model's input may have without a photo being decoded smaller than it can use."""
KEPT = (300, 600)
"""Seconds: how often old uploads are looked for, and what is old."""
QUICK: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Of events that go around gradio's queue; a lock has the models used in turn.  In the queue, what
came soon after another event was lost in 3 of 9 runs of the test of the class list (gradio 6.31,
2026-11)."""
READY = "One class a line. New classes work at once, without any training."


@dataclass(frozen=True)
class Shown:
    """What a visitor sees, kept so that it can be looked at anew.

    Attributes:
        data: the encoded picture, or the last frame of the camera; empty: none.
        predictions: what the models said of it.
    """

    data: bytes = b""
    predictions: tuple[Opinion, ...] = ()


class Page:
    """What the page does: pictures, classes and threshold in, HTML out.

    Args:
        lists: the models for any class list.
    """

    def __init__(self, lists: ClassLists) -> None:
        self.lists = lists
        self._one_at_a_time = threading.Lock()

    def see(
        self, picture: dict[str, Any] | None, labels: Labels, least: float, both: bool
    ) -> tuple[Any, Shown]:
        """Answer a picture as the browser sent it; None: it was taken away."""
        if picture is None:
            return EMPTY, Shown()
        try:
            data = _bytes_of(picture)
        except ImageError as error:
            return render_problem(f"This picture cannot be used: {error}."), Shown()
        return self.again(Shown(data), labels, least, both)

    def again(self, shown: Shown, labels: Labels, least: float, both: bool) -> tuple[Any, Shown]:
        """Ask about the same picture anew, if there is one."""
        if not shown.data:
            return gradio.skip(), shown
        try:
            image = decode(shown.data, at_least=DECODED_SIDE, max_pixels=MAX_PIXELS)
            predictions = self._ask(image, labels, both)
        except ImageError as error:
            return render_problem(f"This picture cannot be used: {error}."), Shown()
        except ClipDistillError as error:
            return render_problem(str(error)), Shown(shown.data)
        return render(judged(predictions, least)), Shown(shown.data, tuple(predictions))

    def redraw(self, shown: Shown, least: float) -> Any:
        """Show the last answer with another threshold."""
        return render(judged(shown.predictions, least)) if shown.predictions else gradio.skip()

    def use(self, text: str, labels: Labels) -> tuple[Labels, str]:
        """Take the text box's classes; those before stay when something is wrong with them."""
        try:
            wanted = parse_classes(text)
            with self._one_at_a_time:
                self.lists.models(wanted)
        except ClipDistillError as error:
            return labels, _note(str(error), "problem")
        return wanted, _note(f"{count(len(wanted))} in use. {READY}")

    def reset(self) -> tuple[str, Labels, str]:
        """Go back to the model's own classes."""
        own = self.lists.own.labels
        return "\n".join(own), own, _note(f"{count(len(own))} in use. {READY}")

    def _ask(self, image: Image.Image, labels: Labels, both: bool) -> list[Opinion]:
        with self._one_at_a_time:
            models = self.lists.models(labels)
            alone = models.teacher is None
            predictions = [ask(models.student, image, "Model" if alone else "Student")]
            if models.teacher is not None and both:
                predictions.append(ask(models.teacher, image, "Teacher"))
        return predictions


@dataclass(frozen=True)
class _Parts:
    """The components that several others act on."""

    labels: gradio.State
    shown: gradio.State
    answer: gradio.HTML
    threshold: gradio.Slider
    both: gradio.Checkbox


def build(page: Page, examples: Sequence[Path], least: float) -> gradio.Blocks:
    """Lay the page out.

    Args:
        page: what it does.
        examples: pictures to choose from, in gradio's own folder.
        least: where the threshold stands at first.
    """
    blocks = gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=KEPT)
    with blocks:
        labels, shown = gradio.State(page.lists.own.labels), gradio.State(Shown())
        _html(_head(page), "head")
        with gradio.Row(elem_id="columns", equal_height=False):
            with gradio.Column(scale=5, min_width=320):
                picture, camera = _inputs(examples)
            with gradio.Column(scale=6, min_width=320):
                answer = _html(EMPTY, "answer")
                parts = _Parts(labels, shown, answer, *_controls(page, least))
                _classes(page, parts)
        _connect(page, parts, picture, camera)
    blocks.queue(max_size=32)
    return blocks


def _connect(page: Page, parts: _Parts, picture: gradio.Image, camera: gradio.Image) -> None:
    # preprocess=False: the bytes come as they are; gradio would open them with all its decoders.
    seen = [parts.labels, parts.threshold, parts.both]
    outputs = [parts.answer, parts.shown]
    picture.change(page.see, [picture, *seen], outputs, preprocess=False, **QUICK)
    parts.both.input(page.again, [parts.shown, *seen], outputs, **QUICK)
    parts.threshold.change(
        page.redraw,
        [parts.shown, parts.threshold],
        parts.answer,
        trigger_mode="always_last",
        **QUICK,
    )
    # Frames that come while a model is busy take each other's place: the newest counts.
    camera.stream(
        page.see,
        [camera, *seen],
        outputs,
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
        stream_every=STREAM_SECONDS,
        time_limit=None,
        concurrency_limit=STREAMS,
        concurrency_id="camera",
    )


def _inputs(examples: Sequence[Path]) -> tuple[gradio.Image, gradio.Image]:
    """The picture and the camera, a tab each (gradio streams only from cameras)."""
    with gradio.Tabs(elem_id="inputs"):
        with gradio.Tab("Picture"):
            picture = _image("Picture", ["upload", "clipboard"], "picture")
            if examples:
                gradio.Examples(
                    [[str(path)] for path in examples],
                    picture,
                    label="Examples",
                    api_visibility="private",
                    elem_id="examples",
                )
        with gradio.Tab("Camera"):
            camera = _image("Camera", ["webcam"], "camera", streaming=True)
            _html(CAMERA, "camera-note", "plain")
    return picture, camera


def _html(text: str, name: str, kind: str = "") -> gradio.HTML:
    return gradio.HTML(
        text, elem_id=name, elem_classes=kind, apply_default_css=False, js_on_load=None
    )


def _image(label: str, sources: list[Any], name: str, *, streaming: bool = False) -> gradio.Image:
    return gradio.Image(
        label=label,
        sources=sources,
        type="filepath",
        image_mode=None,
        elem_id=name,
        streaming=streaming,
        buttons=[],
        height=340,
        format="jpeg",
        webcam_options=gradio.WebcamOptions(mirror=False),
    )


def _controls(page: Page, least: float) -> tuple[gradio.Slider, gradio.Checkbox]:
    teacher = page.lists.own.teacher
    with gradio.Group():
        threshold = gradio.Slider(
            0.0,
            1.0,
            value=round(least, 3),
            step=0.001,
            label="Threshold for “unknown”",
            info="Below this probability the answer is “unknown”; 0: never.",
            buttons=[],
            elem_id="threshold",
        )
        both = gradio.Checkbox(
            teacher is not None,
            label="Ask the teacher too",
            elem_id="both",
            info="Without it the camera is answered as fast as the student can.",
            visible=teacher is not None,
        )
    return threshold, both


def _classes(page: Page, parts: _Parts) -> None:
    """The class list, and what a new one does."""
    own, editable = page.lists.own.labels, page.lists.editable
    with gradio.Column(elem_id="class-list"):
        box = gradio.Textbox(
            "\n".join(own),
            label="Classes",
            lines=6,
            max_lines=10,
            max_length=LONGEST_TEXT,
            interactive=editable,
            elem_id="classes",
        )
        about = READY if editable else NO_ENCODER
        note = _html(_note(f"{count(len(own))}. {about}", say=False), "class-note")
        if not editable:
            return
        with gradio.Row(elem_id="class-buttons"):
            use = gradio.Button("Use these classes", variant="primary", size="sm")
            reset = gradio.Button("Back to the model’s own", size="sm")
    changed = [
        use.click(page.use, [box, parts.labels], [parts.labels, note], **QUICK),
        box.submit(page.use, [box, parts.labels], [parts.labels, note], **QUICK),
        reset.click(page.reset, None, [box, parts.labels, note], **QUICK),
    ]
    # A request of its own: it sees the answer that was being made meanwhile.
    asked = [parts.shown, parts.labels, parts.threshold, parts.both]
    for change in changed:
        change.then(page.again, asked, [parts.answer, parts.shown], **QUICK)


def _head(page: Page) -> str:
    own = page.lists.own
    models = [short_name(own.student.name)]
    if own.teacher is not None:
        models.append(f"beside its teacher {short_name(own.teacher.name)}")
    about = escape(f"{' '.join(models)} · {count(len(own.labels))}")
    return f"<header><h1>{TITLE}</h1><p>{about} · everything stays on this machine</p></header>"


def count(number: int) -> str:
    """Such as "1 class", "20 classes"."""
    return f"{number} class" if number == 1 else f"{number} classes"


def _note(sentence: str, kind: str = "hint", *, say: bool = True) -> str:
    """A line below the class list; said aloud when it is news."""
    said = f' data-say="{escape(sentence, quote=True)}"' if say else ""
    return f'<p class="{kind}"{said}>{escape(sentence)}</p>'


def _bytes_of(picture: dict[str, Any]) -> bytes:
    """The encoded picture that the browser sent, as a file or in a data: URL.

    Raises:
        ImageError: there is none in it.
    """
    url = picture.get("url") or ""
    if url.startswith("data:"):
        try:
            return base64.b64decode(url.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ImageError("it arrived damaged") from error
    try:
        return Path(picture.get("path") or "").read_bytes()
    except OSError as error:
        raise ImageError("its file is gone; choose it again") from error
