"""Results as JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.results import from_json, to_json


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
    with pytest.raises(TypeError):
        from_json(Inner, {"share": 1.0})


def test_arrays_and_numbers_of_numpy_become_plain() -> None:
    assert to_json({"a": np.arange(2), "b": np.float32(0.5)}) == {"a": [0, 1], "b": 0.5}
