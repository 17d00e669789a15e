"""Memory by the row: what a process keeps of each image, as slopes between two sizes."""

from __future__ import annotations

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import growing
from clipdistill.core.zeroshot import LogitScale
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.formats.ledger import Ledger, LedgerRow, stem_of
from clipdistill.formats.urls import UrlRow, save_urls
from clipdistill.images.preprocess import Preprocess

SIZES = (20_000, 40_000, 60_000)
DIM = 256
"""Half a kilobyte per vector: far more than the bounds, so that loading them would be seen."""


def key(number: int) -> str:
    return f"folder/{number:09d}.jpg"


@pytest.fixture(scope="module")
def every_store(tmp_path_factory):
    """Stores of three sizes, in many shards."""
    card = TeacherCard("ViT-X", "tag", "f" * 32, DIM, LogitScale(), Preprocess(32))
    made = {}
    for count in SIZES:
        root = tmp_path_factory.mktemp(f"store-{count}")
        store = EmbeddingStore(root, Header(card, "clip-retrieval", "float16", False))
        for start in range(0, count, 4096):
            numbers = range(start, min(start + 4096, count))
            rows = [Row(key(n), f"{n + 1:032x}", 1000 + n, (1 << 60) + n) for n in numbers]
            store.append(rows, np.ones((len(rows), DIM), np.float16))
        store.finish([])
        made[count] = root
    return made


@pytest.fixture(scope="module")
def stores(every_store):
    """The two smaller ones."""
    return {count: every_store[count] for count in SIZES[:2]}


NAMES_IN_A_FILE = """
from clipdistill.core import texts
texts.IN_MEMORY = 1 << 16
"""
"""As with millions of images; what is left is what grows in memory."""
LISTED = (
    NAMES_IN_A_FILE
    + """
from clipdistill.images.sources import ImageItem, Listing
names = lambda: ((n, f"folder/{n:09d}.jpg") for n in range(count))
items = lambda: (ImageItem(one, f"{root}/{one}", 1000 + n, (1 << 60) + n) for n, one in names())
"""
)
"""Paths are texts here: Python's table of the parts of each `Path` would look like growth."""
WHOLE = 50
"""Most bytes per image in any process, whatever it does: the names of the images included."""


def test_a_listing_grows_by_few_bytes(stores) -> None:
    found = growing.slope(LISTED, "listing = Listing.of(root, items())", stores)
    assert found.held < 20, found
    assert found.most < WHOLE, found


def test_loading_grows_by_few_bytes(stores) -> None:
    found = growing.slope(
        NAMES_IN_A_FILE + "from clipdistill.formats.embeddings import load_embeddings\n",
        "loaded = load_embeddings(root)",
        stores,
    )
    assert found.held < 36, found
    assert found.most < WHOLE, found


def test_pairing_grows_by_few_bytes_and_keeps_no_vectors(stores) -> None:
    found = growing.slope(
        LISTED + "from clipdistill.distillation.distill import _pair\n",
        "pairs = _pair(Listing.of(root, items()), root)\nbatch = pairs.targets[[0, count - 1]]",
        stores,
    )
    assert found.held < 40, found
    assert found.most < WHOLE, found


def test_resuming_to_embed_grows_by_few_bytes(stores) -> None:
    found = growing.slope(
        LISTED
        + "from clipdistill.distillation.embed_resume import gone_images, plan_resume\n"
        + "from clipdistill.formats.embeddings import EmbeddingStore, read_header\n",
        "listing = Listing.of(root, items())\n"
        "store = EmbeddingStore(root, read_header(root))\n"
        "plan = plan_resume(listing, store, False)\n"
        "assert plan.kept == count and not gone_images(listing, store)",
        stores,
    )
    assert found.held < 20, found
    assert found.most < WHOLE, found


URL = "https://example.org/{:09d}.jpg"


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """Downloads of two sizes, half in the index and half in the journal, and their lists."""
    made = {}
    few = pytest.MonkeyPatch()
    few.setattr("clipdistill.formats.ledger.GROUP_ROWS", 256)
    few.setattr("clipdistill.formats.parquet.WRITTEN_ROWS", 256)
    for count in (1_500, 4_500):
        root = tmp_path_factory.mktemp(f"ledger-{count}")
        save_urls(root / "urls.txt", [UrlRow(URL.format(n), prompt="a cat") for n in range(count)])
        half = count // 2
        for first, last in ((0, half), (half, count)):
            ledger = Ledger(root)
            ledger.add(
                LedgerRow(URL.format(n), status="refused", reason="robots: x", sha256="")
                for n in range(first, last)
            )
            if last == half:
                ledger.finish()
            else:
                ledger.close()
        made[count] = root
    few.undo()
    return made


SMALL_BLOCKS = """
from clipdistill.formats import ledger, parquet, urls
ledger.ROWS_AT_ONCE = urls.BATCH_ROWS = 128
"""
"""The blocks are smaller than the sizes, so that they do not look like growth."""


