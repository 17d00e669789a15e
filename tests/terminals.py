"""A terminal, and an environment without what would change colours and widths, for tests."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios

DROPPED = (
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
    "TERM",
    "RANK",
    "PYTHONWARNINGS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would change what is drawn."""
    return {key: value for key, value in os.environ.items() if key not in DROPPED} | more


def on_terminal(command: list[str], columns: int = 80, **more: str) -> str:
    """Run a command on a terminal; returns everything it drew."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = environment(TERM="xterm-256color", **more)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux: the other end was closed
            break
        if not piece:
            break
        drawn += piece
    os.close(ours)
    assert process.wait() == 0, drawn
    return drawn.decode()
