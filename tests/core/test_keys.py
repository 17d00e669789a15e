"""A map from digests to numbers behaves like a dictionary."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.core import keys
from clipdistill.core.keys import Keys

SPREAD = st.integers(0, 500).map(lambda n: hashlib.sha256(b"%d" % n).digest())
ALIKE = st.integers(0, 40).map(lambda n: bytes(8) + n.to_bytes(4, "big"))


@given(st.lists(st.tuples(SPREAD | ALIKE, st.integers(-5, 2**40)), max_size=300))
def test_it_is_a_dictionary(entries) -> None:
    before, keys.BUCKET = keys.BUCKET, 4
    try:
        made = Keys(np.int64)
        for key, value in entries:
            made[key] = value
    finally:
        keys.BUCKET = before
    expected = dict(entries)
    assert len(made) == len(expected)
    assert {key: made.get(key) for key in expected} == expected
    other = hashlib.sha256(b"other").digest()
    assert (other in made, made.get(other, -7)) == (False, -7)
