"""The annotated video, and what is drawn into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scripted_source import frame

from clipdistill.core.errors import InputError, OutputError
from clipdistill.show.live.answer import Prediction
from clipdistill.show.live.frames import Frame
from clipdistill.show.live.letters import PillowLetters, find_letters, shorten
from clipdistill.show.live.loop import Seen, Speed, Status
from clipdistill.show.live.overlay import annotate, enlarged
from clipdistill.show.live.recorder import Recorder, fitted
from clipdistill.show.live.threads import Answer

cv2 = pytest.importorskip("cv2", reason="OpenCV (extra demo) is not installed")

STATUS = Status(
    source="clip",
    model="model",
    runtime="onnxruntime",
    seconds=1.0,
    shown=1,
    dropped=0,
    broken=0,
    speed=Speed(29.8, 0.001, 0.002, 0.003),
    note="",
)
PREDICTION = Prediction("dog", (("dog", 0.7), ("cat", 0.2), ("a bird of a rare kind", 0.1)))


def seen(pixels: np.ndarray, *, at: float = 0.0, fps: float = 10.0, live: bool = False) -> Seen:
    answer = Answer(
        Frame(0, at, pixels, 0.001, fps, live), np.zeros(3, np.float32), at, 0.002, 0.003
    )
    return Seen(answer, PREDICTION, STATUS)


def read_all(path: Path) -> tuple[float, list[np.ndarray]]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return capture.get(cv2.CAP_PROP_FPS), frames


def test_every_frame_is_in_the_video(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.mp4"
    recorder = Recorder(out, find_letters())
    for number in range(25):
        recorder.show(seen(frame(10 * number, (480, 400)), fps=12.5))
        assert not out.exists()  # it gets its name when it is whole
    recorder.close()
    fps, frames = read_all(out)
    assert (fps, len(frames), recorder.frames) == (12.5, 25, 25)
    assert frames[0].shape == (400, 480, 3)
    # In the order in which they were shown; the lower right corner has no panel.
    corners = [int(one[-20, -20, 0]) for one in frames]
    assert corners == pytest.approx([10 * number for number in range(25)], abs=6)
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_a_live_source_is_recorded_by_the_clock(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", find_letters())
    for at in (0, 0.02, 0.3, 0.35, 1.0):  # 10 frames per second: held, skipped, held
        recorder.show(seen(frame(9, (400, 400)), at=100 + at, live=True))
    recorder.show(seen(frame(9, (400, 400)), at=161.0, live=True))  # a minute without the camera
    recorder.close()
    _, frames = read_all(tmp_path / "out.mp4")
    assert len(frames) == 31  # 1 s, and 2 s of the gap


def test_frames_of_another_size_are_fitted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", find_letters())
    for size in ((401, 361), (800, 361), (361, 800), (20, 20)):
        recorder.show(seen(frame(200, size)))
    recorder.close()
    _, frames = read_all(tmp_path / "out.mp4")
    assert [one.shape for one in frames] == [(360, 400, 3)] * 4  # even, for the codec
    assert frames[1][5, 200].mean() < 30  # black above and below
    assert frames[1][180, 390].mean() > 150


def test_fitted_keeps_the_whole_picture() -> None:
    assert fitted(frame(1, (8, 6)), (8, 6)).shape == (6, 8, 3)
    tall = fitted(frame(255, (10, 100)), (50, 50))
    assert tall.shape == (50, 50, 3)
    assert (tall[:, 24] == 255).all()
    assert (tall[:, :20] == 0).all()


def test_an_old_recording_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    Recorder(out, find_letters()).close()  # nothing came
    assert out.read_bytes() == b"old"


def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.mp4"):
        Recorder(tmp_path / "out.avi", find_letters())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        Recorder(tmp_path / "file" / "out.mp4", find_letters())


# The overlay


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_the_text_stands_out_on_any_picture(grey: int) -> None:
    canvas = annotate(seen(frame(grey, (640, 480))), find_letters()).astype(int)
    title = canvas[12:40, 22:110]
    assert title.max() == 255
    assert np.median(title) < 80
    assert (canvas[300:, 400:] == grey).all()  # outside of the panel nothing is changed


@pytest.mark.parametrize("size", [(1, 1), (40, 900), (3000, 40), (64, 64), (641, 361)])
def test_any_shape_can_be_drawn_into(size: tuple[int, int]) -> None:
    canvas = annotate(seen(frame(99, size)), find_letters())
    assert canvas.shape[0] * size[0] == canvas.shape[1] * size[1]  # the same proportions
    assert max(canvas.shape) <= 3840
    assert (canvas != 99).any()


def test_the_frame_itself_is_left_alone() -> None:
    pixels = frame(99, (640, 480))
    annotate(seen(pixels), find_letters())
    assert (pixels == 99).all()
    assert enlarged(pixels) is not pixels


def test_bars_are_as_long_as_their_probability() -> None:
    canvas = annotate(seen(frame(255, (640, 480))), find_letters())
    blue = (canvas == (30, 110, 190)).all(axis=-1)
    rows = blue.sum(axis=1)
    lengths = sorted({int(value) for value in rows[rows > 0]}, reverse=True)
    assert lengths[0] / 272 == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("label", ["café", "собака", "柴犬", "고양이"])
def test_labels_of_other_scripts_are_not_question_marks(label: str) -> None:
    if not hasattr(cv2, "FontFace"):
        pytest.skip("this OpenCV has no font of its own")
    letters = find_letters()

    def drawn(text: str) -> bytes:
        canvas = np.zeros((40, 300, 3), np.uint8)
        letters.draw(canvas, text, 0, 0, 24)
        return canvas.tobytes()

    assert drawn(label) != drawn("?" * len(label))
    assert letters.width(label, 24) > 0


def test_a_font_of_the_users(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a font file"):
        find_letters(tmp_path / "none.ttf")
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(InputError, match="expected a font file"):
        find_letters(tmp_path / "bad.ttf")
    canvas = annotate(seen(frame(255, (640, 480))), PillowLetters(None))
    assert (canvas[:40, :200] == 255).any()


def test_long_labels_are_cut() -> None:
    letters = find_letters()
    assert shorten(letters, "dog", 20, 500) == "dog"
    cut = shorten(letters, "a very long label " * 9, 20, 200)
    assert cut.endswith("...")
    assert letters.width(cut, 20) <= 200
    assert shorten(letters, "dog", 20, 0) == "..."
