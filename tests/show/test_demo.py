"""demo, used as its users do: files, folders, Ctrl-C, a pipe, a terminal, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdistill.core.errors import InputError, MismatchError, ModelNotFoundError
from clipdistill.formats.embeddings import EmbeddingStore, Header
from clipdistill.models.recognizer import open_recognizer
from clipdistill.show.demo import DemoOptions, DemoResult, demo
from clipdistill.show.live.frames import Source
from clipdistill.show.live.handoff import Handoff
from clipdistill.show.live.loop import Loop
from clipdistill.show.live.reader import Patience, Reader
from clipdistill.show.live.threads import Pipeline
from clipdistill.show.predict import predict
from conftest import draw_picture
from terminals import environment, on_terminal

cv2 = pytest.importorskip("cv2", reason="OpenCV (extra demo) is not installed")


def write_video(path: Path, pictures: list[Image.Image], *, codec="mp4v", fps=30.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, pictures[0].size)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [draw_picture(index, (64, 48)) for index in range(30)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, drawn) -> Path:
    """A second of 30 frames."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", drawn)


def watch(model: object, **options) -> DemoResult:
    result = demo(str(model), options=DemoOptions(device="cpu", **options))
    assert isinstance(result, DemoResult)
    return result


# The answers


def test_a_video_gets_the_answers_of_predict(tmp_path: Path, drawn, tiny_classifier) -> None:
    """A lossless video holds the very pictures, so every probability has to be the same."""
    for index, picture in enumerate(drawn):
        picture.save(tmp_path / f"{index:02}.png")
    expected = predict(str(tiny_classifier), str(tmp_path), top_k=4).predictions
    write_video(tmp_path / "clip.avi", drawn, codec="FFV1")
    seen = remembered(tiny_classifier, tmp_path / "clip.avi")
    assert len(seen) == len(expected) == 30
    for mine, theirs in zip(seen, expected, strict=True):
        assert dict(mine.ranked) == pytest.approx(dict(theirs.ranked), abs=1e-6)
    assert len({one.label for one in seen}) > 1


def remembered(model: Path, path: Path) -> list:
    """The predictions of every frame."""
    from clipdistill.show.live.opencv import video

    seen_so_far = []

    class Remember:
        def show(self, seen) -> None:
            seen_so_far.append(seen.prediction)

        def tick(self, status) -> bool:
            return True

        def close(self) -> None:
            pass

    recognizer = open_recognizer(str(model), device="cpu")
    frames = Handoff(2)
    reader = Reader(video(str(path), timeout=5), frames)
    Loop(
        reader, Pipeline(recognizer, frames), recognizer, least=0.0, top_k=4, views=[Remember()]
    ).run()
    return seen_so_far


def test_a_folder_gets_the_answers_of_predict(tmp_path: Path, pictures, tiny_classifier) -> None:
    pictures(tmp_path, 6)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    best = [
        one.ranked[0][0]
        for one in predict(str(tiny_classifier), str(tmp_path)).predictions
        if one.ranked
    ]
    result = watch(tiny_classifier, images=tmp_path)
    assert (result.frames, result.dropped, result.broken) == (6, 0, 1)
    assert result.counts == {label: best.count(label) for label in result.counts}
    assert "not a" in result.problems[0]
    assert result.exit_code == 0


def test_below_the_threshold_it_is_unknown(clip: Path, tiny_classifier) -> None:
    assert "unknown" not in watch(tiny_classifier, video=str(clip), every_frame=True).counts
    all_unknown = watch(tiny_classifier, video=str(clip), every_frame=True, threshold=1.0)
    assert all_unknown.counts == {"unknown": 30}


def test_other_labels(clip: Path, make_text, tmp_path: Path, tiny_student) -> None:
    text = make_text(tmp_path / "text.npy", ["day", "night"])
    result = watch(tiny_student, video=str(clip), every_frame=True, text=text)
    assert set(result.counts) <= {"day", "night"}
    assert result.runtime == "torch"


# Pace


def test_a_video_plays_at_its_own_speed(clip: Path, tiny_classifier) -> None:
    result = watch(tiny_classifier, video=str(clip))
    assert result.seconds == pytest.approx(29 / 30, abs=0.3)
    assert result.frames + result.dropped <= 30
    fast = watch(tiny_classifier, video=str(clip), every_frame=True)
    assert (fast.frames, fast.dropped) == (30, 0)
    assert fast.seconds < 0.6


def test_a_model_that_is_too_slow_drops_frames(clip: Path, tiny_classifier, monkeypatch) -> None:
    slow_down(monkeypatch, 0.1)
    result = watch(tiny_classifier, video=str(clip))
    assert result.dropped > 10
    assert result.frames + result.dropped <= 30
    assert result.seconds < 2  # nothing has queued up
    assert result.model_ms > 90


