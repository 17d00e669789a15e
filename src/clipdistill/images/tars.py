"""The members of a WebDataset tar, listed so that a damaged one costs no other.

`tarfile` ends its list without a word at the first damaged header, and follows sizes below 0.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
MAGIC, MAGIC_AT = b"ustar", 257
"""What headers have, and where; only tars older than POSIX's of 1988 do not."""
LONG_NAME, LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
MAX_EXTRA = 1 << 20
"""Most bytes of an extra header, which holds the name of the next member."""
STEP = 1 << 20
"""Bytes that are searched at once for the next header after a damaged one."""


@dataclass(frozen=True)
class TarMember:
    """One regular file of a tar, or a damaged part of the tar.

    Attributes:
        name: as the tar has it; empty for a damaged part.
        offset: position of its first byte.
        size: bytes, as its header claims; 0 where there is a problem.
        problem: why it cannot be read; usually empty.
    """

    name: str
    offset: int = 0
    size: int = 0
    problem: str = ""


def tar_members(file: BinaryIO, end: int) -> Iterator[TarMember]:
    """List the regular files of an uncompressed tar, without reading them.

    After a damaged header the list continues with the next one that is whole.

    Args:
        file: the tar, opened for reading.
        end: its size in bytes.

    Raises:
        tarfile.TarError: it does not begin as a tar.
    """
    position = 0
    about: dict[str, str] = {}  # the next member, from extra headers
    while position < end or not end:
        try:
            header = _header(file, position)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            if not end:
                raise
            return
        except tarfile.HeaderError as error:
            if not position:
                raise
            yield TarMember("", problem=f"damaged at byte {position} ({error})")
            position, about = _next_header(file, position + BLOCK), {}
            continue
        data = position + BLOCK
        size = _number(about.get("size"), header.size)
        name = about.get("path") or header.name
        extra = header.type in (LONG_NAME, LONG_LINK, *PAX)
        if size < 0 or (extra and size > MAX_EXTRA):
            problem = f"its header in the tar claims {size} bytes"
            yield TarMember("" if extra else name, problem=problem)
            position, about = _next_header(file, data), {}
            continue
        filled = extra or header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        position = data + (-(-size // BLOCK) * BLOCK if filled else 0)
        if extra:
            about |= _extra(header, file.read(size))
            continue
        if header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in about
        ):
            yield TarMember(name, problem="stored in the tar as a sparse file")
            position = _next_header(file, data)
        elif header.isreg():
            yield TarMember(name, data, size)
        if position > end:
            yield TarMember("", problem=f"it ends within {name}")
            position = _next_header(file, data)
        about = {}


def _header(file: BinaryIO, position: int) -> tarfile.TarInfo:
    """Read one header and check its sum."""
    file.seek(position)
    return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")


def _extra(header: tarfile.TarInfo, content: bytes) -> dict[str, str]:
    """What an extra header says of the next member: "path", "size" and others."""
    if header.type == LONG_NAME:
        return {"path": content.rstrip(b"\0").decode(errors="surrogateescape")}
    found: dict[str, str] = {}
    position = 0
    while header.type in PAX and position < len(content):
        length, _, _ = content[position : position + 20].partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        record = content[position + len(length) + 1 : position + int(length)]
        key, _, value = record.rstrip(b"\n").decode(errors="surrogateescape").partition("=")
        found[key] = value
        position += int(length)
    return found


def _number(text: str | None, otherwise: int) -> int:
    try:
        return otherwise if text is None else int(text)
    except ValueError:
        return otherwise


def _next_header(file: BinaryIO, position: int) -> int:
    """The position of the next whole header at or after `position`; the end when there is none."""
    while True:
        file.seek(position)
        blocks = file.read(STEP)
        found = blocks.find(MAGIC)
        while found >= 0:
            start = found - MAGIC_AT
            if start >= 0 and start % BLOCK == 0 and _whole(blocks[start : start + BLOCK]):
                return position + start
            found = blocks.find(MAGIC, found + 1)
        position += len(blocks)
        if len(blocks) < STEP:
            return position


def _whole(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