def test_the_ledger_is_read_and_merged_by_streaming(ledgers) -> None:
    found = growing.slope(
        SMALL_BLOCKS,
        "rows = sum(1 for _ in ledger.iter_ledger(root))",
        ledgers,
    )
    assert found.most < 50, found


def test_a_download_keeps_a_few_bytes_of_each_url(ledgers) -> None:
    found = growing.slope(
        SMALL_BLOCKS + "from clipdistill.collect.web.download import Download\n"
        "from clipdistill.collect.web.options import DownloadOptions\n"
        "one = lambda *_: None\n",
        "run = Download(root / 'urls.txt', root, DownloadOptions(), one)\n"
        "run._recall()\n"
        "assert not list(run._todo())\n"
        "assert run.kept == count",
        ledgers,
    )
    assert found.held < 25, found
    assert found.most < 60, found


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Finished downloads of two sizes, whose images are not in tars yet, and a small one."""
    monkeypatch.setattr("clipdistill.formats.ledger.GROUP_ROWS", 256)
    monkeypatch.setattr("clipdistill.formats.parquet.WRITTEN_ROWS", 256)
    made = {}
    for count in (600, 1_800):
        root = tmp_path / str(count)
        for name, images in (("few", 300), ("all", count)):
            folder = root / name
            folder.mkdir(parents=True)
            urls = [URL.format(n) for n in range(images)]
            save_urls(root / f"{name}.txt", [UrlRow(url, prompt="a cat") for url in urls])
            ledger = Ledger(folder)
            rows = [LedgerRow(url, stem_of(url) + ".jpg", "ok", bytes=9, sha256="") for url in urls]
            ledger.add(rows)
            ledger.finish()
            for row in rows:
                (folder / row.file).write_bytes(b"no images")
        made[count] = root
    return made


PACK = """
from clipdistill.formats import webdataset
parquet.CONVERTED_ROWS = ledger.GROUP_ROWS = 128
assert webdataset.pack(root / "few.txt", root / "few", 100) == 3
"""


@pytest.mark.scale
def test_writing_tars_keeps_next_to_nothing_of_each_image(packed) -> None:
    found = growing.slope(
        SMALL_BLOCKS + PACK,
        "assert webdataset.pack(root / 'all.txt', root / 'all', 100) == count // 100",
        packed,
    )
    assert found.held < 1, found
    assert found.most < 10, found


DOWNLOAD = """
import asyncio, contextlib, functools, io
from PIL import Image
from clipdistill.collect import download
from clipdistill.collect.web import download as web, fetch, frontier, options
from clipdistill.formats import webdataset

class Fetcher:
    async def fetch(self, url):
        await asyncio.sleep(0)
        data = picture + url.encode()
        return fetch.Fetched(http_status=200, received=len(data), _body=io.BytesIO(data))

@contextlib.asynccontextmanager
async def opened(*_):
    yield Fetcher()

image = io.BytesIO()
Image.new("RGB", (32, 32)).save(image, "JPEG")
picture = image.getvalue()
web.open_fetcher = opened
web.Frontier = functools.partial(frontier.Frontier, window=32)
parquet.CONVERTED_ROWS = ledger.GROUP_ROWS = 128
settings = options.DownloadOptions(layout="webdataset", shard_size=100, max_workers=8)
get = lambda name: download.download(root / f"{name}.txt", root / name, settings)
get("few")
"""


@pytest.mark.scale
def test_a_download_into_tars_keeps_a_few_bytes_of_each_image(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("clipdistill.formats.parquet.WRITTEN_ROWS", 128)
    roots = {count: tmp_path / str(count) for count in (600, 1_800)}
    for count, root in roots.items():
        root.mkdir()
        for name, images in (("few", 300), ("all", count)):
            urls = [UrlRow(URL.format(n), prompt="a cat") for n in range(images)]
            save_urls(root / f"{name}.txt", urls)
    found = growing.slope(
        SMALL_BLOCKS + DOWNLOAD,
        "assert get('all').downloaded == count",
        roots,
    )
    assert found.held < 2, found
    assert found.most < 45, found


def test_a_pool_keeps_a_few_bytes_of_each_row(every_store) -> None:
    large = {count: every_store[count] for count in SIZES[1:]}  # a search of few has fewer buffers
    found = growing.slope(
        "import numpy as np\n"
        "from clipdistill.collect.pool import open_pool\n"
        f"query = np.full((1, {DIM}), {DIM**-0.5}, np.float32)\n",
        "pool = open_pool(root)\nassert pool.search(query, 5, workers=1).rows.shape == (1, 5)",
        large,
    )
    assert found.held < 8, found
    assert found.most < WHOLE, found


def test_the_best_of_a_pool_are_columns(stores) -> None:
    """Of a third of the pool; each thread has rows of its own."""
    found = growing.slope(
        "import numpy as np\n"
        "from clipdistill.collect import nearest, pool\n"
        "nearest.WAITING = 128\n"
        f"query = np.full((1, {DIM}), {DIM**-0.5}, np.float32)\n"
        "opened = pool.open_pool(root)\n"
        "opened.search(query, 5, workers=1)\n",
        "hits = opened.search(query, count // 3, workers=1).rows\nassert hits.size == count // 3",
        stores,
    )
    assert found.held * 3 < 13, found
    assert found.most * 3 < 40, found


def test_choosing_keeps_columns(stores) -> None:
    found = growing.slope(
        "import numpy as np\n"
        "from clipdistill.collect.choose import choose\n"
        "labels = np.arange(count, dtype=np.int32) % 10\n"
        "scores = np.linspace(1, 0, count, dtype=np.float32)\n"
        "same = np.full(count, -1, np.int64)\n",
        "choice = choose(labels, scores, None, num_labels=10, min_score=0.1, repeats=same)",
        stores,
    )
    assert found.held < 30, found
    assert found.most < WHOLE, found


def test_sorting_images_by_cluster_grows_by_few_bytes(stores) -> None:
    found = growing.slope(
        "import numpy as np\n"
        "from clipdistill.collect import clusters\n"
        "clusters.AT_ONCE = 1024\n"
        "near = np.random.default_rng(0).integers(0, 50, (count, 2)).astype(np.uint16)\n",
        "members, bounds = clusters._by_cluster(near, 50)\n"
        "plain = np.argsort(near[:2000].reshape(-1), kind='stable') // 2\n"
        "assert (clusters._by_cluster(near[:2000], 50)[0] == plain).all()",
        stores,
    )
    assert found.held < 9, found
    assert found.most < 12, found


SELECT = (
    LISTED
    + """