def slow_down(monkeypatch, seconds: float) -> None:
    from clipdistill.models.recognizer import Recognizer

    quick = Recognizer.probabilities

    def slow(self, pixels):
        time.sleep(seconds)
        return quick(self, pixels)

    monkeypatch.setattr(Recognizer, "probabilities", slow)


def test_a_model_that_fails_is_an_error(clip: Path, tiny_classifier, monkeypatch) -> None:
    from clipdistill.models.recognizer import Recognizer

    def fail(self, pixels):
        raise MemoryError("of the model")

    monkeypatch.setattr(Recognizer, "probabilities", fail)
    with pytest.raises(MemoryError):
        watch(tiny_classifier, video=str(clip))


class Hiccups:
    """A camera that gives frames, vanishes, and comes back once."""

    live, fps, frames = True, 30.0, 0
    opened = 0

    def __init__(self) -> None:
        Hiccups.opened += 1
        if Hiccups.opened > 2:
            raise InputError("gone for good")
        self.left = 5

    def read(self):
        self.left -= 1
        time.sleep(0.01)
        return np.full((48, 64, 3), 80, np.uint8) if self.left >= 0 else None

    def close(self) -> None:
        pass


def test_a_lost_camera_is_reported_and_gives_exit_code_3(tiny_classifier, monkeypatch) -> None:
    monkeypatch.setattr(Hiccups, "opened", 0)
    monkeypatch.setattr(
        "clipdistill.show.live.opencv.camera", lambda number: Source("camera 0", Hiccups, live=True)
    )
    monkeypatch.setattr(Patience, "delay", lambda self, attempt: 0.01)
    result = watch(tiny_classifier, camera=0, retries=2)
    assert result.reconnects == 1
    assert 2 <= result.frames <= 10
    assert result.exit_code == 3
    assert "did not come back (2 attempts)" in result.summary()[0]
    assert "reopened 1 times" in result.summary()[1]


# The recording


def test_the_saved_video_is_whole(clip: Path, tmp_path: Path, tiny_classifier, monkeypatch) -> None:
    slow_down(monkeypatch, 0.01)
    out = tmp_path / "out.mp4"
    result = watch(tiny_classifier, video=str(clip), save=out)
    assert (result.frames, result.dropped, result.saved_frames) == (30, 0, 30)
    capture = cv2.VideoCapture(str(out))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30)
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 30


def test_a_recording_survives_an_error(clip: Path, tmp_path: Path, tiny_classifier, monkeypatch):
    from clipdistill.models.recognizer import Recognizer

    quick, calls = Recognizer.probabilities, []

    def fail_late(self, pixels):
        calls.append(1)
        if len(calls) > 10:
            raise RuntimeError("the accelerator has gone")
        return quick(self, pixels)

    monkeypatch.setattr(Recognizer, "probabilities", fail_late)
    with pytest.raises(RuntimeError, match="accelerator"):
        watch(tiny_classifier, video=str(clip), save=tmp_path / "out.mp4")
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 10


# Wrong command lines


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found none"),
        ({"camera": 0, "video": "a.mp4"}, "found --camera and --video"),
        ({"camera": 0, "web": True}, "--web and --camera exclude each other"),
        ({"web": True, "save": Path("a.mp4"), "window": True}, "--window and --save"),
        ({"web": True, "port": 70000}, "--port"),
        ({"camera": 0, "every_frame": True}, "only for files, not for a camera"),
        ({"camera": 0, "teacher": "x"}, "--teacher is only for --web"),
        ({"camera": 0, "threshold": 50}, "a probability, 0 to 1"),
        ({"camera": 0, "fps": 0}, "--fps"),
        ({"camera": 0, "top_k": 0}, "--top-k"),
        ({"camera": 99}, "Camera 99 cannot be opened"),
        ({"video": "none.mp4"}, "no such video file"),
        ({"images": Path("none")}, "no such folder"),
    ],
)
def test_bad_options_are_one_sentence(options, message, tiny_classifier, monkeypatch) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        watch(tiny_classifier, **options)


def test_no_display(clip: Path, tiny_classifier, monkeypatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="needs a display"):
        watch(tiny_classifier, video=str(clip), window=True)


# As a command


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "clipdistill", "demo", *map(str, args)]


