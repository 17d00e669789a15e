"""Finding images by their content among the rows that are stored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.distillation.embed_resume import _by_content
from clipdistill.formats.rows import NO_CONTENT, Row, Rows

SAME_HEAD = [b"12345678" + bytes([end]) * 8 for end in range(3)]
CONTENTS = st.sampled_from([NO_CONTENT, b"another one, so.", *SAME_HEAD])


@settings(max_examples=60, deadline=None)
@given(st.lists(CONTENTS, min_size=1, max_size=8), st.lists(CONTENTS, max_size=8), st.data())
def test_the_last_row_of_a_content_is_found_also_where_eight_bytes_agree(wanted, stored, data):
    cut = data.draw(st.integers(0, len(stored)))
    own = [data.draw(st.integers(-1, len(stored) - 1)) for _ in wanted]
    names = ["" if one == NO_CONTENT else one.hex() for one in stored]
    rows = [Row(f"{number}.jpg", name, 1, 1) for number, name in enumerate(names)]
    parts = [(0, Rows.of(rows[:cut])), (cut, Rows.of(rows[cut:]))]
    store = SimpleNamespace(
        header=SimpleNamespace(layout="clip-retrieval"), rows=lambda: iter(parts)
    )
    packed = np.frombuffer(b"".join(wanted), np.uint8).reshape(-1, 16)
    same, sources = _by_content(packed, np.array(own), store)
    for place, content in enumerate(wanted):
        known = content != NO_CONTENT
        assert same[place] == (known and own[place] >= 0 and stored[own[place]] == content)
        last = max((n for n, one in enumerate(stored) if one == content), default=-1)
        assert sources[place] == (last if known else -1)
