"""A window with the annotated frames, where there is a display."""

from __future__ import annotations

import os
import sys

from ...core.errors import InputError
from .letters import Letters
from .loop import Seen, Status
from .opencv import load_cv2
from .overlay import annotate

KEYS = (27, ord("q"), ord("Q"))
"""Keys that close the window: Esc and q."""


def has_display() -> bool:
    """Whether windows can be shown here."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Window:
    """A view that shows every annotated frame in a window.

    Raises:
        InputError: there is no display, or this OpenCV has no windows.
    """

    def __init__(self, title: str, letters: Letters) -> None:
        if not has_display():
            raise InputError(
                "--window needs a display, and there is none (DISPLAY and WAYLAND_DISPLAY are not "
                "set). Remove --window, or use --save OUT.mp4 or --web."
            )
        os.environ.setdefault("QT_LOGGING_RULES", "*.debug=false;*.warning=false")
        self._cv2 = load_cv2()
        self._title, self._letters, self._shown = title, letters, False
        try:
            self._cv2.namedWindow(title, self._cv2.WINDOW_NORMAL)
        except self._cv2.error as error:
            raise InputError(
                f"--window: this OpenCV cannot open windows ({error}). Install opencv-python "
                "instead of opencv-python-headless."
            ) from error

    def show(self, seen: Seen) -> None:
        """See `View.show`."""
        image = annotate(seen, self._letters)
        if not self._shown:
            self._cv2.resizeWindow(self._title, image.shape[1], image.shape[0])
        self._cv2.imshow(self._title, self._cv2.cvtColor(image, self._cv2.COLOR_RGB2BGR))
        self._shown = True

    def tick(self, status: Status) -> bool:
        """See `View.tick`; False after q, Esc, or when the window was closed."""
        if self._cv2.waitKey(1) & 0xFF in KEYS:
            return False
        visible = self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE)
        return not self._shown or visible >= 1

    def close(self) -> None:
        """See `View.close`."""
        self._cv2.destroyAllWindows()
