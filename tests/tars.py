"""Tars of images, as WebDataset has them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from conftest import draw_picture


def draw_tars(folder: Path, sizes: list[int], *, seed: int = 0) -> list[Path]:
    """Write a tar of drawn images for each of `sizes`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.tar" for number in range(len(sizes))]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        with tarfile.open(path, "w") as archive:
            for index in range(size):
                buffer = io.BytesIO()
                draw_picture(1000 * seed + 100 * number + index).save(buffer, "PNG")
                # Not in the order of their names, as downloads end.
                name = f"{(index * 7) % size if size % 7 else index:05}.png"
                info = tarfile.TarInfo(name)
                info.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(info, buffer)
    return paths
