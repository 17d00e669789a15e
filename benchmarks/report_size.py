"""Reports: bytes and seconds of a run's HTML page and model card.

python benchmarks/report_size.py runs/quickstart
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from reporting import write_report

from clipdistill.show.pages.gather import gather
from clipdistill.show.report import report

LIMIT = 3_000_000
"""Bytes that a page of 20 classes may have."""


def main() -> None:
    """Write both forms of each run's report, and the dated table."""
    parser = argparse.ArgumentParser(description="size of reports")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for run in parser.parse_args().runs:
            found = gather(run)
            asked = 0 if found.predictions is None else len(found.predictions.pictures)
            for form in ("html", "markdown"):
                start = time.perf_counter()
                result = report(run, out=Path(folder, "out"), format=form)
                seconds = time.perf_counter() - start
                row = (
                    run.name,
                    form,
                    len(found.labels),
                    f"{asked:,}",
                    f"{result.size_bytes / 1e6:.2f}",
                    f"{seconds:.1f}",
                )
                rows.append([str(cell) for cell in row])
    write_report(
        "report-size",
        "Size of reports",
        [
            f"Bound: {LIMIT / 1e6:.0f} MB for 20 classes. Pictures are bounded in number and size, "
            "so a page grows with its tables only. The first row's seconds include imports."
        ],
        ("run", "form", "classes", "pictures asked about", "MB", "seconds"),
        rows,
    )


if __name__ == "__main__":
    main()
