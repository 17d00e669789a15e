"""pool merge: folders of embeddings -> one pool, by a manifest, without copying."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError, MismatchError, OptionError, OutputError
from ..core.files import read_json, write_json
from ..core.locks import locked
from ..core.progress import track
from ..core.results import Result, Table
from ..core.texts import Texts
from ..core.wording import many
from ..formats.embeddings import (
    FORMAT,
    META,
    Header,
    Shard,
    open_parquet,
    own_shards,
    read_header,
    read_shard_rows,
    shard_files,
)
from ..formats.merged import ENTRY, VERSION, MergedFolder, digest_of, read_merged
from .pool import open_pool

Hashes = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class PoolMergeResult(Result):
    """What `pool_merge` did.

    Attributes:
        out: the merged pool.
        folders: number of folders that it consists of.
        shards: number of their shards.
        images: images of the pool, each counted once.
        repeated: images that several folders have, with the same content.
        teacher: of all folders.
    """

    out: Path
    folders: int
    shards: int
    images: int
    repeated: int
    teacher: str

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = [
            f"{many(self.images, 'image')} in {many(self.shards, 'shard')} of "
            f"{many(self.folders, 'folder')}; teacher {self.teacher}."
        ]
        if self.repeated:
            lines.append(f"In several folders, counted once: {many(self.repeated, 'image')}.")
        lines.append(f"Pool: {self.out} (the folders stay where they are)")
        return lines


def pool_merge(out: Path, /, *folders: Path, prefix: Sequence[str] = ()) -> PoolMergeResult:
    """Make one pool of several folders of embeddings, without copying them.

    The pool can be used wherever embeddings can: `pool search`, `select`, `serve`, `distill`,
    `adapt`. It names the folders, which have to stay where they are and as they are: when one has
    changed, it is refused until this command is run again.

    Args:
        out: folder for the pool's manifest.
        folders: embeddings, made by `clipdistill embed` with one teacher, published in
            clip-retrieval's layout, or merged before.
        prefix: what to put before the names of a folder's images, such as the place of its images
            below a common folder; once for each folder, in their order, "" for none.

    Raises:
        InputError: there is no such folder, or one is unfinished or empty.
        MismatchError: the folders are of different teachers, layouts, precisions or views, or have
            different images of one name.
        FormatError: a shard is damaged or half-written.
        OutputError: `out` holds embeddings of its own, cannot be written, or another process is
            writing it.
    """
    out = Path(out)
    prefixes = _checked(out, folders, prefix)
    with locked(out, "pool merge"):
        if own_shards(out) or ((out / META).exists() and read_merged(out / META) is None):
            raise OutputError(f"{out} holds embeddings of its own. Choose another output folder.")
        header, unusable = _common_header(folders)
        parts = [
            part
            for folder, before in zip(folders, prefixes, strict=True)
            for part in _parts(out, Path(folder), before)
        ]
        shards = [shard for part in parts for shard in _shards(out, part)]
        images, repeated = _count(shards) if header is not None else (_rows(shards), 0)
        write_json(
            out / META,
            {
                **(header.to_json() if header else {"format": FORMAT, "teacher": None}),
                "version": VERSION,
                "shards": len(shards),
                "rows": _rows(shards),
                "failures": unusable,
                ENTRY: [part.to_json() for part in parts],
            },
        )
    return PoolMergeResult(
        out=out,
        folders=len(parts),
        shards=len(shards),
        images=images,
        repeated=repeated,
        teacher="unknown" if header is None else str(header.teacher),
    )


def _checked(out: Path, folders: Sequence[Path], prefix: Sequence[str]) -> list[str]:
    """Check the arguments; return a prefix for each folder."""
    if not folders:
        raise OptionError(f"Expected folders of embeddings: pool merge {out} FOLDER FOLDER ...")
    if prefix and len(prefix) != len(folders):
        raise OptionError(
            f"--prefix: expected one for each of {many(len(folders), 'folder')}, found "
            f'{len(prefix)}. Give "" for none.'
        )
    places = [os.path.realpath(folder) for folder in folders]
    if os.path.realpath(out) in places:
        raise OptionError(f"{out} is the output and one of the folders. Choose another output.")
    prefixes = [one.strip("/") for one in prefix] or [""] * len(folders)
    for number, pair in enumerate(zip(places, prefixes, strict=True)):
        if pair in list(zip(places, prefixes, strict=True))[:number]:
            raise OptionError(f"{folders[number]} is named twice. Name it once.")
    return prefixes


def _common_header(folders: Sequence[Path]) -> tuple[Header | None, int]:
    """The header that all folders have (None: none has one), and their images without a vector.

    Raises:
        InputError: there is no such folder, or one is unfinished.
        MismatchError: they differ.
    """
    first: Header | None = None
    unusable = 0
    for number, folder in enumerate(map(Path, folders)):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of embeddings.")
        header = read_header(folder)
        if header is not None and not (folder / META).is_file():
            raise InputError(
                f"{folder} is unfinished. Run the same `clipdistill embed` command again, then "
                "merge."
            )
        if header is not None:
            about = read_json(folder / META, "the embeddings' card")
            unusable += int(about.get("failures") or 0)
        if header is not None and header.layout == "npy":
            raise MismatchError(
                f"{folder} has one file per image (layout npy), which cannot be merged. Embed the "
                "images again with --layout clip-retrieval."
            )
        if number == 0:
            first = header
        elif (first is None) != (header is None):
            without, named = (folders[0], folder) if first is None else (folder, folders[0])
            raise MismatchError(
                f"{without} does not name its teacher, but {named} does; whether they belong "
                "together cannot be checked. Merge folders of one kind."
            )
        elif first is not None and header is not None:
            _check_same(first, header, folders[0], folder)
    return first, unusable


def _check_same(one: Header, other: Header, here: Path, there: Path) -> None:
    one.teacher.check_same(other.teacher, here, there)
    for name in ("dtype", "normalized", "views"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise MismatchError(
                f"{here} has embeddings with {name} = {mine}, but {there} with {theirs}. Only "
                "folders that were embedded with the same options can be merged."
            )


def _parts(out: Path, folder: Path, before: str) -> Iterator[MergedFolder]:
    """The folders that one folder of the command stands for: itself, or those it was merged of.

    Raises:
        FormatError: a shard is damaged or half-written.
        InputError: there are no embeddings.
    """
    open_pool(folder)  # checks every shard
    merged = read_merged(folder / META)
    if merged is None:
        yield _described(out, folder, before, own_shards(folder))
        return
    shards = shard_files(folder)
    for known in merged:
        place = Path(os.path.normpath(folder / known.folder))
        mine = [one for one in shards if one.folder == place and one.prefix == known.prefix]
        prefix = "/".join(filter(None, (before, known.prefix)))
        yield _described(out, place, prefix, mine)


def _described(out: Path, folder: Path, prefix: str, shards: Sequence[Shard]) -> MergedFolder:
    place = os.path.relpath(os.path.realpath(folder), os.path.realpath(out))
    found = {one.number: (_row_count(one), digest_of(one.rows)) for one in shards}
    return MergedFolder(Path(place).as_posix(), prefix, found)


def _row_count(shard: Shard) -> int:
    with open_parquet(shard.rows) as file:
        return int(file.metadata.num_rows)


def _shards(out: Path, part: MergedFolder) -> list[Shard]:
    folder = Path(os.path.normpath(out / part.folder))
    return [
        replace(one, count=part.shards[one.number][0], prefix=part.prefix)
        for one in own_shards(folder)
    ]


def _rows(shards: Sequence[Shard]) -> int:
    return sum(shard.count for shard in shards)


def _count(shards: Sequence[Shard]) -> tuple[int, int]:
    """Count the images, and those that several folders have; needs some 40 bytes per row.

    Raises:
        MismatchError: two folders have different images of one name.
    """
    names, contents, owners = _hashed(shards)
    order = np.argsort(names, kind="stable")
    # The last row of an image in each folder is the one that counts.
    following = order[1:]
    last = (names[order[:-1]] != names[following]) | (owners[order[:-1]] != owners[following])
    order = order[np.append(last, True)]
    same = names[order[1:]] == names[order[:-1]]
    differ = np.flatnonzero(same & (contents[order[1:]] != contents[order[:-1]]))
    for place in differ.tolist():
        pair = (int(order[place]), int(order[place + 1]))
        one, other = (_name_at(shards, row) for row in pair)
        if one == other:  # and not only their hashes
            here, there = (_owner(shards, row).folder for row in pair)
            raise MismatchError(
                f"{here} and {there} have different images of the name {one!r}. Give each folder "
                "a --prefix, such as the place of its images below a common folder."
            )
    return len(order) - int(same.sum()), int(same.sum())


def _hashed(shards: Sequence[Shard]) -> tuple[Hashes, Hashes, NDArray[np.int32]]:
    """Hashes of the names and of the contents of all rows, and the number of each one's folder."""
    total = _rows(shards)
    names, contents = np.empty(total, np.int64), np.empty(total, np.int64)
    owners = np.empty(total, np.int32)
    folders: dict[tuple[Path, str], int] = {}
    start = 0
    with track("merge", len(shards), "shards") as step:
        for shard in shards:
            stop = start + shard.count
            owners[start:stop] = folders.setdefault((shard.folder, shard.prefix), len(folders))
            found = _texts(shard)
            for values, column in zip((names, contents), found, strict=True):
                values[start:stop] = np.fromiter(map(hash, column), np.int64, shard.count)
            start = stop
            step()
    return names, contents, owners


def _texts(shard: Shard) -> tuple[Texts, Sequence[str]]:
    rows = read_shard_rows(shard)
    return rows.keys, rows.contents


def _owner(shards: Sequence[Shard], row: int) -> Shard:
    return shards[_place(shards, row)[0]]


def _place(shards: Sequence[Shard], row: int) -> tuple[int, int]:
    """Number of the shard of a row, and the row's place in it."""
    for number, shard in enumerate(shards):
        if row < shard.count:
            return number, row
        row -= shard.count
    raise FormatError(f"row {row} is in no shard")


def _name_at(shards: Sequence[Shard], row: int) -> str:
    number, local = _place(shards, row)
    return _texts(shards[number])[0][local]
