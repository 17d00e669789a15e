"""Downloaded images in WebDataset tars.

    OUT/00000.tar        of each of its images NAME.jpg, NAME.txt (the caption, or the prompt) and
                         NAME.json (what is known); NAME as in `ledger`, in the order of the list
    OUT/index.parquet    the ledger; `file` is "00000.tar/NAME.jpg", as `embed` names the image

A tar is written once, whole, and never changed; its images' own files are deleted after that.  So a
packing that was killed continues with the next tar, and ends with the same ones.  Rows are
streamed: only columns of them are in memory.
"""

from __future__ import annotations

import bisect
import contextlib
import heapq
import io
import itertools
import json
import os
import re
import tarfile
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..core.files import TEMPORARY_PREFIX, atomic_path, names_in, writing
from ..core.keys import Keys
from ..core.storage import RemotePath
from ..images.intake import ENDINGS
from ..images.tars import BLOCK, tar_members
from .ledger import (
    INDEX,
    OK,
    LedgerRow,
    key_of,
    key_of_url,
    read_index,
    sorted_index,
    stem_of,
    with_owners,
    write_index,
)
from .urls import UrlRow, read_urls

TAR = re.compile(r"(\d{5,})\.tar")
STEM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAMED = sorted(set(ENDINGS.values()))
"""The endings of stored images."""
STRIDE = 16
"""Of so many waiting images the name of one is in memory."""
TAR_DIGITS = 10
"""Digits of a tar's number in the table of waiting images."""
NO_TAR = 10**TAR_DIGITS - 1
"""Stands there for the tar of an image that still waits."""


class Tars:
    """Which images the tars of a download hold, as far as its index does not say it.

    Where a tar holds what the index names, no more and no less, only its name is in memory.  Each
    image of another tar, such as of a damaged one, takes some 36 bytes.

    Args:
        folder: of the download, with the index.
        store: where the tars are, if that is object storage; of those that the index names, the
            images are taken from it without reading them.
    """

    def __init__(self, folder: Path, store: RemotePath | None = None) -> None:
        self._listed: set[str] = set()
        self._others: list[str] = []
        self._places = Keys(np.int64)
        self._tars, self._endings, self._sizes = array("I"), array("B"), array("Q")
        paths = [(store or folder) / name for name in sorted(_tars_in(store or folder))]
        told = _listed_images(folder) if paths else {}
        for path in paths:
            name = path.name
            if name in told and (store is not None or told[name] == _sum(_members(path))):
                self._listed.add(name)
            else:
                self._add(path)

    def _add(self, path: Path) -> None:
        self._others.append(path.name)
        for stem, ending, size in _members(path):
            self._places[key_of(stem)] = len(self._sizes)
            self._tars.append(len(self._others) - 1)
            self._endings.append(NAMED.index(ending))
            self._sizes.append(size)

    def __len__(self) -> int:
        """The number of images that are not where the index says."""
        return len(self._places)

    def located(self, row: LedgerRow) -> LedgerRow:
        """A row with the place of its image, if that is in a tar."""
        place = self._places.get(key_of_url(row.url), -1) if row.status == OK else -1
        if place < 0:
            return row
        tar, ending = self._others[self._tars[place]], NAMED[self._endings[place]]
        return replace(row, file=f"{tar}/{stem_of(row.url)}{ending}")

    def hold(self, row: LedgerRow) -> bool:
        """Whether an image is, whole, in the tar that its row names."""
        if tar_of(row) in self._listed:
            return True
        place = self._places.get(key_of_url(row.url), -1)
        return place >= 0 and self.located(row) == row and self._sizes[place] == row.bytes


def tar_of(row: LedgerRow) -> str:
    """The tar that a row names; "" where its image is a file."""
    tar, _, name = row.file.partition("/")
    in_tar = (
        row.status == OK and TAR.fullmatch(tar) and os.path.splitext(name)[0] == stem_of(row.url)
    )
    return tar if in_tar else ""


def _listed_images(folder: Path) -> dict[str, int]:
    """The tars that the index names, and the `_sum` of their images."""
    found: dict[str, int] = {}
    for row in read_index(folder, ("url", "status", "file", "bytes")):
        if tar := tar_of(row):
            name = row.file.partition("/")[2]
            found[tar] = found.get(tar, 0) + hash((*os.path.splitext(name), row.bytes))
    return found


