"""Rows in columns are the rows that were given, and take little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow
import pytest

from clipdistill.core.errors import FormatError
from clipdistill.formats.rows import Row, Rows

ROWS = [
    Row("a.jpg", "0123456789abcdef" * 2, 10, 99),
    Row("b/ü.jpg", "", 0, 0),
    Row("c.jpg", "f" * 32, 1 << 40, -5),
]
OTHERS = [[Row("d", "not a digest", 1, 2)], [Row("e", "0" * 32, 1, 2)], [Row("f", "A" * 32, 3, 4)]]


@pytest.mark.parametrize("rows", [ROWS, *OTHERS, []])
def test_rows_come_back(rows):
    found = Rows.of(iter(rows))
    assert found == rows
    assert list(found[:2]) == rows[:2]
    assert [found[index] for index in range(len(rows))] == rows
    assert Rows.joined([found, Rows.of(ROWS), found]) == [*rows, *ROWS, *rows]


def test_rows_of_a_table_of_other_types():
    table = pyarrow.table(
        {
            "image_path": pyarrow.array([1, None, 3]),
            "content": pyarrow.array(["x", None, "y"]).dictionary_encode(),
            "size": pyarrow.array([1.5, float("nan"), 1e30]),
            "mtime_ns": pyarrow.array([1, None, (1 << 64) - 1], pyarrow.uint64()),
        }
    )
    expected = [Row("1", "x", 1, 1), Row("", "", 0, 0), Row("3", "y", 0, 0)]
    assert Rows.read(table) == expected
    assert Rows.read(table[1:]) == expected[1:]
    assert Rows.read(table[:0]) == []


def test_a_part_of_a_table_is_read_as_such():
    table = pyarrow.table(
        {name: [getattr(row, name) for row in ROWS] for name in Row.__dataclass_fields__}
    )
    assert Rows.read(table) == ROWS
    assert Rows.read(table[1:2]) == ROWS[1:2]
    assert Rows.read(pyarrow.concat_tables([table[1:], table])) == [*ROWS[1:], *ROWS]


def test_a_column_of_lists_is_refused():
    columns = {"image_path": [["a"]], "content": ["x"], "size": [1], "mtime_ns": [1]}
    with pytest.raises(FormatError, match="expected texts in the column image_path"):
        Rows.read(pyarrow.table(columns))


def test_a_row_takes_little_beside_its_key():
    number = 50_000
    table = pyarrow.table(
        {
            "image_path": [f"folder/{index:08d}.jpg" for index in range(number)],
            "content": [f"{index:032x}" for index in range(1, number + 1)],
            "size": np.arange(number),
            "mtime_ns": np.arange(number) << 30,
        }
    )
    tracemalloc.start()
    try:
        rows = Rows.read(table)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(rows) == number
    assert held / number - 19 < 36
