"""Reads LiteRT files without a package: their bytes, table by table.

LiteRT verifies the offsets of a file, but not which operators it has, nor the numbers of tensors
and buffers that its tables name.  So the file is walked here before the runtime gets it: every
offset, length and number within bounds, one graph, and only operators that networks on images have.
The numbers of fields and operators are those of TensorFlow Lite's schema (`schema.fbs`, version 3),
which never change.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import FormatError

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every LiteRT file."""
MAX_ENTRIES = 200_000
"""Most tensors, operators or buffers; a large ViT has 3,000."""
MAX_VALUES = 1 << 29
"""Most values of a tensor (2 GiB of float32)."""
CUSTOM, DELEGATE = 32, 51
OPERATORS = frozenset(
    number
    for first, last in (
        *((0, 6), (8, 9), (11, 12), (14, 14), (17, 23), (25, 26), (28, 28), (34, 34), (36, 43)),
        *((45, 45), (47, 47), (49, 49), (53, 67), (69, 78), (82, 84), (86, 89), (92, 92)),
        *((97, 102), (104, 111), (114, 114), (116, 117), (123, 123), (126, 126), (128, 128)),
        *((130, 130), (150, 150), (152, 152)),
    )
    for number in range(first, last + 1)
)
"""BuiltinOperator: arithmetic, layers, shapes.  Without custom operators, delegates, control flow,
variables, tables, strings and random numbers."""
ITEM_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 9: 8, 17: 4}
"""TensorType -> bits of a value: floats, integers and booleans."""


@dataclass(frozen=True)
class _Table:
    """A table: its place, and that of each of its fields (0: absent)."""

    at: int
    fields: tuple[int, ...]

    def place(self, number: int) -> int:
        """Where a field is in the file; 0 where it is absent."""
        found = self.fields[number] if number < len(self.fields) else 0
        return self.at + found if found else 0


@dataclass(frozen=True)
class _Tensor:
    """A tensor: its type, shape and buffer."""

    kind: int
    shape: tuple[int, ...]
    buffer: int


def check_network(path: Path, data: bytes) -> None:
    """Check a network before a runtime reads it.

    Args:
        path: file, for messages.
        data: bytes of the flatbuffer.

    Raises:
        FormatError: it is damaged, or needs operators that a classifier does not need.
    """
    try:
        _Walk(path, data).model()
    except (struct.error, IndexError, OverflowError) as error:
        raise damaged(path, f"an offset is outside the file: {error}") from error


def damaged(path: Path, reason: str) -> FormatError:
    """The error of a file that cannot be read."""
    return FormatError(
        f"{path}: not a readable LiteRT file: it is truncated or of another kind ({reason}). Copy "
        "it again, or make it again with: clipdistill export --target litert"
    )


