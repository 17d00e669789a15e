"""demo: live classification of a camera, a video, a folder, or in a page in the browser."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..core.errors import ClipDistillError, InputError, MissingExtraError, OptionError
from ..core.progress import message, screen
from ..core.results import Result, Table, list_some
from ..core.signatures import NameOrPath
from ..core.stopping import signals_as_ctrl_c
from ..core.wording import many, percent
from ..formats.embeddings import read_header
from ..formats.run import RunFolder
from ..models.open import kind_of, needs_training_extra, split_runtime, teacher_name
from ..models.recognizer import Recognizer, open_recognizer

if TYPE_CHECKING:
    from ..formats.cards import TeacherCard
    from ..formats.text import TextEmbeddings
    from ..models.teacher import Teacher
    from .live.frames import Source
    from .live.loop import Loop, View
    from .live.reader import Reader
    from .live.recorder import Recorder

    Encode = Callable[[Sequence[str]], TextEmbeddings]

PICTURES_PER_SECOND = 2.0
"""Default speed of --images with --window or --save."""
EXAMPLES = 8
"""Most images of --images that the page offers as examples."""
TABLE_LABELS = 10


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Source of the frames, and how to show the predictions.

    Attributes:
        camera: number of a camera of this machine; 0 is the first.
        video: video file, or http, https, rtsp or rtsps URL.
        images: folder of images; with --web, examples for the page.
        web: show a page in the browser, on this machine only, instead of the terminal.
        port: port of the page, 0 to 65535.
        window: also show the annotated frames in a window; q or Esc closes it.
        save: also write the annotated video to this .mp4 file.
        every_frame: classify every frame of a file as fast as possible, instead of playing it at
            its own speed and dropping frames while the model is busy; --save implies it.
        fps: frames per second of --images and of --save. Default: the source's; for --images 2 with
            --window or --save, else as fast as possible.
        text: text embeddings from `clipdistill embed-text`; they override those in a classifier's
            file.
        prompts: prompts file with the labels of a bare .npy (made by the older scripts).
        teacher: teacher to show beside the model with --web (NAME/PRETRAINED, hf-hub:ORG/REPO,
            local-dir:FOLDER); it also turns new class names into text embeddings.
        threshold: probability from 0 to 1 below which the answer is "unknown". Default: the
            model's own if it was calibrated, else 0.
        top_k: number of labels to show.
        retries: number of attempts to reconnect to a lost camera or stream.
        timeout: seconds without a frame after which a camera or stream counts as lost.
        font: font file for the labels in --window and --save, for scripts missing in OpenCV's font.
        device: device to run on: auto, cpu, cuda, cuda:1 ...; tensorrt for ONNX Runtime's TensorRT.
        arch: timm's model name; only for the older scripts' checkpoints, which do not record it.
        image_size: side of the input in pixels; only for the older scripts' checkpoints.
    """

    camera: Annotated[
        int | None, Parameter(name=("--camera", "--camera-device", "--camera_device"))
    ] = None
    video: str | None = None
    images: Path | None = None
    web: bool = False
    port: int = 7860
    window: bool = False
    save: Path | None = None
    every_frame: bool = False
    fps: float | None = None
    text: Path | None = None
    prompts: Path | None = None
    teacher: str | None = None
    threshold: float | None = None
    top_k: int = 5
    retries: int = 10
    timeout: float = 10.0
    font: Path | None = None
    device: str = "auto"
    arch: str | None = None
    image_size: int | None = None


