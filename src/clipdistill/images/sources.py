"""Finding images: a folder (searched recursively), WebDataset tars, files, globs."""

from __future__ import annotations

import glob
import hashlib
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ImageError, InputError
from .decode import EXTENSIONS


@dataclass(frozen=True)
class ImageItem:
    """One image that was found.

    Attributes:
        key: its name below the source, with forward slashes ("cats/1.jpg", "00000.tar/1.jpg").
        path: the file, or the tar that holds it.
        size: bytes of the encoded image.
        mtime_ns: modification time of `path` in nanoseconds.
        offset: position of its first byte in a tar; None for a file of its own.
        problem: why it cannot be read, where that is known from the listing; usually empty.
    """

    key: str
    path: Path
    size: int
    mtime_ns: int
    offset: int | None = None
    problem: str = ""

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises:
            ImageError: it cannot be read (deleted, permissions, a truncated tar).
        """
        if self.problem:
            raise ImageError(self.problem)
        try:
            if self.offset is None:
                return self.path.read_bytes()
            with open(self.path, "rb") as handle:
                handle.seek(self.offset)
                data = handle.read(self.size)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from error
        if len(data) != self.size:
            raise ImageError(f"the tar ends after {len(data)} of {self.size} bytes")
        return data


def content_id(data: bytes) -> str:
    """Name the bytes of a file: 32 hex digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def printable(name: str) -> str:
    r"""Convert a name to valid Unicode: bytes that are not UTF-8 are written as \xNN.

    Keys are written to JSON, parquet and the terminal, which refuse Python's surrogates for such
    bytes.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def is_picture(name: str) -> bool:
    """Whether a file name has an ending of `EXTENSIONS`, in any case; hidden files do not count."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


def list_images(root: Path) -> list[ImageItem]:
    """List the images of a folder, of the tars in it, or of one tar, sorted by key.

    Raises:
        InputError: `root` does not exist or holds no image.
    """
    if not os.path.exists(root):
        raise InputError(f"{root}: no such folder. Expected a folder of images or WebDataset tars.")
    if root.is_file() and root.suffix.lower() != ".tar":
        raise InputError(f"{root}: expected a folder of images or a .tar, found a file.")
    items = _in_tar(root, printable(root.name)) if root.is_file() else _in_folder(root)
    if not items:
        raise InputError(
            f"{root}: no images found. Expected files {', '.join(EXTENSIONS)} (or .tar) in it or "
            "in a folder below it."
        )
    return sorted(items, key=lambda item: item.key)


def match_images(patterns: Sequence[str]) -> list[ImageItem]:
    """List the images of file names, folders and globs, in the order given.

    A named file is listed whatever its ending is, so that a wrong one gets its own message.

    Raises:
        InputError: a named file does not exist, or a glob matches nothing.
    """
    items: list[ImageItem] = []
    for pattern in patterns:
        path = Path(pattern)
        if os.path.isdir(path) or (os.path.isfile(path) and path.suffix.lower() == ".tar"):
            items += list_images(path)
        elif os.path.isfile(path):
            items.append(_of_file(path, printable(pattern)))
        else:
            found = sorted(glob.glob(pattern, recursive=True))
            files = [name for name in found if os.path.isfile(name)]
            if not files:
                what = "it matches folders only" if found else "no such image, folder or glob"
                raise InputError(f"{pattern}: {what}. Name images, a folder of them, or *.jpg.")
            items += [_of_file(Path(name), printable(name)) for name in files]
    return items


def _of_file(path: Path, key: str) -> ImageItem:
    status = path.stat()
    return ImageItem(key, path, status.st_size, status.st_mtime_ns)


def _in_folder(root: Path) -> list[ImageItem]:
    items: list[ImageItem] = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _loops(folder, name)
        )
        for name in names:
            path = Path(folder, name)
            key = printable(path.relative_to(root).as_posix())
            if name.lower().endswith(".tar"):
                items += _in_tar(path, key)
            elif is_picture(name):
                items.append(_link_safe(path, key))
    return items


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: this folder cannot be read ({error.strerror}). Change its permissions, "
        "or take it out of the images."
    ) from error


def _loops(folder: str, name: str) -> bool:
    """Whether a folder is a link to one of its own parents."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(folder).resolve().is_relative_to(Path(path).resolve())


def _link_safe(path: Path, key: str) -> ImageItem:
    """Make the item of a file; one that vanished or is a dangling link gets a row with a reason."""
    try:
        return _of_file(path, key)
    except OSError:
        return ImageItem(key, path, 0, 0)


def _in_tar(path: Path, key: str) -> list[ImageItem]:
    """List the images of a tar.

    A truncated tar gives the images before its end, and a row for the tar itself.  A later member
    of the same name replaces the earlier, as when unpacking.  No name leads out of the tar.
    """
    items: dict[str, ImageItem] = {}
    try:
        mtime = path.stat().st_mtime_ns
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                if member.isreg() and is_picture(member.name):
                    parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
                    name = printable("/".join([key, *parts]))
                    items[name] = ImageItem(name, path, member.size, mtime, member.offset_data)
    # A damaged header can name any size and any character set.
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        problem = f"cut short, or not an uncompressed tar ({error})"
        items[key] = ImageItem(key, path, 0, 0, problem=problem)
    return list(items.values())