class _Walk:
    """One pass over the tables of a file."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def model(self) -> None:
        """Check the file from its root."""
        if self.data[4:8] != IDENTIFIER:
            raise damaged(self.path, "it does not have TFL3 at byte 4")
        model = self._table(self._number("<I", 0))
        codes = [self._operator(at) for at in self._tables(model, 1)]
        sizes = [self._buffer(at) for at in self._tables(model, 4)]
        graphs = self._tables(model, 2)
        if len(graphs) != 1:
            raise damaged(self.path, f"{len(graphs)} graphs, expected 1")
        graph = self._table(graphs[0])
        tensors = [self._tensor(at, sizes) for at in self._tables(graph, 0)]
        for number in (1, 2):
            self._named(graph, number, len(tensors))
        for at in self._tables(graph, 3):
            self._node(at, len(codes), len(tensors))

    def _operator(self, at: int) -> int:
        table = self._table(at)
        old = self._scalar(table, 0, "<b")
        code = max(old, self._scalar(table, 3, "<i"))
        if code == CUSTOM:
            name = self._text(table, 1)
            raise self._refused(f"the custom operator {name!r}")
        if code == DELEGATE or code not in OPERATORS:
            raise self._refused("a delegate" if code == DELEGATE else f"operator {code}")
        return code

    def _refused(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: refused: it asks for {what}, and a classifier needs only arithmetic. "
            "Give a file that `clipdistill export --target litert` made."
        )

    def _buffer(self, at: int) -> int:
        table = self._table(at)
        offset, size = self._scalar(table, 1, "<Q"), self._scalar(table, 2, "<Q")
        if offset > 1:  # behind the tables, as ai-edge-quantizer writes them
            if offset + size > len(self.data):
                raise IndexError(f"{size} bytes at byte {offset}")
            return size
        place = table.place(0)
        return self._vector(place, 1)[1] if place else 0

    def _tensor(self, at: int, sizes: list[int]) -> _Tensor:
        table = self._table(at)
        shape = self._integers(table, 0)
        tensor = _Tensor(self._scalar(table, 1, "<b"), shape, self._scalar(table, 2, "<I"))
        if tensor.kind not in ITEM_BITS or min(shape, default=0) < 0:
            raise damaged(self.path, f"a tensor of type {tensor.kind} and shape {shape}")
        values = math.prod(shape)
        if values > MAX_VALUES or tensor.buffer >= len(sizes):
            raise damaged(self.path, f"a tensor of shape {shape} in buffer {tensor.buffer}")
        size = sizes[tensor.buffer]
        if size and table.place(6) == 0 and size != -(-values * ITEM_BITS[tensor.kind] // 8):
            raise damaged(self.path, f"{size} bytes for a tensor of shape {shape}")
        return tensor

    def _node(self, at: int, codes: int, tensors: int) -> None:
        table = self._table(at)
        if self._scalar(table, 0, "<I") >= codes:
            raise damaged(self.path, "a node without operator")
        for number in (1, 2, 8):
            self._named(table, number, tensors, optional=number != 2)
        for number in (4, 12):
            if table.place(number):
                self._table(self._follow(table.place(number)))

    def _named(self, table: _Table, number: int, tensors: int, *, optional: bool = False) -> None:
        least = -1 if optional else 0
        if any(not least <= one < tensors for one in self._integers(table, number)):
            raise damaged(self.path, "a tensor that does not exist")

    def _number(self, kind: str, at: int) -> int:
        if at < 0:
            raise IndexError(f"byte {at}")
        found: int = struct.unpack_from(kind, self.data, at)[0]
        return found

    def _follow(self, at: int) -> int:
        return at + self._number("<I", at)

    def _table(self, at: int) -> _Table:
        entries = at - self._number("<i", at)
        size, length = self._number("<H", entries), self._number("<H", entries + 2)
        if size < 4 or at + length > len(self.data):
            raise IndexError(f"byte {at}")
        fields = struct.unpack_from(f"<{(size - 4) // 2}H", self.data, entries + 4)
        if any(one >= length for one in fields):
            raise IndexError(f"byte {at}")
        return _Table(at, fields)

    def _scalar(self, table: _Table, number: int, kind: str) -> int:
        place = table.place(number)
        return self._number(kind, place) if place else 0

    def _vector(self, place: int, width: int) -> tuple[int, int]:
        """Where a vector's values begin, and their number."""
        start = self._follow(place)
        count = self._number("<I", start)
        if start + 4 + count * width > len(self.data):
            raise IndexError(f"{count} values at byte {start}")
        return start + 4, count

    def _integers(self, table: _Table, number: int) -> tuple[int, ...]:
        place = table.place(number)
        if not place:
            return ()
        start, count = self._vector(place, 4)
        return struct.unpack_from(f"<{count}i", self.data, start)

    def _tables(self, table: _Table, number: int) -> list[int]:
        place = table.place(number)
        if not place:
            return []
        start, count = self._vector(place, 4)
        if count > MAX_ENTRIES:
            raise damaged(self.path, f"{count:,} entries in a table")
        return [self._follow(start + 4 * index) for index in range(count)]

    def _text(self, table: _Table, number: int) -> str:
        place = table.place(number)
        if not place:
            return ""
        start, count = self._vector(place, 1)
        return self.data[start : start + min(count, 80)].decode(errors="replace")