def test_in_a_pipe(clip: Path, tiny_classifier) -> None:
    done = subprocess.run(
        command(tiny_classifier, "--video", clip),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert re.match(r"0\.0 s  [a-z ]+ \d+%  - frames/s  [\d.]+ ms$", done.stderr.splitlines()[0])
    assert "clip.mp4 has ended." in done.stdout


def test_json_is_one_object(clip: Path, tiny_classifier) -> None:
    done = subprocess.run(
        command(tiny_classifier, "--video", clip, "--every-frame", "--json", "-q"),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    result = json.loads(done.stdout)
    assert result["frames"] == sum(result["counts"].values()) == 30
    assert done.stderr == ""


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal(columns: int, clip: Path, tiny_classifier) -> None:
    drawn = on_terminal(command(tiny_classifier, "--video", clip), columns)
    assert "━" in drawn
    assert "frames/s" in drawn
    assert "Ctrl-C stops" in drawn
    assert "\x1b[1;32m" in drawn  # the label
    assert "\x1b[?25h" in drawn  # the cursor is back


def test_no_color_is_respected(clip: Path, tiny_classifier) -> None:
    # At its own speed: as fast as it goes, the clip may end before anything was drawn.
    drawn = on_terminal(command(tiny_classifier, "--video", clip), NO_COLOR="1")
    assert "━" in drawn
    assert "\x1b[1;32m" not in drawn


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_a_normal_end(number, tiny_classifier, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    process = subprocess.Popen(
        command(tiny_classifier, "--images", "photos", "--save", out, "--fps", 10),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=many_pictures(tmp_path),
        # A shell's background jobs ignore Ctrl-C, and so would this test's child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "frames/s" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "Stopped." in stdout
    assert "Saved: " in stdout
    assert "Traceback" not in stderr
    assert cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT) >= 1
    assert not list(tmp_path.glob(".clipdistill*"))


def many_pictures(folder: Path) -> Path:
    (folder / "photos").mkdir()
    for index in range(2000):
        Image.new("RGB", (48, 48), (index % 256, 0, 0)).save(folder / "photos" / f"{index}.png")
    return folder


# The page


@pytest.fixture
def page(monkeypatch) -> list[dict]:
    """A stand-in for the page, which keeps what it was called with."""
    calls: list[dict] = []

    def serve_page(student, **more) -> None:
        calls.append({"student": student, **more})
        raise KeyboardInterrupt

    module = types.ModuleType("clipdistill.show.web.server")
    module.serve_page = serve_page
    monkeypatch.setitem(sys.modules, "clipdistill.show.web.server", module)
    return calls


def test_the_page_gets_both_models(page, tiny_classifier, tiny_teacher_name, pictures, tmp_path):
    files = pictures(tmp_path, 20)
    options = DemoOptions(
        web=True, teacher=tiny_teacher_name, images=tmp_path, threshold=0.3, port=0, device="cpu"
    )
    result = demo(str(tiny_classifier), options=options)
    assert "Stopped showing" in result.summary()[0]
    (call,) = page
    assert (call["port"], call["threshold"]) == (0, 0.3)
    assert len(call["examples"]) == 8
    assert set(call["examples"]) <= set(files)
    assert call["teacher"].labels == call["student"].labels
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert call["teacher"].probabilities(pixels).shape == (1, 4)
    # New classes at once, in the model's own templates.
    text = call["encode"](["day", "night", "noon"])
    assert text.templates == call["student"].text.templates
    assert call["student"].with_text(text).probabilities(pixels).shape == (1, 3)


def test_the_models_own_teacher_encodes_when_its_run_is_here(
    page, tiny_classifier, tiny_teacher, tmp_path: Path
) -> None:
    header = Header(tiny_teacher.card, "clip-retrieval", "float16", True)
    EmbeddingStore(tmp_path / "embeddings", header).finish([])
    (tmp_path / "cpu").mkdir()
    model = shutil.copy(tiny_classifier, tmp_path / "cpu" / "dense.onnx")
    demo(str(model), options=DemoOptions(web=True, device="cpu"))
    assert page[0]["teacher"] is None
    assert page[0]["encode"](["day"]).labels == ("day",)
    assert page[0]["examples"] == []


def test_without_the_teacher_the_classes_are_fixed(page, tiny_classifier, monkeypatch) -> None:
    import clipdistill.models.teacher

    def missing(*args, **more):
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        raise ModelNotFoundError("not here")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(clipdistill.models.teacher, "load_teacher", missing)
    demo(str(tiny_classifier), options=DemoOptions(web=True, device="cpu"))
    assert page[0]["encode"] is None
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_another_teacher_is_refused(page, tiny_classifier, other_teacher) -> None:
    name = other_teacher.card.model_name
    with pytest.raises(MismatchError):
        demo(str(tiny_classifier), options=DemoOptions(web=True, teacher=name, device="cpu"))
    with pytest.raises(InputError, match="--teacher"):
        demo(str(tiny_classifier), options=DemoOptions(web=True, teacher="x.onnx", device="cpu"))
