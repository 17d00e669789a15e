"""Exact search over a pool on disk, side by side with what the same arithmetic costs in memory.

Ours reads a memory-mapped float16 pool, turns it to float32 and keeps the best; the limit is one
pass of numpy's float32 matrix products over the same data that lies in memory as float32 already,
and keeps nothing.  A second pool, larger than the memory that the process may have, shows that a
search needs memory for its chunks only.

    python benchmarks/exact_search.py --rows 1000000 --dim 512 --queries 20 -k 100 --big-gb 10
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.lib.format import open_memmap
from reporting import interleaved, ratios, write_report

from clipdistill.collect.pool import open_pool
from clipdistill.core.zeroshot import normalized

OURS = "ours: float16 on disk, mapped"
LIMIT = "limit: float32 in memory, products only"
NAIVE = "naive: np.load, products, argsort"
SHARD = 100_000
REST = 0.3
"""Seconds before each candidate."""
BLOCKS = (8192, 65536, 1 << 30)
"""Rows of a product for the limit; the fastest is the one that counts."""

CHILD = """
import json, resource, sys, threading, time
import numpy as np
import clipdistill.collect.pool
from clipdistill.collect.pool import open_pool
import pyarrow.parquet

root, queries, k, room = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

if room:  # everything that is private and writable; mapped files are not
    limit = status("VmData") + room
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
before, most, done = status("RssAnon"), [0], threading.Event()

def watch():
    while not done.wait(0.01):
        most[0] = max(most[0], status("RssAnon") - before)

watcher = threading.Thread(target=watch)
watcher.start()
pool = open_pool(root)
start = time.perf_counter()
found = pool.search(np.load(queries), k)
seconds = time.perf_counter() - start
done.set()
watcher.join()
print(json.dumps({"seconds": seconds, "anonymous": most[0], "best": found.rows[:, 0].tolist()}))
"""


def main() -> None:
    """Make the pool, measure, report."""
    arguments = parse()
    folder = Path(tempfile.mkdtemp(prefix="exact-search-", dir=arguments.folder))
    try:
        write_report("exact-search", *measure(arguments, folder))
    finally:
        shutil.rmtree(folder)


def measure(arguments: argparse.Namespace, folder: Path) -> tuple:
    """Everything for `write_report`."""
    rows, dim, k = arguments.rows, arguments.dim, arguments.k
    queries = normalized(np.random.default_rng(1).standard_normal((arguments.queries, dim)))
    np.save(folder / "queries.npy", queries)
    memory = make_pool(folder / "pool", rows, dim)
    pool = open_pool(folder / "pool")
    check_same(pool.search(queries, k), memory, queries)
    block, products = fastest_limit(memory, queries)
    opened = f"{OURS}, opened for this search"
    candidates = {
        LIMIT: rested(products),
        OURS: rested(lambda: pool.search(queries, k)),
        opened: rested(lambda: open_pool(folder / "pool").search(queries, k)),
    }
    if arguments.naive:
        candidates[NAIVE] = rested(lambda: naive(folder / "pool", queries, k))
    times = interleaved(candidates, arguments.repeats)
    table = [row(name, seconds, times, rows) for name, seconds in times.items()]
    child = in_child(folder / "pool", folder, k, 0)
    table[1][-1] = table[2][-1] = f"{child['anonymous'] / 1e6:.0f} MB"
    del memory
    if arguments.big_gb:
        table.append(big_row(arguments, folder, queries))
    size = f"{rows:,} x {dim} float16 ({rows * dim * 2 / 1e9:.2f} GB)"
    lines = [
        f"{size}, {arguments.queries} queries at once, the best {k} of each; medians of "
        f"{arguments.repeats} interleaved rounds, each after a pause. The limit multiplies "
        f"{min(block, rows):,} rows at a time, the fastest of what was tried. The pool is in the "
        "page cache; memory is what is not a mapped file, above what Python, numpy and pyarrow "
        "take before the search, measured in a process of its own.",
    ]
    columns = ["search", "seconds", "us a row", "of the limit's time", "memory for it"]
    return "Exact search", lines, columns, table


def row(name: str, seconds: list[float], times: dict[str, list[float]], rows: int) -> list[str]:
    """One line of the table."""
    median = statistics.median(seconds)
    share = 1 / ratios(times, name, LIMIT)
    return [name, f"{median:.3f}", f"{1e6 * median / rows:.2f}", f"{share:.2f}x", ""]


def make_pool(root: Path, rows: int, dim: int) -> np.ndarray:
    """Write random unit vectors as float16, in shards; returns what is stored as float32."""
    memory = np.empty((rows, dim), np.float32)
    start_folder(root)
    random = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - start)
        halves = normalized(random.standard_normal((count, dim), dtype=np.float32)).astype("f2")
        np.save(root / f"img_emb/img_emb_{number}.npy", halves)
        write_names(root, number, start, count)
        memory[start : start + count] = halves
    return memory


def start_folder(root: Path) -> None:
    """The folders of clip-retrieval's layout."""
    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()


