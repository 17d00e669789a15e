"""Memory per image of the tables that grow with the number of images.

Each case runs in its own process on synthetic tables of 10^4 and 10^5 images: a listing, the rows
of embeddings, embed's plan when nothing is new, the pairing of `distill`, and the names that
`select` and `serve` look up in a pool.  Vectors (4 dimensions) are not what is measured.

    python benchmarks/growth.py [--images 10000 100000] [--root SRC]

`--root` measures another version of the sources, such as the one before a change.  Printed for each
case: seconds, the most and the last bytes that Python and numpy held (tracemalloc), and the growth
per image between the two sizes.  Keys have 30 characters ("folder/00/…"), which are included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = ("listing", "load", "resume", "pair", "pool")

CHILD = r"""
import gc, json, sys, time, tracemalloc
from pathlib import Path
import numpy as np
import pyarrow.parquet
case, count, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
from clipdistill.core.zeroshot import LogitScale
from clipdistill.distillation import distill, embed
from clipdistill.collect.pool import open_pool
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats import embeddings as stored
from clipdistill.images import sources
from clipdistill.images.preprocess import Preprocess

teacher = TeacherCard("ViT-X", "tag", "a" * 32, 4, LogitScale(50.0, -2.0), Preprocess(32))
header = stored.Header(teacher, "clip-retrieval", "float16", True)
key = lambda i: f"folder/{i // 1000:08d}/{i:010d}.jpg"


def found():
    numbers = range(count)
    items = (sources.ImageItem(key(i), root / key(i), 1000 + i, (1 << 60) + i) for i in numbers)
    return sources.Listing.of(root, items) if hasattr(sources, "Listing") else list(items)


if not (root / "meta.json").exists():
    store = stored.EmbeddingStore(root, header)
    for start in range(0, count, 10_000):
        rows = [stored.Row(key(i), f"{i + 1:032x}", 1000 + i, (1 << 60) + i)
                for i in range(start, min(count, start + 10_000))]
        store.append(rows, np.ones((len(rows), 4)))
    store.finish([])
    sys.exit()
before = found() if case in ("resume", "pair", "pool") else None
loaded = stored.load_embeddings(root) if case == "pair" else None
gc.collect()
tracemalloc.start()
start = time.monotonic()
if case == "listing":
    kept = found()
elif case == "load":
    kept = stored.load_embeddings(root).rows
elif case == "resume":
    store = stored.EmbeddingStore(root, header)
    kept = (store, embed._plan(before, store, False))
elif case == "pair":
    kept = distill._pair(before, loaded)
else:
    pool = open_pool(root)
    keys = before.keys if hasattr(before, "keys") else [item.key for item in before]
    kept = (pool, pool.find(keys) if hasattr(pool, "find") else pool.rows_of(keys))
seconds = time.monotonic() - start
gc.collect()
held, most = tracemalloc.get_traced_memory()
print(json.dumps({"seconds": seconds, "held": held, "most": most}))
"""


def measure(case: str, count: int, folder: Path, source: Path) -> dict[str, float]:
    """Run one case in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", CHILD, case, str(count), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout else {}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=[10_000, 100_000])
    source = Path(__file__).resolve().parents[1] / "src"
    parser.add_argument("--root", type=Path, default=source, help="folder of the sources")
    arguments = parser.parse_args()
    small, large = arguments.images
    print(f"{'case':8}  {'seconds':>8}  {'most/image':>10}  {'kept/image':>10}   ({large} images)")
    with tempfile.TemporaryDirectory() as folder:
        for count in (small, large):
            Path(folder, str(count)).mkdir()
            measure("make", count, Path(folder, str(count)), arguments.root)
        for case in CASES:
            one, other = (
                measure(case, count, Path(folder, str(count)), arguments.root)
                for count in (small, large)
            )
            slope = {name: (other[name] - one[name]) / (large - small) for name in ("most", "held")}
            print(
                f"{case:8}  {other['seconds']:8.2f}  {slope['most']:10.0f}  {slope['held']:10.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
