"""Holding images out: a list of those to train on, and folders of links to images."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..core.errors import ImageError, InputError
from ..core.files import ensure_folder, write_bytes, writing
from ..formats.run import RunFolder
from ..formats.selection import listable
from ..images.sources import ImageItem

MOST = 5000
"""The most images that are held out; more measure no better, and are lost to the training."""


def hold_out(items: Sequence[ImageItem], share: float, seed: int, folder: RunFolder) -> int:
    """Choose images to hold out by their names, and write list and links.

    The choice of an image does not depend on the others, so added images move none.

    Args:
        items: all images.
        share: of them to hold out, 0 to 0.5.
        seed: of the choice.
        folder: of the run.

    Returns:
        How many are held out.

    Raises:
        InputError: nothing is left to train on, or nothing to measure on.
        OutputError: the links cannot be written.
    """
    items = [item for item in items if not item.problem]  # a damaged tar would be linked whole
    lots = {item.key: _lot(item.key, seed) for item in items}
    limit = min(share, MOST / max(1, len(items)))
    held = [item for item in items if lots[item.key] < limit and listable(item.key)]
    if not held and len(items) > 1:
        held = [min(items, key=lambda item: lots[item.key])]
    names = {item.key for item in held}
    learnt = [item.key for item in items if item.key not in names and listable(item.key)]
    if not held or not learnt:
        raise InputError(
            f"Too few images to hold some out: {len(items)}. Add images, or measure on "
            "labelled ones: --labelled FOLDER"
        )
    link_images(held, folder.holdout)
    write_bytes(folder.training_list, "".join(f"{key}\n" for key in learnt).encode())
    return len(held)


def link_images(items: Sequence[ImageItem], folder: Path) -> None:
    """Make a folder of links to images, each under its key; what was in the folder is deleted.

    Raises:
        OutputError: the links cannot be written.
    """
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        for item in items:
            path = folder / item.key
            if not path.parent.is_dir():
                ensure_folder(path.parent)
            _link(item, path)


def _lot(key: str, seed: int) -> float:
    """A number from 0 to 1 that depends on the name and the seed alone."""
    digest = hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _link(item: ImageItem, path: Path) -> None:
    """A link to an image; a copy where it lies in a tar, or where links cannot be made."""
    if item.offset is None:
        try:
            os.symlink(os.path.abspath(item.path), path)
            return
        except (OSError, NotImplementedError):
            pass
    with suppress(ImageError):  # the end of a tar that is cut short
        write_bytes(path, item.read())
