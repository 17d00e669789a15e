"""What people see while it runs: the terminal, the lines of a pipe, the window."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console
from scripted_source import Clock, frame

from clipdistill.core.errors import InputError
from clipdistill.core.progress import Silent, reporting
from clipdistill.show.live.answer import Prediction, decide
from clipdistill.show.live.frames import Frame
from clipdistill.show.live.loop import Meter, Seen, Speed, Status
from clipdistill.show.live.terminal import PlainLines, Terminal, display
from clipdistill.show.live.threads import Answer
from clipdistill.show.live.window import Window, has_display

STATUS = Status(
    source="camera 0",
    model="runs/classifier.onnx",
    runtime="onnxruntime",
    seconds=12.3,
    shown=320,
    dropped=4,
    broken=1,
    speed=Speed(29.8, 0.0012, 0.0021, 0.0083),
    note="",
)
RANKED = (("dog", 0.7), ("a very long label, as prompts sometimes are", 0.2), ("柴犬", 0.1))
DOG, UNKNOWN = Prediction("dog", RANKED), Prediction("unknown", RANKED)


def an_answer(at: float = 0.0, pixels: np.ndarray | None = None) -> Answer:
    there = Frame(0, at, frame() if pixels is None else pixels, 0.001)
    return Answer(there, np.zeros(3, np.float32), at, 0.002, 0.003)


def drawn(prediction: Prediction | None, status: Status, width: int, **more) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, **more).print(display(prediction, status))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_display_fits(width: int) -> None:
    from rich.cells import cell_len

    lines = drawn(DOG, STATUS, width)
    assert max(map(cell_len, lines)) <= width
    assert lines[0] == "dog 70%"
    assert len(lines) == 6  # nothing is broken over two lines
    bars = [line.count("━") for line in lines[1:4]]
    assert bars[0] > bars[1] > bars[2] > 0
    assert lines[1].rstrip().endswith("70.0%")
    assert "29.8 frames/s  11.6 ms (decode 1.2, resize 2.1, model 8.3)" in lines[4]
    assert "4 dropped  1 broken" in lines[4]
    assert "camera 0 → runs/classifier.onnx (onnxruntime)" in lines[5]


def test_a_narrow_terminal_loses_nothing() -> None:
    text = " ".join(" ".join(drawn(DOG, STATUS, 40)).split())
    assert "runs/classifier.onnx" in text
    assert "4 dropped" in text


def test_unknown_names_the_best_label() -> None:
    assert drawn(UNKNOWN, STATUS, 80)[0] == "unknown (dog 70%)"


def test_before_the_first_frame_and_when_the_camera_is_gone() -> None:
    note = "camera 0 vanished; attempt 2 of 10 in 1 s"
    status = dataclasses.replace(STATUS, note=note)
    assert drawn(None, status, 80)[:2] == ["waiting for camera 0 ...", note]
    assert note in drawn(DOG, status, 80)


def test_colours_and_no_colours(monkeypatch) -> None:
    colourful = {"force_terminal": True, "color_system": "standard"}
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;32m" in "".join(drawn(DOG, STATUS, 80, **colourful))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "".join(drawn(DOG, STATUS, 80, **colourful))
    assert "\x1b[3" not in plain
    assert ";3" not in plain
    assert "━" in plain


def test_labels_are_not_markup() -> None:
    prediction = Prediction("[red]x[/red]", (("[red]x[/red]", 1.0),))
    assert drawn(prediction, STATUS, 80)[0] == "[red]x[/red] 100%"


def test_the_display_is_drawn_five_times_a_second() -> None:
    file, clock = io.StringIO(), Clock()
    terminal = Terminal(Console(file=file, width=80, force_terminal=True), clock=clock)
    for _ in range(100):
        terminal.show(Seen(an_answer(), DOG, STATUS))
        assert terminal.tick(STATUS)
        clock.sleep(0.01)
    terminal.close()
    assert file.getvalue().count("dog 70%") in range(5, 8)


class Lines(Silent):
    """Keeps messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_a_pipe_gets_a_line_a_second() -> None:
    written, clock = Lines(), Clock()
    lines = PlainLines(clock=clock)
    gone = dataclasses.replace(STATUS, note="camera 0 vanished")
    with reporting(written):
        for _ in range(25):
            lines.show(Seen(an_answer(), DOG, STATUS))
            lines.tick(STATUS)
            clock.sleep(0.1)
        for _ in range(25):  # what it saw last, and that it is gone, each once
            lines.tick(gone)
            clock.sleep(0.1)
    line = "12.3 s  dog 70%  29.8 frames/s  11.6 ms  4 dropped  1 broken"
    assert written.lines == [line, line, line, "camera 0 vanished", line]


