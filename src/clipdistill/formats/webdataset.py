"""Downloaded images in WebDataset tars.

    OUT/00000.tar        of each of its images NAME.jpg, NAME.txt (the caption, or the prompt) and
                         NAME.json (what is known); NAME as in `ledger`, in the order of the list
    OUT/index.parquet    the ledger; `file` is "00000.tar/NAME.jpg", as `embed` names the image

A tar is written once, whole, and never changed; its images' own files are deleted after that.  So a
packing that was killed continues with the next tar, and ends with the same ones.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core.files import atomic_path, writing
from ..core.storage import RemotePath
from ..images.intake import ENDINGS
from ..images.sources import is_picture
from ..images.tars import tar_members
from .ledger import OK, LedgerRow, read_index, read_ledger, stem_of, with_owners, write_index
from .urls import UrlRow, read_urls

TAR = re.compile(r"(\d{5,})\.tar")


@dataclass(frozen=True)
class Packed:
    """An image in a tar.

    Attributes:
        file: "00000.tar/NAME.jpg".
        bytes: its size.
    """

    file: str
    bytes: int


def packed_images(folder: Path, store: RemotePath | None = None) -> dict[str, Packed]:
    """Return the images in a folder's tars, by their names without ending.

    What a damaged tar does not hold whole is left out.

    Args:
        folder: of the download.
        store: where the tars are, if that is object storage; of those that the ledger in `folder`
            names, the members are taken from it.
    """
    found: dict[str, Packed] = {}
    if store is None:
        for path in sorted(folder.iterdir()):
            if TAR.fullmatch(path.name) and path.is_file():
                found |= _members(path)
        return found
    tars = {path.name: path for path in store.iterdir() if TAR.fullmatch(path.name)}
    known = set()
    for row in read_index(folder):
        tar, _, name = row.file.partition("/")
        if row.status == OK and tar in tars and name.startswith(f"{stem_of(row.url)}."):
            known.add(tar)
            found[stem_of(row.url)] = Packed(row.file, row.bytes)
    for name in sorted(tars.keys() - known):  # of a download that was killed before its ledger
        found |= _members(tars[name])
    return found


def _members(path: Path) -> dict[str, Packed]:
    """The whole images of one tar."""
    found: dict[str, Packed] = {}
    damaged = (tarfile.TarError, OSError, ValueError)
    with (
        contextlib.suppress(*damaged),
        path.reader() if isinstance(path, RemotePath) else open(path, "rb") as tar,
    ):
        end = tar.seek(0, os.SEEK_END)
        for member in tar_members(tar, end):
            whole = not member.problem and member.offset + member.size <= end
            if whole and is_picture(member.name):
                stem = member.name.partition(".")[0]
                found[stem] = Packed(f"{path.name}/{member.name}", member.size)
    return found


def recall_ledger(folder: Path, store: RemotePath) -> None:
    """Bring the ledger of `store` into `folder`, where this machine may have newer rows.

    Raises:
        FormatError: one of them is damaged.
        OutputError: it cannot be written.
    """
    rows = {row.url: row for row in read_index(folder)}
    for row in read_index(store):
        if "/" in row.file or row.url not in rows:
            rows[row.url] = row
    write_index(folder, rows.values())


def located(row: LedgerRow, packed: dict[str, Packed]) -> LedgerRow:
    """Return a row with the place of its image, if that is in a tar."""
    there = packed.get(stem_of(row.url)) if row.status == OK else None
    return row if there is None else replace(row, file=there.file)


def pack(urls: Path, folder: Path, shard_size: int, store: RemotePath | None = None) -> int:
    """Put the images of a finished download into tars; returns the number of new tars.

    Args:
        urls: the list, whose order the images keep.
        folder: of the download; must be locked by this process.
        shard_size: images per tar; 0: make no tars, only bring the ledger up to date.
        store: where the tars and, last, the ledger are written; None: `folder`.

    Raises:
        OutputError: a tar cannot be written; the others are kept.
    """
    packed = packed_images(folder, store)
    rows = {stem_of(row.url): row for row in read_ledger(folder) if row.status == OK}
    for stem, row in rows.items():
        if stem in packed and _has_own_file(row):  # killed after the tar, before this
            (folder / row.file).unlink(missing_ok=True)
    new = 0
    if shard_size:
        waiting = [
            (found, row)
            for found, row in _ordered(urls, rows)
            if _has_own_file(row) and stem_of(row.url) not in packed
        ]
        number = _next_number(store or folder)
        for start in range(0, len(waiting), shard_size):
            tar = (store or folder) / f"{number + new:05d}.tar"
            _write_tar(tar, folder, waiting[start : start + shard_size])
            new += 1
    if new or packed:
        packed = packed_images(folder, store)
        write_index(folder, with_owners([located(row, packed) for row in read_ledger(folder)]))
    if store is not None:
        write_index(store, read_index(folder))
    return new


def _has_own_file(row: LedgerRow) -> bool:
    """Whether an image is a file of the folder; a ledger must not name files elsewhere."""
    name, ending = os.path.splitext(row.file)
    return name == stem_of(row.url) and ending in ENDINGS.values()


def _ordered(urls: Path, rows: dict[str, LedgerRow]) -> Iterator[tuple[UrlRow, LedgerRow]]:
    """The images in the order of the list, then those of earlier lists."""
    left = dict(rows)
    for found in read_urls(urls):
        row = left.pop(stem_of(found.url), None)
        if row is not None:
            yield found, row
    for stem in sorted(left):
        row = left[stem]
        yield UrlRow(row.url, prompt=row.prompt), row


def _next_number(folder: Path) -> int:
    matches = (TAR.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=-1) + 1


def _write_tar(path: Path, folder: Path, images: Sequence[tuple[UrlRow, LedgerRow]]) -> None:
    with (
        atomic_path(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for found, row in images:
            stem, data = stem_of(row.url), (folder / row.file).read_bytes()
            about = {"caption": found.caption, "source": found.source, **asdict(row)}
            about["file"] = f"{path.name}/{row.file}"
            _add(tar, row.file, data)
            _add(tar, f"{stem}.txt", (found.caption or found.prompt).encode())
            _add(tar, f"{stem}.json", json.dumps(about).encode())
    for _, row in images:
        with writing(folder / row.file):
            (folder / row.file).unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
