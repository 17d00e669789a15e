"""Memory per image of the tables that grow with the number of images.

The cases run on synthetic tables of 10^4 and 10^5 images, a process for each size: a listing, the
rows of embeddings, embed's plan when nothing is new, the pairing of `distill`, and the names that
`select` and `serve` look up in a pool.  Vectors (4 dimensions) are not what is measured.

    python benchmarks/growth.py [--images 10000 100000] [--root SRC]

`--root` measures another version of the sources, such as the one before a change.  Printed for each
case: seconds of the processor, the most and the last bytes that Python and numpy held
(tracemalloc), and the growth per image between the two sizes.  Keys have 30 characters, which are
included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = r"""
import gc, json, sys, time, tracemalloc
from pathlib import Path
import numpy as np
import pyarrow.parquet
count, root = int(sys.argv[1]), Path(sys.argv[2])
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


store = stored.EmbeddingStore(root, header)
for start in range(0, count, 4096):
    rows = [stored.Row(key(i), f"{i + 1:032x}", 1000 + i, (1 << 60) + i)
            for i in range(start, min(count, start + 4096))]
    store.append(rows, np.ones((len(rows), 4)))
store.finish([])
def listing():
    return found()


def load():
    return stored.load_embeddings(root).rows


def resume():
    store = stored.EmbeddingStore(root, header)
    return store, embed._plan(before, store, False)


def pair():
    return distill._pair(before, loaded)


def pool():
    opened = open_pool(root)
    keys = before.keys if hasattr(before, "keys") else [item.key for item in before]
    return opened, opened.find(keys) if hasattr(opened, "find") else opened.rows_of(keys)


before, loaded = found(), stored.load_embeddings(root)
measured = {}
for case in (listing, load, resume, pair, pool):
    gc.collect()
    tracemalloc.start()
    start = time.process_time()
    kept = case()
    seconds = time.process_time() - start
    gc.collect()
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    measured[case.__name__] = {"seconds": seconds, "held": held, "most": most}
    del kept
print(json.dumps(measured))
"""


def measure(count: int, source: Path) -> dict[str, dict[str, float]]:
    """Run the cases on tables of `count` images, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CHILD, str(count), folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=[10_000, 100_000])
    source = Path(__file__).resolve().parents[1] / "src"
    parser.add_argument("--root", type=Path, default=source, help="folder of the sources")
    arguments = parser.parse_args()
    small, large = arguments.images
    one, other = (measure(count, arguments.root) for count in (small, large))
    print(f"{'case':8}  {'seconds':>8}  {'most/image':>10}  {'kept/image':>10}   ({large} images)")
    for case, found in other.items():
        most, held = ((found[n] - one[case][n]) / (large - small) for n in ("most", "held"))
        print(f"{case:8}  {found['seconds']:8.2f}  {most:10.0f}  {held:10.0f}")


if __name__ == "__main__":
    main()