@dataclass(frozen=True, repr=False)
class DemoResult(Result):
    """Result of `demo` for a source.

    Attributes:
        source: name of the source.
        model: name of the model.
        runtime: runtime of the model.
        ended: why it ended.
        lost: whether it ended because the source was lost.
        seconds: seconds from the first answer to the last.
        frames: number of classified frames.
        dropped: number of frames dropped because the model was busy.
        broken: number of frames that could not be used.
        problems: faults of the first broken frames.
        reconnects: number of times that a lost source was reopened.
        fps: answers per second.
        decode_ms: median time of reading and decoding a frame, in ms.
        preprocess_ms: median time of preprocessing a frame, in ms.
        model_ms: median time of the model per frame, in ms.
        counts: label (or "unknown") -> number of frames, the most frequent first.
        saved: file of the recording; None when there is none.
        saved_frames: number of frames in the recording.
    """

    source: str
    model: str
    runtime: str
    ended: str
    lost: bool
    seconds: float
    frames: int
    dropped: int
    broken: int
    problems: tuple[str, ...]
    reconnects: int
    fps: float
    decode_ms: float
    preprocess_ms: float
    model_ms: float
    counts: dict[str, int]
    saved: Path | None
    saved_frames: int

    @property
    def exit_code(self) -> int:
        """Exit code: 0, or that of `InputError` when the source was lost."""
        return InputError.exit_code if self.lost else 0

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = [
            f"{many(self.frames, 'frame')} in {self.seconds:.1f} s, {self.fps:.1f} per second; "
            f"{self.dropped} dropped, {self.broken} broken. {self.ended}.",
        ]
        if self.reconnects:
            lines.append(f"{self.source} was lost and reopened {self.reconnects} times.")
        if self.frames:
            total = self.decode_ms + self.preprocess_ms + self.model_ms
            lines += [
                f"Median per frame: {total:.1f} ms (decode {self.decode_ms:.1f}, preprocess "
                f"{self.preprocess_ms:.1f}, model {self.model_ms:.1f}).",
                _counts_table(self),
            ]
        lines += list_some("Broken:", self.problems)
        if self.saved is not None:
            lines.append(f"Saved: {self.saved} ({many(self.saved_frames, 'frame')})")
        return lines


@dataclass(frozen=True, repr=False)
class WebDemoResult(Result):
    """Result of `demo --web`.

    Attributes:
        model: name of the model.
        port: port of the page.
    """

    model: str
    port: int

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        return [f"Stopped showing {self.model} on port {self.port}."]


def demo(
    model: NameOrPath, /, *, options: DemoOptions = DemoOptions()
) -> DemoResult | WebDemoResult:
    """Classify a camera, a video or a folder of images live, or show a page in the browser.

    Give one of --camera, --video, --images, or --web. Ctrl-C ends the demo normally. A terminal
    shows a live display; otherwise one line per second is written to stderr.

    Frames of a camera are dropped while the model is busy. A lost camera is reopened, with growing
    delays between the attempts.

    Args:
        model: .onnx, .tflite or .engine file, student's folder or checkpoint (.pth), or teacher
            (NAME/PRETRAINED, hf-hub:ORG/REPO, local-dir:FOLDER); "openvino:FILE.onnx" runs the
            file in OpenVINO.
        options: see `DemoOptions`.

    Raises:
        InputError: no source, several sources, a source that cannot be opened, no labels, or no
            display.
        MismatchError: the text embeddings or the teacher do not belong to the model.
        MissingExtraError: OpenCV or Starlette is not installed (extra `demo`).
        OutputError: the recording cannot be written.
    """
    _check(options)
    return _web(model, options) if options.web else _watch(model, options)


def _check(options: DemoOptions) -> None:
    """Refuse options that exclude each other, before anything is loaded."""
    given = [name for name in ("camera", "video", "images") if getattr(options, name) is not None]
    if options.web:
        _check_web(options, given)
    elif len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none"
        raise OptionError(
            "Expected one source: --camera 0, --video FILE, --images FOLDER, or --web; found "
            f"{found}."
        )
    elif options.teacher is not None:
        raise OptionError("--teacher is only for --web. Add --web, or remove --teacher.")
    if options.every_frame and options.camera is not None:
        raise OptionError(
            "--every-frame is only for files, not for a camera. Remove it, or use --video."
        )
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise OptionError(f"--threshold {options.threshold:g}: expected a probability, 0 to 1.")
    if options.fps is not None and not 0 < options.fps <= 1000:
        raise OptionError(f"--fps {options.fps:g}: expected more than 0, at most 1000.")
    if options.top_k < 1 or options.retries < 0 or not options.timeout > 0:
        raise OptionError("Expected --top-k 1 or more, --retries 0 or more, --timeout above 0.")


