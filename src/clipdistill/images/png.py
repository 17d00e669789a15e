"""PNG: the chunks that its pixels need, without the others, which may be damaged or too large."""

from __future__ import annotations

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRANSPARENCY, ORIENTATION, END = b"tRNS", b"eXIf", b"IEND"
FRAME = 12
"""Bytes of a chunk beside its content: length, name, checksum."""


def bare_png(data: bytes) -> bytes | None:
    """Copy a PNG without texts and other chunks that do not change its pixels.

    Kept are the critical chunks, the transparency, and the EXIF if its checksum is right.

    Returns:
        the copy; None when it is no PNG or nothing would be left out.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept = [SIGNATURE]
    position = len(SIGNATURE)
    while position + FRAME <= len(data):
        end = position + FRAME + int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        chunk = data[position:end]
        if name[0] < ord("a") or name == TRANSPARENCY or (name == ORIENTATION and _intact(chunk)):
            kept.append(chunk)
        position = end
        if name == END:
            break
    size = sum(map(len, kept))
    return b"".join(kept) if size < min(position, len(data)) else None


def _intact(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
