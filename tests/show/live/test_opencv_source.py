"""Video files, streams and cameras through OpenCV, on files that the test writes."""

from __future__ import annotations

import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.errors import InputError
from clipdistill.show.live.opencv import OPTIONS, camera, video, without_password
from conftest import draw_picture

cv2 = pytest.importorskip("cv2", reason="OpenCV (extra demo) is not installed")


def write_video(path: Path, count: int = 12, *, codec: str = "mp4v", size=(64, 48), fps=10) -> list:
    """Write drawn frames; returns them as RGB."""
    frames = [np.asarray(draw_picture(index, size)) for index in range(count)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for one in frames:
        writer.write(cv2.cvtColor(one, cv2.COLOR_RGB2BGR))
    writer.release()
    return frames


def read_all(name: object) -> list[np.ndarray]:
    """Every frame of a source."""
    capture = video(str(name), timeout=2).open()
    frames = []
    while (one := capture.read()) is not None:
        frames.append(one)
    capture.close()
    return frames


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG")])
def test_every_frame_of_a_file_is_read(tmp_path: Path, name: str, codec: str) -> None:
    drawn = write_video(tmp_path / name, codec=codec)
    capture = video(str(tmp_path / name), timeout=2).open()
    assert (capture.live, capture.fps, capture.frames) == (False, 10, 12)
    read = read_all(tmp_path / name)
    assert len(read) == 12
    for mine, theirs in zip(read, drawn, strict=True):
        assert np.abs(mine.astype(int) - theirs).mean() < 30  # red is still red


def test_a_lossless_file_gives_the_pictures_themselves(tmp_path: Path) -> None:
    drawn = write_video(tmp_path / "a.avi", codec="FFV1")
    assert all(
        (mine == theirs).all()
        for mine, theirs in zip(read_all(tmp_path / "a.avi"), drawn, strict=True)
    )


def test_names_that_look_like_protocols_are_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", 3)
    for name in ("concat:clip.mp4", "a%02d.mp4", "-i.mp4"):
        (tmp_path / name).write_bytes((tmp_path / "clip.mp4").read_bytes())
        assert len(read_all(name)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "concat:{0}|{0}",
        "file:{0}",
        "subfile,,start,0,end,0,,:{0}",
        "data:video/avi;base64,AAAA",
        "ftp://user:secret@host/a.mp4",
        "udp://127.0.0.1:1",
        "http:///a.mp4",
        "none.mp4",
        "",
        ".",
    ],
)
def test_other_protocols_are_refused(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "a.avi", 2)
    with pytest.raises(InputError, match="no such") as caught:
        video(name.format(tmp_path / "a.avi"), timeout=1)
    assert "Give --video a file" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile a.avi\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.avi\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile a.avi\n"),
        ("text.mp4", "no video\n"),
        ("empty.mp4", ""),
    ],
)
def test_a_file_that_names_other_files_is_not_followed(
    tmp_path: Path, name: str, text: str, capfd
) -> None:
    write_video(tmp_path / "a.avi", 2)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="expected a video"):
        read_all(tmp_path / name)
    assert capfd.readouterr() == ("", "")  # OpenCV and FFmpeg keep their predictions to themselves


def test_a_damaged_file_gives_what_it_can(tmp_path: Path, capfd) -> None:
    write_video(tmp_path / "a.avi", 40, codec="MJPG")
    data = bytearray((tmp_path / "a.avi").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "damaged.avi").write_bytes(data)
    (tmp_path / "cut.avi").write_bytes((tmp_path / "a.avi").read_bytes()[:middle])
    assert 30 <= len(read_all(tmp_path / "damaged.avi")) <= 40
    assert 10 <= len(read_all(tmp_path / "cut.avi")) < 40
    assert capfd.readouterr() == ("", "")


def test_the_users_own_options_stay(tmp_path: Path, monkeypatch) -> None:
    seen: list[str] = []
    real = cv2.VideoCapture

    def remember(*args):
        seen.append(os.environ[OPTIONS])
        return real(*args)

    monkeypatch.setenv(OPTIONS, "rtsp_transport;udp|protocol_whitelist;file,concat")
    monkeypatch.setattr(cv2, "VideoCapture", remember)
    write_video(tmp_path / "a.avi", 2)
    assert len(read_all(tmp_path / "a.avi")) == 2
    before, _, ours = seen[0].rpartition("rtsp_transport;udp|protocol_whitelist;file,concat|")
    assert before == "rtsp_transport;tcp|"
    assert ours.startswith("protocol_whitelist;file|")  # the last one counts
    assert os.environ[OPTIONS].endswith("file,concat")


def test_no_such_camera(capfd) -> None:
    with pytest.raises(InputError, match="Camera 99 cannot be opened"):
        camera(99).open()
    assert capfd.readouterr() == ("", "")


def test_a_video_over_http(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 5)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **more):
            super().__init__(*args, directory=tmp_path, **more)

        def log_message(self, *args) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        source = video(f"{url}/a.mp4?token=secret", timeout=5)
        assert source.name == f"{url}/a.mp4"
        capture = source.open()
        assert (capture.live, capture.frames) == (False, 5)  # it has an end
        capture.close()
        # A list on the network may not name this machine's files.
        (tmp_path / "list.m3u8").write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
            f"file://{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(InputError, match="cannot be opened"):
            video(f"{url}/list.m3u8", timeout=5).open()
        server.shutdown()


def test_a_stream_that_nobody_gives() -> None:
    source = video("rtsp://user:secret@127.0.0.1:9/live?key=secret", timeout=2)
    assert source.live
    with pytest.raises(InputError, match="cannot be opened") as caught:
        source.open()
    assert "secret" not in str(caught.value) + source.name


def test_passwords_are_not_shown() -> None:
    assert without_password("rtsp://me:pw@cam:554/1?key=2") == "rtsp://cam:554/1"
    assert without_password("http://[::1]:8/a") == "http://[::1]:8/a"