def _check_web(options: DemoOptions, given: Sequence[str]) -> None:
    wrong = [f"--{name}" for name in given if name != "images"]
    wrong += [f"--{name}" for name in ("window", "save") if getattr(options, name)]
    if wrong:
        raise OptionError(
            f"--web and {' and '.join(wrong)} exclude each other: the page has the browser's "
            "camera. Leave one away. (--images gives the page's examples.)"
        )
    if not 0 <= options.port <= 65535:
        raise OptionError(f"--port {options.port}: expected 0 to 65535.")


def _watch(model: str, options: DemoOptions) -> DemoResult:
    """Run the demo on a source, without the page."""
    source = None if options.images is not None else _stream(options)
    recognizer = _open(model, options)
    source = source or _pictures(options, recognizer)
    loop, reader, recorder = _assemble(source, recognizer, options)
    stopped = False
    with signals_as_ctrl_c():  # so that a recording is finished
        try:
            loop.run()
        except KeyboardInterrupt:  # the normal end for a camera
            stopped = True
    ended = reader.ended or "Closed"
    return _result(loop, reader, recorder, recognizer, "Stopped" if stopped else ended)


def _open(model: str, options: DemoOptions) -> Recognizer:
    return open_recognizer(
        model,
        text=options.text,
        prompts=options.prompts,
        device=options.device,
        arch=options.arch,
        image_size=options.image_size,
    )


def _stream(options: DemoOptions) -> Source:
    from .live.opencv import camera, video

    if options.video is not None:
        return video(options.video, timeout=options.timeout)
    return camera(options.camera or 0)


def _pictures(options: DemoOptions, recognizer: Recognizer) -> Source:
    from .live.frames import pictures

    assert options.images is not None
    shown = options.window or options.save is not None
    fps = options.fps or (PICTURES_PER_SECOND if shown else 0.0)
    return pictures(options.images, at_least=recognizer.preprocess.size, fps=fps)


def _assemble(
    source: Source, recognizer: Recognizer, options: DemoOptions
) -> tuple[Loop, Reader, Recorder | None]:
    """Connect all parts without starting them."""
    from .live.frames import Frame
    from .live.handoff import Handoff
    from .live.loop import Loop
    from .live.reader import Patience, Reader
    from .live.threads import Pipeline

    whole = not source.live and (options.every_frame or options.save is not None)
    waits = whole or options.images is not None
    frames: Handoff[Frame] = Handoff(2 if waits else 1, newest=not waits)
    patience = Patience(stall=options.timeout, retries=options.retries)
    # A folder is shown at its own speed, unless it is only recorded.
    paced = options.window or not whole
    reader = Reader(source, frames, paced=paced, patience=patience)
    views, recorder = _views(source, options)
    loop = Loop(
        reader,
        Pipeline(recognizer, frames),
        recognizer,
        least=recognizer.least(options.threshold),
        top_k=options.top_k,
        views=views,
    )
    return loop, reader, recorder


def _views(source: Source, options: DemoOptions) -> tuple[list[View], Recorder | None]:
    from .live.terminal import PlainLines, Terminal

    views: list[View] = []
    recorder = None
    if options.window or options.save is not None:
        from .live.letters import find_letters

        letters = find_letters(options.font)
        if options.save is not None:
            from .live.recorder import Recorder

            recorder = Recorder(options.save, letters, fps=options.fps or 0.0)
            views.append(recorder)
        if options.window:
            from .live.window import Window

            views.append(Window(f"clipdistill: {source.name}", letters))
    drawn_on = screen()
    views.append(PlainLines() if drawn_on is None else Terminal(drawn_on))
    return views, recorder


def _result(
    loop: Loop, reader: Reader, recorder: Recorder | None, recognizer: Recognizer, ended: str
) -> DemoResult:
    speed = loop.overall.speed()
    saved = recorder is not None and recorder.frames > 0
    return DemoResult(
        source=reader.source.name,
        model=recognizer.name,
        runtime=recognizer.runtime,
        ended=ended,
        lost=reader.lost,
        seconds=loop.seconds,
        frames=loop.shown,
        dropped=reader.frames.dropped,
        broken=reader.broken,
        problems=tuple(reader.problems),
        reconnects=reader.reconnects,
        fps=speed.fps,
        decode_ms=1000 * speed.decode,
        preprocess_ms=1000 * speed.preprocess,
        model_ms=1000 * speed.model,
        counts=dict(loop.counts.most_common()),
        saved=recorder.path if saved and recorder else None,
        saved_frames=recorder.frames if recorder else 0,
    )


