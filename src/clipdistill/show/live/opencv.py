"""Cameras, video files and streams, read by OpenCV.

OpenCV gives everything that it does not know itself to FFmpeg, whose file names are a small
language: `concat:`, `subfile,,`, playlists that name other files.  Here a name is a file of this
machine or an http, https, rtsp or rtsps URL, and FFmpeg is told the same: it may open only files
for a file, and only the network for a URL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ...core.errors import ImageError, InputError
from .frames import Pixels, Source

SCHEMES = ("http", "https", "rtsp", "rtsps")
"""Of URLs that --video takes."""
CONTAINERS = (
    "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,"
    "webm,yuv4mpegpipe"
)
"""FFmpeg's names of formats that a video file may have: none that names other files."""
FILE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
URL_OPTIONS = "protocol_whitelist;http,https,httpproxy,rtsp,rtsps,rtp,srtp,tcp,tls,udp,crypto"
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""Environment variable that OpenCV reads when it opens a video: `key;value|key;value`, the last of
a key counts.  OpenCV sets rtsp_transport itself, but not where this is set."""
BROKEN_LIMIT = 30
"""Broken frames in a row, after which a source counts as gone."""


def load_cv2() -> ModuleType:
    """Import OpenCV, and keep its warnings and FFmpeg's out of the terminal."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    import cv2

    with contextlib.suppress(AttributeError):  # not in every build
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


class OpenCvCapture:
    """See `frames.Capture`.

    Args:
        capture: an opened cv2.VideoCapture.
        live: see `frames.Capture.live`; None: if the source does not know how many frames it has.
    """

    def __init__(self, capture: Any, live: bool | None) -> None:
        cv2 = load_cv2()
        self._capture, self._broken = capture, 0
        self.fps = _positive(capture.get(cv2.CAP_PROP_FPS))
        self.frames = int(_positive(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.live = self.frames == 0 if live is None else live

    def read(self) -> Pixels | None:
        """See `Capture.read`."""
        cv2 = load_cv2()
        try:
            there, pixels = self._capture.read()
            if not there or pixels is None:
                return None
            rgb: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        except cv2.error as error:
            self._broken += 1
            if self._broken >= BROKEN_LIMIT:
                return None
            raise ImageError(f"OpenCV cannot read it ({error})") from error
        self._broken = 0
        return rgb

    def close(self) -> None:
        """See `Capture.close`."""
        self._capture.release()


def camera(number: int, *, size: tuple[int, int] | None = None) -> Source:
    """A camera of this machine, by its number.

    Raises:
        InputError: when it is opened and there is none.
    """

    def connect() -> OpenCvCapture:
        cv2 = load_cv2()
        capture = cv2.VideoCapture(number)
        if not capture.isOpened():
            raise InputError(
                f"Camera {number} cannot be opened: there is none of that number, another program "
                "uses it, or it may not be used. Try --camera 0, or look which are there "
                "(Linux: ls /dev/video*)."
            )
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # otherwise what is shown is some frames old
        return OpenCvCapture(capture, True)

    return Source(f"camera {number}", connect, live=True)


def video(name: str, *, timeout: float) -> Source:
    """A video file, or a stream of the network.

    Args:
        name: a file, or a URL of one of `SCHEMES`.
        timeout: seconds that a server may take to answer.

    Raises:
        InputError: no such file, or another kind of URL; when it is opened: it is no video.
    """
    parts = urlsplit(name)
    if parts.scheme in SCHEMES and parts.hostname:
        return _stream(name, timeout)
    path = Path(name)
    if not path.is_file():
        raise InputError(_no_such_video(name, parts.scheme))

    def connect() -> OpenCvCapture:
        # A whole path: FFmpeg would take "concat:a" for a protocol.
        capture = _open(str(path.resolve()), FILE_OPTIONS, timeout)
        if not capture.isOpened():
            raise InputError(
                f"{name}: expected a video (such as .mp4, .avi, .mkv, .webm), but it cannot be "
                "read as one. It may be cut short, or something else."
            )
        return OpenCvCapture(capture, False)

    return Source(name, connect)


def _stream(url: str, timeout: float) -> Source:
    shown = without_password(url)
    live = urlsplit(url).scheme.startswith("rtsp")

    def connect() -> OpenCvCapture:
        capture = _open(url, URL_OPTIONS, timeout)
        if not capture.isOpened():
            raise InputError(
                f"{shown}: cannot be opened as a video within {timeout:g} s. Check the address, "
                "user and password, and that this machine reaches it."
            )
        return OpenCvCapture(capture, True if live else None)

    return Source(shown, connect, live=live)


def without_password(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _no_such_video(name: str, scheme: str) -> str:
    if scheme and len(scheme) > 1:  # not a drive's letter
        return (
            f"{without_password(name) if '://' in name else name}: no such file, and no kind of "
            f"URL that is read. --video takes a file, or a URL of {', '.join(SCHEMES)}."
        )
    return f"{name}: no such video file. --video takes a file, or a URL ({', '.join(SCHEMES)})."


def _open(name: str, options: str, timeout: float) -> Any:
    """Open with FFmpeg alone where OpenCV has it; elsewhere (GStreamer) with what there is."""
    cv2 = load_cv2()
    with _capture_options(options):
        if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
            return cv2.VideoCapture(name)
        wait = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            int(1000 * timeout),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            int(1000 * timeout),
        ]
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG, wait)


@contextlib.contextmanager
def _capture_options(options: str) -> Iterator[None]:
    """Set what OpenCV tells FFmpeg; the user's own options stay, the whitelists are ours."""
    before = os.environ.get(OPTIONS)
    os.environ[OPTIONS] = "|".join(filter(None, ["rtsp_transport;tcp", before, options]))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(OPTIONS, None)
        else:
            os.environ[OPTIONS] = before


def _positive(value: float) -> float:
    """A property of OpenCV's: 0, -1 and NaN all mean unknown."""
    return float(value) if 0 < value < 1e9 else 0.0
