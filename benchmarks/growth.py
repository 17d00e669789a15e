"""Memory per image of the tables that grow with the number of images.

The cases run on synthetic tables of 10^4 and 10^5 images, a process for each size: a listing, the
rows of embeddings, the listing and embed's plan when nothing is new (`resume`), the listing and the
pairing of `distill`, the names that `select` and `serve` look up in a pool, a search of it, the
near-duplicates and the choice of `select`, a web `search` that finds so many URLs and writes their
list, and what `download` remembers of its list and its ledger, half of which is in the index and
half in the journal.

    python benchmarks/growth.py [--images 10000 100000] [--cases CASE ...] [--dim 64] [--root SRC]

`--root` measures another version of the sources, such as the one before a change.  Printed for each
case: seconds of the processor, the most and the last bytes that Python, numpy (tracemalloc) and
Arrow held, and the growth per image between the two sizes.  Keys have 30 characters and URLs 40,
which are included where they are kept in memory; with `--names-in-files`, those of images are not,
whatever their number, as they are from 16 MB on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CHILD = r"""
import gc, inspect, json, sys, time, tracemalloc
from pathlib import Path
import numpy as np
import pyarrow.parquet
count, root, dim = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
in_files, chosen = sys.argv[4] == "files", sys.argv[5:]
from clipdistill.core.zeroshot import LogitScale
from clipdistill.distillation import distill, embed
from clipdistill.collect.choose import choose
from clipdistill.collect.pool import open_pool
from clipdistill.collect.web.download import Download
from clipdistill.collect.web.options import DownloadOptions
from clipdistill.formats.ledger import Ledger, LedgerRow
from clipdistill.formats.urls import UrlRow, save_urls
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats import embeddings as stored
from clipdistill.images import sources
from clipdistill.images.preprocess import Preprocess

if in_files:
    from clipdistill.core import texts
    texts.IN_MEMORY = 1 << 16
teacher = TeacherCard("ViT-X", "tag", "a" * 32, dim, LogitScale(50.0, -2.0), Preprocess(32))
header = stored.Header(teacher, "clip-retrieval", "float16", True)
key = lambda i: f"folder/{i // 1000:08d}/{i:010d}.jpg"


def found():
    numbers = range(count)
    # Paths are texts: Python's table of the parts of each Path would look like growth.
    items = (sources.ImageItem(key(i), f"{root}/{key(i)}", 1000 + i, (1 << 60) + i)
             for i in numbers)
    return sources.Listing.of(root, items) if hasattr(sources, "Listing") else list(items)


def drawn(start, n):
    vectors = np.random.default_rng(start).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


store = stored.EmbeddingStore(root, header)
for start in range(0, count, 4096):
    rows = [stored.Row(key(i), f"{i + 1:032x}", 1000 + i, (1 << 60) + i)
            for i in range(start, min(count, start + 4096))]
    store.append(rows, drawn(start, len(rows)))
store.finish([])
def listing():
    return found()


def load():
    return stored.load_embeddings(root).rows


def resume():
    listed = found()
    store = stored.EmbeddingStore(root, header)
    try:
        from clipdistill.distillation.embed_resume import plan_resume
    except ImportError:
        return listed, store, embed._plan(listed, store, False)
    return listed, store, plan_resume(listed, store, False)


def pool():
    opened = open_pool(root)
    keys = before.keys if hasattr(before, "keys") else [item.key for item in before]
    return opened, opened.find(keys) if hasattr(opened, "find") else opened.rows_of(keys)


def distilling():
    if "root" in inspect.signature(distill._pair).parameters:
        return distill._pair(found(), root)
    return distill._pair(found(), stored.load_embeddings(root))


def searching():
    opened = open_pool(root)
    return opened.search(drawn(7, 20), 10, workers=1)