def _sum(images: Iterable[tuple[str, str, int]]) -> int:
    """A number that differs between different sets of images."""
    return sum(map(hash, images))


def _members(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield name, ending and bytes of the whole images of a tar; it may be damaged."""
    damaged = (tarfile.TarError, OSError, ValueError)
    with (
        contextlib.suppress(*damaged),
        path.reader() if isinstance(path, RemotePath) else open(path, "rb") as tar,
    ):
        end = tar.seek(0, os.SEEK_END)
        for member in tar_members(tar, end):
            whole = not member.problem and member.offset + member.size <= end
            stem, ending = os.path.splitext(member.name)
            if whole and ending in NAMED and STEM.fullmatch(stem):
                yield stem, ending, member.size


def recall_ledger(folder: Path, store: RemotePath) -> None:
    """Bring the index of `store` into `folder`, where this machine may have newer rows.

    Raises:
        FormatError: one of them is damaged.
        OutputError: it cannot be written.
    """

    def rows() -> Iterator[LedgerRow]:
        both = heapq.merge(sorted_index(folder), sorted_index(store), key=lambda one: one[0])
        for _, same in itertools.groupby(both, key=lambda one: one[0]):
            mine, *others = (row for _, _, row in same)  # of equal keys the folder's comes first
            yield next((row for row in others if "/" in row.file), mine)

    write_index(folder, rows())


def recall_tars(folder: Path, store: RemotePath | None = None) -> Tars:
    """Read which images are in tars, and write it to the index where that is not up to date.

    The images' own files are deleted.

    Args:
        folder: of the download; must be locked by this process.
        store: see `Tars`.

    Raises:
        FormatError: the index is damaged.
        OutputError: it cannot be written.
    """
    tars = Tars(folder, store)
    if not len(tars) or not (folder / INDEX).is_file():
        return tars
    for row in read_index(folder):
        if _has_own_file(row) and tars.located(row) != row:
            _remove(folder, row.file)
    write_index(folder, with_owners(lambda: map(tars.located, read_index(folder))))
    return Tars(folder, store)


def pack(urls: Path, folder: Path, shard_size: int, store: RemotePath | None = None) -> int:
    """Put the images of a finished download into tars; returns the number of new tars.

    Args:
        urls: the list, whose order the images keep.
        folder: of the download; must be locked by this process.
        shard_size: images per tar; 0: make no tars, only bring the index up to date.
        store: where the tars and, last, the index are written; None: `folder`.

    Raises:
        OutputError: a tar cannot be written; the others are kept.
    """
    recall_tars(folder, store)
    new = 0
    if shard_size:
        first = _next_number(store or folder)
        with _Waiting(folder) as waiting:
            images = waiting.ordered(urls)
            while image := next(images, None):
                some = itertools.chain([image], itertools.islice(images, shard_size - 1))
                _write_tar((store or folder) / _tar_name(first + new), folder, some)
                new += 1
                waiting.tar = new
            if new:
                write_index(folder, with_owners(lambda: waiting.located(first)))
    if store is not None:
        write_index(store, read_index(folder))
    return new


class _Waiting:
    """The images of a finished download that are in no tar; a byte of each is in memory.

    Their rows are in a temporary file, in the order of the index, which is that of their names; of
    each image that was taken, it has the number of the tar, too.

    Attributes:
        tar: number of the tar to which the next image of `ordered` goes, from 0.
    """

    def __init__(self, folder: Path) -> None:
        self.tar = 0
        self._folder = folder
        # The first bytes of the name of every `STRIDE`-th row, ascending, and its place.
        self._heads, self._places = array("Q"), array("Q")
        with writing(folder):
            self._file = tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX)  # noqa: SIM115
            for number, row in enumerate(filter(_has_own_file, read_index(folder))):
                key = key_of_url(row.url)
                if number % STRIDE == 0:
                    self._heads.append(_head(key))
                    self._places.append(self._file.tell())
                line = f"{NO_TAR:0{TAR_DIGITS}} {key.hex()} {json.dumps(asdict(row))}\n"
                self._file.write(line.encode())

    def __enter__(self) -> _Waiting:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def ordered(self, urls: Path) -> Iterator[tuple[UrlRow, LedgerRow]]:
        """Yield the images in the order of the list, then those of earlier lists."""
        for found in read_urls(urls):
            row = self._take(found.url)
            if row is not None:
                yield found, row
        place = 0
        while line := self._line_at(place):
            here, place = place, place + len(line)
            if (row := self._take_line(here, line)) is not None:
                yield UrlRow(row.url, prompt=row.prompt), row

    def located(self, first: int) -> Iterator[LedgerRow]:
        """The rows of the index, each with the tar of its image; number 0 is the tar `first`."""
        place = 0
        for row in read_index(self._folder):
            if _has_own_file(row):
                line = self._line_at(place)
                place += len(line)
                number = int(line[:TAR_DIGITS])
                if number != NO_TAR:
                    row = replace(row, file=f"{_tar_name(first + number)}/{row.file}")
            yield row

    def _take(self, url: str) -> LedgerRow | None:
        """The row of an image, which waits no longer; None where it does not wait."""
        key = key_of_url(url)
        name = key.hex().encode()
        before = max(0, bisect.bisect_left(self._heads, _head(key)) - 1)
        place = self._places[before] if self._places else 0
        while line := self._line_at(place):
            found = line[TAR_DIGITS + 1 :][: len(name)]
            if found >= name:
                return self._take_line(place, line) if found == name else None
            place += len(line)
        return None

    def _take_line(self, place: int, line: bytes) -> LedgerRow | None:
        if int(line[:TAR_DIGITS]) != NO_TAR:
            return None
        self._file.seek(place)
        with writing(self._folder):
            self._file.write(f"{self.tar:0{TAR_DIGITS}}".encode())
        return LedgerRow(**json.loads(line.split(b" ", 2)[2]))

    def _line_at(self, place: int) -> bytes:
        self._file.seek(place)
        return self._file.readline()


def _head(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _tar_name(number: int) -> str:
    return f"{number:05d}.tar"


def _has_own_file(row: LedgerRow) -> bool:
    """Whether a row's image is a file of the folder; a ledger must not name files elsewhere."""
    name, ending = os.path.splitext(row.file)
    return row.status == OK and name == stem_of(row.url) and ending in NAMED


def _next_number(folder: Path) -> int:
    return max((int(name[: -len(".tar")]) for name in _tars_in(folder)), default=-1) + 1


def _tars_in(folder: Path) -> list[str]:
    """The names of the tars in a folder of this machine or in object storage."""
    remote = isinstance(folder, RemotePath)
    names = (path.name for path in folder.iterdir()) if remote else names_in(folder)
    return list(filter(TAR.fullmatch, names))


def _write_tar(path: Path, folder: Path, images: Iterable[tuple[UrlRow, LedgerRow]]) -> None:
    written = io.BytesIO()
    with atomic_path(path) as temporary, open(temporary, "wb") as tar:
        for found, row in images:
            stem, own = stem_of(row.url), os.path.join(folder, row.file)
            with open(own, "rb") as image:
                data = image.read()
            about = {"caption": found.caption, "source": found.source, **asdict(row)}
            about["file"] = f"{path.name}/{row.file}"
            _add(tar, row.file, data)
            _add(tar, f"{stem}.txt", (found.caption or found.prompt).encode())
            _add(tar, f"{stem}.json", json.dumps(about).encode())
            written.write(row.file.encode() + b"\n")
        tar.write(bytes(2 * BLOCK))
        tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
    written.seek(0)
    with writing(folder):
        for line in written:
            _remove(folder, line.decode().rstrip())


def _add(tar: BinaryIO, name: str, data: bytes) -> None:
    """Add a file; `tarfile.TarFile` would keep an object for each until the tar is closed."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.write(member.tobuf(tarfile.USTAR_FORMAT))
    tar.write(data)
    tar.write(bytes(-len(data) % BLOCK))


def _remove(folder: Path, name: str) -> None:
    # Some versions of Python 3.12 keep the names of every `Path`.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, name))