def write_names(root: Path, number: int, start: int, count: int) -> None:
    """A shard's metadata."""
    table = pyarrow.table({"image_path": [f"{start + n:09d}.jpg" for n in range(count)]})
    pyarrow.parquet.write_table(table, root / f"metadata/metadata_{number}.parquet")


def fastest_limit(memory: np.ndarray, queries: np.ndarray) -> tuple[int, Callable[[], None]]:
    """The limit, with the block size that is fastest here."""
    tried = {}
    for block in BLOCKS:

        def products(block: int = block) -> None:
            for start in range(0, len(memory), block):
                queries @ memory[start : start + block].T

        products()
        start = time.perf_counter()
        products()
        tried[block] = time.perf_counter() - start, products
    block = min(tried, key=lambda block: tried[block][0])
    return block, tried[block][1]


def rested(run: Callable[[], object]) -> Callable[[], float]:
    """The candidate's own time, after a pause: OpenBLAS' threads spin for a while after a product,
    and would take a core from whoever comes next.
    """

    def timed() -> float:
        time.sleep(REST)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return timed


def check_same(found, memory: np.ndarray, queries: np.ndarray) -> None:
    """Ours is exact: the first query's rows are those of brute force (or equal to 1e-6)."""
    scores = memory @ queries[0] / np.linalg.norm(memory, axis=1)
    expected = np.sort(scores)[::-1][: found.scores.shape[1]]
    assert np.allclose(found.scores[0], expected, atol=1e-6)
    assert np.allclose(scores[found.rows[0]], expected, atol=1e-6)


def naive(root: Path, queries: np.ndarray, k: int) -> None:
    """What one would write first."""
    shards = [np.load(path) for path in sorted((root / "img_emb").glob("*.npy"))]
    scores = queries @ np.concatenate(shards).astype(np.float32).T
    np.argsort(-scores, axis=1)[:, :k]


def in_child(root: Path, folder: Path, k: int, room: int) -> dict:
    """One search in a process of its own, which may take `room` bytes more (0: any)."""
    words = [str(root), str(folder / "queries.npy"), str(k), str(room)]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the search failed: {done.stderr}")
    return json.loads(done.stdout)


def big_row(arguments: argparse.Namespace, folder: Path, queries: np.ndarray) -> list[str]:
    """A pool larger than the memory that may be used; one best row a query is known."""
    dim, room = arguments.dim, arguments.room_mb << 20
    rows = int(arguments.big_gb * 1e9 / (2 * dim))
    if shutil.disk_usage(folder).free < 2 * rows * dim * 1.2:
        return [f"ours, {arguments.big_gb:g} GB", "not run: the disk is too full", "", "", ""]
    root, planted = folder / "big", {}
    start_folder(root)
    pattern = normalized(np.random.default_rng(2).standard_normal((50_000, dim))).astype("f2")
    count = len(pattern)
    for number, start in enumerate(range(0, rows, count)):
        part = open_memmap(
            root / f"img_emb/img_emb_{number}.npy",
            "w+",
            np.float16,
            (min(count, rows - start), dim),
        )
        part[:] = pattern[: len(part)]
        query = number % len(queries)
        part[number % len(part)] = queries[query]
        planted.setdefault(query, start + number % len(part))
        part.flush()
        write_names(root, number, start, len(part))
    child = in_child(root, folder, arguments.k, room)
    for query, best in enumerate(child["best"]):
        assert query not in planted or best == planted[query], "a planted row was not found"
    name = f"{OURS}, {2 * rows * dim / 1e9:.1f} GB, under a limit of {arguments.room_mb} MB more"
    memory = f"{child['anonymous'] / 1e6:.0f} MB"
    per_row = f"{1e6 * child['seconds'] / rows:.2f}"
    return [name, f"{child['seconds']:.1f}", per_row, "", memory]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--naive", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--big-gb", type=float, default=0.0)
    parser.add_argument("--room-mb", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=None, help="where the pools are made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