def _counts_table(result: DemoResult) -> Table:
    shown = list(result.counts.items())[:TABLE_LABELS]
    rows = tuple((label, str(n), percent(n / result.frames)) for label, n in shown)
    more = len(result.counts) - len(shown)
    title = "Answers" + (f" (and {more} more labels)" if more else "")
    return Table(title, ("label", ">frames", ">share"), rows)


def _web(model: str, options: DemoOptions) -> WebDemoResult:
    """The page in the browser."""
    try:
        from .web.server import serve_page
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "demo", "The page") from error

    student = _open(model, options)
    loaded = _load_teacher(student, options)
    beside = None
    if loaded is not None and options.teacher is not None:
        beside = Recognizer(loaded.images, student.text, own=False)
    encode = None if loaded is None else _encoder(loaded, student)
    with signals_as_ctrl_c(), contextlib.suppress(KeyboardInterrupt):
        serve_page(
            student,
            teacher=beside,
            encode=encode,
            examples=_examples(options.images),
            port=options.port,
            threshold=options.threshold,
        )
    return WebDemoResult(student.name, options.port)


def _load_teacher(student: Recognizer, options: DemoOptions) -> Teacher | None:
    """The teacher that was named, else the model's own if it lies here; None: it does not.

    Raises:
        MismatchError: the named one is not the model's.
    """
    if options.teacher is not None:
        if kind_of(options.teacher) != "teacher":
            raise OptionError(
                f"--teacher {options.teacher}: expected NAME/PRETRAINED, hf-hub:ORG/REPO or "
                "local-dir:FOLDER."
            )
        with needs_training_extra("A teacher"):
            from ..models.teacher import load_teacher
        loaded = load_teacher(*teacher_name(options.teacher), device=options.device)
        student.embedder.spec.check_space(loaded.card, f"--teacher {options.teacher}")
        return loaded
    card = student.embedder.spec.teacher
    if card is None or card.fingerprint is None:
        return None
    try:
        with _no_downloads():
            from ..models.teacher import load_teacher

            card = _placed(card, Path(split_runtime(student.name)[1]))
            loaded = load_teacher(card.model_name, card.pretrained, device=options.device)
        student.embedder.spec.check_space(loaded.card, "the teacher")
    except (ClipDistillError, ModuleNotFoundError):
        message(
            f"The classes cannot be edited on the page: the teacher, {card}, is not on this "
            "machine. Name it with --teacher if it is elsewhere."
        )
        return None
    return loaded


def _placed(card: TeacherCard, model: Path) -> TeacherCard:
    """The same teacher with its place, which the embeddings of the model's run record.

    A model's file is passed on and has only the name of a teacher's folder.
    """
    for run in model.resolve().parents[:2]:
        with contextlib.suppress(ClipDistillError, ModuleNotFoundError):
            header = read_header(RunFolder(run).embeddings)
            if header is not None and header.teacher.fingerprint == card.fingerprint:
                return header.teacher
    return card


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    """Keep the model hub's client off the network: nobody asked for this teacher."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ModuleNotFoundError):
                from huggingface_hub import constants

                # It read the environment when it was first imported, which may be long ago.
                stack.callback(setattr, constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
                constants.HF_HUB_OFFLINE = True
            yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _encoder(teacher: Teacher, student: Recognizer) -> Encode:
    """Class names -> text embeddings, in the templates of the model's own classes."""
    from ..formats.prompts import Prompts
    from ..models.teacher import embed_classes

    templates = student.text.templates or ("{}",)

    def encode(names: Sequence[str]) -> TextEmbeddings:
        labels = tuple(names)
        return embed_classes(teacher, Prompts(labels, tuple((name,) for name in labels)), templates)

    return encode


def _examples(folder: Path | None) -> list[Path]:
    """Some pictures, spread over a folder; only files of their own."""
    if folder is None:
        return []
    from ..images.sources import list_images

    files = [item.path for item in list_images(folder) if item.offset is None and not item.problem]
    step = max(1, len(files) // EXAMPLES)
    return files[::step][:EXAMPLES]
