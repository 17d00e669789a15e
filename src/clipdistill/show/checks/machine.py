"""Checks of the machine: Python, cameras, the model hub and its cache, disks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...core.wording import many, size
from ...models.hub import hub_cache, hub_problem
from .check import Check

CAMERAS = Path("/sys/class/video4linux")
"""Where Linux lists cameras: a folder per device with its name, and its place within a camera."""
DEVICES = Path("/dev")
LEAST_FREE = 10**9
"""Free bytes below which a disk is reported as full: the default teacher alone has 0.6 GB."""


def check_python() -> Check:
    """Python, system and processor."""
    version = platform.python_version()
    cores = many(os.cpu_count() or 1, "core")
    found = f"{version} on {platform.system()} {platform.machine()}, {cores}: {sys.executable}"
    return Check("python", "works", found, "everything")


def check_cameras() -> Check:
    """Cameras; none is opened, as that would switch on its lamp."""
    gives = "demo --camera NUMBER"
    if not CAMERAS.parent.is_dir():
        return Check("camera", "not tried", "cameras are listed on Linux only", gives)
    nodes = sorted(path for path in CAMERAS.glob("video*") if _read(path / "index") in ("", "0"))
    if not nodes:
        return Check("camera", "missing", "no /dev/video*", gives, "Connect a camera.")
    names = {path.name: _read(path / "name") for path in nodes}
    closed = [name for name in names if not os.access(DEVICES / name, os.R_OK | os.W_OK)]
    if closed:
        found = f"no permission to open {', '.join(f'/dev/{name}' for name in closed)}"
        remedy = 'sudo usermod -aG video "$USER", then log in again'
        return Check("camera", "broken", found, gives, remedy)
    listed = [f"{name.removeprefix('video')}: {title}" for name, title in names.items()]
    return Check("camera", "works", "; ".join(listed), gives)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def check_hub(tried: bool) -> Check:
    """The model hub, which is only contacted when `tried`."""
    gives = "download teachers and pretrained students"
    if not tried:
        return Check("hub", "not tried", "it is contacted only with --hub", gives)
    problem = hub_problem()
    if problem:
        remedy = (
            "Without the hub: --model-name local-dir:FOLDER, --student-weights FILE. With a "
            "mirror: HF_ENDPOINT=https://..."
        )
        return Check("hub", "broken", problem, gives, remedy)
    return Check("hub", "works", "it answers", gives)


def check_cache() -> Check:
    """The folder in which the hub's files are kept."""
    folder = hub_cache()
    gives = "downloaded models are kept, and found without a network"
    if folder is None:
        found = "huggingface_hub is not installed"
        return Check("cache", "missing", found, gives, "pip install 'clipdistill[train]'")
    return _folder("cache", folder, gives, "HF_HOME=FOLDER names another one")


def check_temporary() -> Check:
    """The folder for temporary files."""
    gives = "unpacked tables, compiled kernels"
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Check("temporary", "broken", str(error), gives, "TMPDIR=FOLDER names one")
    return _folder("temporary", folder, gives, "TMPDIR=FOLDER names another one")


def check_disk() -> Check:
    """The folder in which the command was started."""
    return _folder("disk", Path.cwd(), "results", "start clipdistill in another folder")


def _folder(part: str, folder: Path, gives: str, remedy: str) -> Check:
    """Whether a folder can be written to, or made, and has free space; nothing is written."""
    existing = next(path for path in [folder, *folder.parents] if path.exists())
    if not existing.is_dir():
        return Check(part, "broken", f"{existing} is no folder", gives, remedy)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(part, "broken", f"{existing} cannot be written to", gives, remedy)
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE:
        found = f"only {size(free)} free in {folder}"
        return Check(part, "broken", found, gives, f"Free some space, or {remedy}")
    return Check(part, "works", f"{size(free)} free in {folder}", gives)


MACHINE: dict[str, Callable[[bool], Check]] = {
    "python": lambda hub: check_python(),
    "camera": lambda hub: check_cameras(),
    "hub": check_hub,
    "cache": lambda hub: check_cache(),
    "temporary": lambda hub: check_temporary(),
    "disk": lambda hub: check_disk(),
}
"""Part -> its check, which takes whether the hub may be contacted."""