from types import SimpleNamespace
import numpy as np
from clipdistill.collect import pool, select
from clipdistill.formats import parquet
parquet.WRITTEN_ROWS = parquet.CONVERTED_ROWS = pool.NAMES_AT_ONCE = 512
pool.Pool.blocks.__defaults__ = (64,)  # the vectors of larger ones would hide a growth
vectors = np.eye(2, 256, dtype=np.float32)
labels = SimpleNamespace(labels=("a", "b"), vectors=vectors, teacher=pool.open_pool(root).teacher)
select.load_text, select.list_images = lambda _: labels, lambda _: Listing.of(root, items())
run = lambda n: select.select(root, root, root, root / "out", num_images=n, duplicates=1.0)
run(100)
"""
)


@pytest.mark.scale
def test_a_selection_takes_a_few_bytes_of_each_image(stores) -> None:
    """Its listing included; without near-duplicates."""
    found = growing.slope(SELECT, "assert run(count // 2).taken == count // 2", stores)
    assert found.held < 2, found
    assert found.most < WHOLE, found


@pytest.fixture(scope="module")
def web_pools(tmp_path_factory):
    """Pools of images on the web, in clip-retrieval's layout, and a prompt for each."""
    made = {}
    for count in (1_500, 4_500):
        root = tmp_path_factory.mktemp(f"web-{count}")
        for name in ("img_emb", "metadata"):
            (root / name).mkdir()
        np.save(root / "img_emb/img_emb_0.npy", np.ones((count, 8), np.float16))
        columns = {
            "url": [URL.format(n) for n in range(count)],
            "caption": [f"a cat that is number {n} of many" for n in range(count)],
        }
        table = pyarrow.table(columns)
        pyarrow.parquet.write_table(table, root / "metadata/metadata_0.parquet", row_group_size=256)
        (root / "prompts.txt").write_text("a cat\n")
        made[count] = root
    return made


SEARCH = """
import numpy as np
from clipdistill.collect import nearest, pool, search
from clipdistill.collect.sources import hits, pooled
from clipdistill.collect.sources.options import SearchOptions
from clipdistill.formats import parquet, urls
parquet.WRITTEN_ROWS = parquet.CONVERTED_ROWS = urls.BATCH_ROWS = 128
hits.HITS_AT_ONCE = pooled.ROWS_AT_ONCE = 128
embed = lambda texts: np.full((len(texts), 8), 8**-0.5, np.float32)
options = SearchOptions(source="pool", pool=root, num_images=count // 2, append=True)
pool.TABLE_CACHE = 0
nearest.WAITING = 128
pool.default_workers = lambda: 1  # each thread has rows of its own
pool.CHUNK_ROWS = pool.TASK_ROWS = 128
opened = pool.open_pool(root)
source = lambda n: pooled.make_pooled(opened, embed, ["a cat"], n)
assert all(row.url for row in source(9)("a cat", 9))
search._open_source = lambda *_: (source(count), 1)
"""


@pytest.mark.parametrize("lists", ["new", "appended"])
def test_a_search_keeps_a_few_bytes_of_each_url(web_pools, lists, monkeypatch) -> None:
    """Appended to a list of as many URLs, there are two rows for each."""
    if lists == "appended":
        monkeypatch.setattr("clipdistill.formats.parquet.WRITTEN_ROWS", 256)
        for count, root in web_pools.items():
            rows = (UrlRow(f"https://kept.org/{n}", caption="a cat") for n in range(count))
            save_urls(root / "appended.txt", rows)
    found = growing.slope(
        SEARCH,
        f"search.search(root / 'prompts.txt', root / '{lists}.txt', options)",
        web_pools,
    )
    assert found.held < 5, found
    assert found.most < 50, found
