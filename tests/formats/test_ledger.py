"""The ledger: a journal that survives anything, merged into an index."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipdistill import FormatError
from clipdistill.formats.ledger import INDEX, JOURNAL, Ledger, LedgerRow, read_ledger, stem_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.builds(
    LedgerRow,
    url=TEXT,
    file=TEXT,
    status=st.sampled_from(["ok", "failed", "refused"]),
    reason=TEXT,
    http_status=st.integers(0, 599),
    bytes=st.integers(0, 2**40),
    prompt=TEXT,
)


def newest(rows: list[LedgerRow]) -> set[LedgerRow]:
    return set({row.url: row for row in rows}.values())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(ROWS, max_size=6), min_size=1, max_size=4), st.integers(0, 400))
def test_the_last_row_of_a_url_counts_whatever_was_merged_or_cut(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[LedgerRow]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    written: list[LedgerRow] = []
    for number, rows in enumerate(runs):
        ledger = Ledger(folder)
        ledger.add(rows)
        written += rows
        if number % 2:
            ledger.finish()
        else:
            ledger.close()
        assert set(read_ledger(folder)) == newest(written)
    # A kill in the middle of a write leaves a torn line, which is as if it had not been written.
    with open(folder / JOURNAL, "ab") as handle:
        handle.write(b'{"url": "torn", "file": "' + b"x" * cut)
    assert set(read_ledger(folder)) == newest(written)
    ledger = Ledger(folder)
    ledger.add([LedgerRow("after")])
    ledger.finish()
    assert set(read_ledger(folder)) == newest([*written, LedgerRow("after")])
    assert not (folder / JOURNAL).exists()


def test_the_index_is_sorted_by_file_name_and_the_same_for_any_order(tmp_path: Path) -> None:
    rows = [LedgerRow(f"http://a/{n}") for n in range(40)]
    contents = []
    for order in (rows, rows[::-1]):
        folder = tmp_path / str(len(contents))
        folder.mkdir()
        ledger = Ledger(folder)
        ledger.add(order)
        ledger.finish()
        contents.append((folder / INDEX).read_bytes())
    assert contents[0] == contents[1]
    stems = [stem_of(row.url) for row in read_ledger(tmp_path / "0")]
    assert stems == sorted(stems)


def test_a_duplicate_names_the_file_that_has_its_bytes_now(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(
        [
            LedgerRow("a", file="a.jpg", status="ok", sha256="5"),
            LedgerRow("b", file="a.jpg", status="duplicate", sha256="5"),
            LedgerRow("c", file="c.jpg", status="ok", sha256="5"),
            LedgerRow("a", file="c.jpg", status="duplicate", sha256="5"),
        ]
    )
    ledger.close()
    assert {row.file for row in read_ledger(tmp_path)} == {"c.jpg"}


@pytest.mark.parametrize(
    ("reason", "status", "passing"),
    [
        ("timeout: x", 0, True),
        ("connection: x", 0, True),
        ("http: 503", 503, True),
        ("http: 429", 429, True),
        ("http: 404", 404, False),
        ("picture: x", 200, False),
        ("url: x", 0, False),
        ("size: x", 200, False),
        ("dns: x", 0, True),
    ],
)
def test_which_failures_pass(reason: str, status: int, passing: bool) -> None:
    assert LedgerRow("a", reason=reason, http_status=status).transient == passing
    assert not LedgerRow("a", status="refused", reason=reason, http_status=status).transient


@pytest.mark.parametrize(
    ("name", "data"),
    [(JOURNAL, b"not json\n"), (JOURNAL, b"[1]\n"), (JOURNAL, b"{}\n"), (INDEX, b"PAR1 no")],
)
def test_a_damaged_ledger_says_so(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=name):
        read_ledger(tmp_path)
