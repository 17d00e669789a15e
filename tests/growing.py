"""How the memory of a piece of code grows with its rows, measured in processes of their own.

Counted is what Python and numpy (tracemalloc) and Arrow allocate; mapped files are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHILD = """
import contextlib, gc, json, sys, tracemalloc
from pathlib import Path
import pyarrow
import pyarrow.parquet
with contextlib.suppress(ImportError):
    import pandas  # which pyarrow imports when it is there, at a moment of its own
from clipdistill.core import progress
progress.install(progress.Silent())  # what is shown after two seconds would look like growth
root, count = Path(sys.argv[1]), int(sys.argv[2])
{before}
spare = [(0,) * size for size in range(2, 20) for _ in range(2000)]
gc.collect()
del spare  # Python keeps so many freed tuples of each size, which would look like growth
tracemalloc.start()
started = pyarrow.total_allocated_bytes()
{code}
gc.collect()
held, most = tracemalloc.get_traced_memory()
pool = pyarrow.default_memory_pool()
print(json.dumps([held + pool.bytes_allocated() - started, most + pool.max_memory() - started]))
"""


@dataclass(frozen=True)
class Slope:
    """Bytes per row: held at the end, and at most."""

    held: float
    most: float


def slope(before: str, code: str, sizes: dict[int, Path]) -> Slope:
    """Run `code` at two sizes, each with its folder, and compare.

    Args:
        before: statements that are not measured, such as imports; `root` and `count` are defined.
        code: statements to measure; what they bind is held.
        sizes: number of rows -> the folder `root`.
    """
    found = {count: _measured(before, code, root, count) for count, root in sizes.items()}
    small, large = sorted(found)
    held, most = (
        (after - first) / (large - small)
        for first, after in zip(found[small], found[large], strict=True)
    )
    return Slope(held, most)


def _measured(before: str, code: str, root: Path, count: int) -> tuple[float, float]:
    script = CHILD.replace("{before}", before).replace("{code}", code)
    command = [sys.executable, "-c", script, str(root), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    held, most = json.loads(done.stdout)
    return held, most