def selecting():
    opened = open_pool(root)
    labels = (np.arange(count) % 10).astype(np.int64)
    scores = np.linspace(1, 0, count, dtype=np.float32)
    limits = {"num_labels": 10, "min_score": 0.0}
    try:
        from clipdistill.collect.clusters import repeats_in_clusters
    except ImportError:
        return choose(labels, scores, opened.vectors, duplicates=0.95, **limits)
    same = repeats_in_clusters(count, opened.vectors, 0.95)
    return choose(labels, scores, opened.vectors, repeats=same, **limits)


def ledger():
    run = Download(folder / "urls.txt", folder, DownloadOptions(), lambda *_: None)
    run._recall()
    assert not any(True for _ in run._todo())
    return run


def urls():
    from clipdistill.collect import search
    from clipdistill.collect.sources.options import SearchOptions

    def hits(prompt, n):
        for i in range(count):
            url, caption = f"https://example.org/images/{i:09d}.jpg", f"a cat on a mat, seen {i}"
            yield UrlRow(url, prompt, i + 1, 1 - i / count, "pool", caption)

    (root / "prompts.txt").write_text("a cat\n")
    search._open_source = lambda *_: (hits, 1)
    options = SearchOptions(source="pool", pool=root, num_images=count)
    return search.search(root / "prompts.txt", root / "found.txt", options)


def write_ledger():
    urls = [f"https://example.org/images/{n:09d}.jpg" for n in range(count)]
    save_urls(folder / "urls.txt", [UrlRow(url, prompt="a cat") for url in urls])
    for part, finish in ((urls[: count // 2], True), (urls[count // 2 :], False)):
        journal = Ledger(folder)
        journal.add(LedgerRow(url, status="refused", reason="robots: no") for url in part)
        journal.finish() if finish else journal.close()


folder = root / "download"
folder.mkdir()
cases = {
    "listing": listing, "load": load, "resume": resume, "distill": distilling, "pool": pool,
    "search": searching, "select": selecting, "urls": urls, "ledger": ledger,
}
if not chosen or "ledger" in chosen:
    write_ledger()
before = found() if not chosen or "pool" in chosen else None
measured = {}
for name, case in cases.items():
    if chosen and name not in chosen:
        continue
    gc.collect()
    memory = pyarrow.default_memory_pool()
    arrow, most_before = memory.bytes_allocated(), memory.max_memory()
    tracemalloc.start()
    start = time.process_time()
    kept = case()
    seconds = time.process_time() - start
    gc.collect()
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held += memory.bytes_allocated() - arrow
    if memory.max_memory() > most_before:  # at another moment, perhaps: the sum is an upper bound
        most += memory.max_memory() - arrow
    measured[name] = {"seconds": seconds, "held": held, "most": most}
    del kept
print(json.dumps(measured))
"""


def measure(
    count: int, source: Path, dim: int = 64, cases: Sequence[str] = (), *, in_files: bool = False
) -> dict[str, dict[str, float]]:
    """Run the cases on tables of `count` images, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    with tempfile.TemporaryDirectory() as folder:
        where = "files" if in_files else "memory"
        command = [sys.executable, "-c", CHILD, str(count), folder, str(dim), where, *cases]
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
    parser.add_argument("--dim", type=int, default=64, help="dimension of the vectors")
    parser.add_argument("--names-in-files", action="store_true", help="at every size")
    parser.add_argument("--cases", nargs="+", default=[], help="default: all")
    arguments = parser.parse_args()
    small, large = arguments.images
    one, other = (
        measure(
            count,
            arguments.root,
            arguments.dim,
            arguments.cases,
            in_files=arguments.names_in_files,
        )
        for count in (small, large)
    )
    print(f"{'case':8}  {'seconds':>8}  {'most/image':>10}  {'kept/image':>10}   ({large} images)")
    for case, found in other.items():
        most, held = ((found[n] - one[case][n]) / (large - small) for n in ("most", "held"))
        print(f"{case:8}  {found['seconds']:8.2f}  {most:10.0f}  {held:10.0f}")


if __name__ == "__main__":
    main()