def test_speed_is_that_of_the_last_seconds() -> None:
    meter = Meter(3.0)
    assert meter.speed() == Speed()
    for number in range(100):
        meter.add(an_answer(at=number / 10))
    speed = meter.speed()
    assert speed.fps == pytest.approx(10)
    assert (speed.decode, speed.preprocess, speed.model) == (0.001, 0.002, 0.003)
    assert speed.latency == pytest.approx(0.006)
    for number in range(100):
        meter.add(an_answer(at=20 + number / 50))
    assert meter.speed().fps == pytest.approx(50)


def test_below_the_threshold_the_answer_is_unknown() -> None:
    scores = np.array([0.2, 0.5, 0.3], np.float32)
    assert decide(scores, "abc", 2, 0.5) == Prediction("b", (("b", 0.5), ("c", pytest.approx(0.3))))
    assert decide(scores, "abc", 2, 0.51).label == "unknown"
    assert len(decide(scores, "abc", 99, 0.0).ranked) == 3


def test_a_frame_may_show_several_things() -> None:
    scores = np.array([0.7, 0.45, 0.6, 0.1], np.float32)
    least = np.array([0.5, 0.4, 0.9, 0.9], np.float32)
    found = decide(scores, "abcd", 1, least)
    assert found.labels == ("a", "b")
    assert found.headline == "a 70%, b 45%"
    nothing = decide(scores, "abcd", 2, np.full(4, 0.8, np.float32))
    assert nothing.labels == ("unknown",)
    assert nothing.headline == "unknown (a 70%)"


# The window


class FakeWindows:
    """OpenCV's windows, where there is no display."""

    def __init__(self, monkeypatch, *, key: int = -1, visible: float = 1.0) -> None:
        import cv2

        self.key, self.visible = key, visible
        self.shown: list[np.ndarray] = []
        self.destroyed = 0
        monkeypatch.setenv("DISPLAY", ":0")
        for name in ("namedWindow", "resizeWindow", "setWindowTitle"):
            monkeypatch.setattr(cv2, name, lambda *args: None)
        monkeypatch.setattr(cv2, "imshow", lambda title, image: self.shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", lambda wait: self.key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: self.visible)
        monkeypatch.setattr(cv2, "destroyAllWindows", self._destroy)

    def _destroy(self) -> None:
        self.destroyed += 1


@pytest.fixture
def letters():
    pytest.importorskip("cv2", reason="OpenCV (extra demo) is not installed")
    from clipdistill.show.live.letters import find_letters

    return find_letters()


def test_a_window_shows_the_annotated_picture(monkeypatch, letters) -> None:
    windows = FakeWindows(monkeypatch)
    window = Window("demo", letters)
    red = np.zeros((400, 500, 3), np.uint8)
    red[..., 0] = 200
    window.show(Seen(an_answer(pixels=red), DOG, STATUS))
    assert window.tick(STATUS)
    assert windows.shown[0].shape == (400, 500, 3)
    assert tuple(windows.shown[0][-1, -1]) == (0, 0, 200)  # OpenCV's order is blue, green, red
    window.close()
    assert windows.destroyed == 1


@pytest.mark.parametrize("close", [{"key": 27}, {"key": ord("q")}, {"visible": 0.0}])
def test_a_window_can_be_closed(monkeypatch, letters, close) -> None:
    FakeWindows(monkeypatch, **close)
    window = Window("demo", letters)
    window.show(Seen(an_answer(), DOG, STATUS))
    assert not window.tick(STATUS)


def test_no_display(monkeypatch, letters) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not has_display()
    with pytest.raises(InputError, match="needs a display"):
        Window("demo", letters)


def test_an_opencv_without_windows(monkeypatch, letters) -> None:
    import cv2

    def refuse(*args):
        raise cv2.error("not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(InputError, match="headless"):
        Window("demo", letters)
