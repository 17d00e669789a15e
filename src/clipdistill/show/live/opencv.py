"""Cameras, video files and streams, read by OpenCV.

OpenCV passes most names on to FFmpeg, which gives some of them a special meaning: `concat:`,
`subfile,,`, playlists that name other files.  Here a name is a file of this machine or an http,
https, rtsp or rtsps URL.  FFmpeg's options enforce it: for a file it may open only files, and for a
URL only the network.
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
"""Schemes of the URLs that --video supports."""
CONTAINERS = (
    "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,"
    "webm,yuv4mpegpipe"
)
"""FFmpeg's names of the allowed formats of a video file; none can refer to other files."""
FILE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
URL_OPTIONS = "protocol_whitelist;http,https,httpproxy,rtsp,rtsps,rtp,srtp,tcp,tls,udp,crypto"
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""Environment variable that OpenCV reads when it opens a video: `key;value|key;value`; the last
value of a key counts.  OpenCV sets rtsp_transport itself only where the variable is not set."""
BROKEN_LIMIT = 30
"""Consecutive broken frames after which a source counts as lost."""


def load_cv2() -> ModuleType:
    """Import OpenCV, and silence its warnings and FFmpeg's."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    import cv2

    with contextlib.suppress(AttributeError):  # not in every build
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


class OpenCvCapture:
    """A `frames.Capture` around OpenCV's.

    Args:
        capture: an opened cv2.VideoCapture.
        live: see `frames.Capture.live`; None: live if the number of frames is unknown.
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
    """Make a source of a camera of this machine, by its number.

    Raises:
        InputError: on opening, if the camera cannot be opened.
    """

    def connect() -> OpenCvCapture:
        cv2 = load_cv2()
        capture = cv2.VideoCapture(number)
        if not capture.isOpened():
            raise InputError(
                f"Camera {number} cannot be opened: it does not exist, another program uses it, or "
                "access is not permitted. Give the number of another one with --camera (on "
                "Linux, ls /dev/video* lists them), or a file with --video."
            )
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a larger buffer would delay the shown frames
        return OpenCvCapture(capture, True)

    return Source(f"camera {number}", connect, live=True)


def video(name: str, *, timeout: float) -> Source:
    """Make a source of a video file or a network stream.

    Args:
        name: a file, or a URL with one of `SCHEMES`.
        timeout: seconds to wait for a server.

    Raises:
        InputError: no such file, or another kind of URL; on opening: it is not a video.
    """
    parts = urlsplit(name)
    if parts.scheme in SCHEMES and parts.hostname:
        return _stream(name, timeout)
    path = Path(name)
    if not path.is_file():
        raise InputError(_no_such_video(name, parts.scheme))

    def connect() -> OpenCvCapture:
        # An absolute path: FFmpeg would parse "concat:a" as a protocol.
        capture = _open(str(path.resolve()), FILE_OPTIONS, timeout)
        if not capture.isOpened():
            raise InputError(
                f"{name}: expected a video (such as .mp4, .avi, .mkv, .webm), but it cannot be "
                "read as one. It may be truncated or of another kind. Give another --video."
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
                "user and password, and that this machine can reach it."
            )
        return OpenCvCapture(capture, True if live else None)

    return Source(shown, connect, live=live)


def without_password(url: str) -> str:
    """Remove user, password and query from a URL."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _no_such_video(name: str, scheme: str) -> str:
    if scheme and len(scheme) > 1:  # not a drive's letter
        shown = without_password(name) if "://" in name else name
        return (
            f"{shown}: no such file, and not a supported URL. Give --video a file, or a URL "
            f"({', '.join(SCHEMES)})."
        )
    return f"{name}: no such video file. Give --video a file, or a URL ({', '.join(SCHEMES)})."


def _open(name: str, options: str, timeout: float) -> Any:
    """Open with FFmpeg where OpenCV has it, else with another backend (GStreamer)."""
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
    """Set OpenCV's options for FFmpeg: the user's own, then our whitelists, which win."""
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
    """Read a property of OpenCV: 0, -1 and NaN all mean unknown, which becomes 0."""
    return float(value) if 0 < value < 1e9 else 0.0
