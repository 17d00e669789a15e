"""Results as JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.results import Result, Table, from_json, to_json


@dataclass(frozen=True)
class Inner:
    name: str
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    path: Path
    rows: tuple[Inner, ...]
    pair: tuple[str, int]
    table: dict[str, Inner]
    counts: list[list[int]]
    page: Path | None = None


def test_what_is_written_is_what_is_read() -> None:
    value = Outer(
        Path("a/b"),
        (Inner("x"), Inner("y", 0.5)),
        ("z", 3),
        {"k": Inner("w")},
        [[1, 2], []],
        Path("c"),
    )
    assert from_json(Outer, json.loads(json.dumps(to_json(value)))) == value


def test_fields_of_another_version_are_left_out_or_get_their_default() -> None:
    assert from_json(Inner, {"name": "x", "later": 1}) == Inner("x")
    with pytest.raises(ValueError, match="name is missing"):
        from_json(Inner, {"share": 1.0})
    with pytest.raises(ValueError, match="share: expected a number"):
        from_json(Inner, {"name": "x", "share": 10**400})


def test_a_wrong_value_is_named() -> None:
    value = to_json(Outer(Path("a"), (Inner("x"),), ("z", 3), {}, []))
    with pytest.raises(ValueError, match=r"rows\[0\]\.share: expected a number, found 'x'"):
        from_json(Outer, value | {"rows": [{"name": "x", "share": "x"}]})
    with pytest.raises(ValueError, match="pair: expected a list of 2"):
        from_json(Outer, value | {"pair": ["z"]})
    with pytest.raises(ValueError, match=r"counts\[0\]\[1\]: expected a whole number, found True"):
        from_json(Outer, value | {"counts": [[1, True]]})


def test_arrays_and_numbers_of_numpy_become_plain() -> None:
    assert to_json({"a": np.arange(2), "b": np.float32(0.5)}) == {"a": [0, 1], "b": 0.5}


def test_a_result_is_short_in_a_shell_and_a_table_in_a_notebook():
    @dataclass(frozen=True, repr=False)
    class Made(Result):
        out: Path
        images: int
        rate: float
        rows: tuple[str, ...]

        def summary(self) -> list[str | Table]:
            return ["<done>", Table("T", ("name", ">n"), (("<b>", "3"), ("long name", "12")))]

    made = Made(Path("a/b"), 3, 1.23456789, ("x",) * 500)
    assert repr(made) == "Made(out='a/b', images=3, rate=1.235, rows=<500>)"
    html = made._repr_html_()
    assert "&lt;done&gt;" in html
    assert '<td style="text-align:left">&lt;b&gt;</td>' in html
    table = made.summary()[1]
    assert isinstance(table, Table)
    assert table.text() == "T\n  name        n\n  <b>         3\n  long name  12"
