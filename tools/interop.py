"""Does clip-retrieval itself get on with us?  In a virtual environment of its own, .venv-interop:

- its real back end (`clip_back`, over a small faiss index) answers `search --source knn`;
- its real `ClipClient` queries our `serve`.

Both answers are compared with our exact search of the same pool.  clip-retrieval's own CLIP is not
loaded (its weights would have to be fetched), so its back end is asked by embedding, which `search`
turns to by itself when a text is refused.

    make interop
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from clipdistill import embed
from clipdistill.collect.pool import Pool, open_pool
from clipdistill.collect.search import search
from clipdistill.collect.service import create_app
from clipdistill.collect.sources.options import SearchOptions
from clipdistill.core.serving import LOOPBACK, running_service
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.urls import read_urls
from clipdistill.images.decode import decode
from clipdistill.images.sources import list_images
from clipdistill.models.teacher import Teacher, load_teacher
from clipdistill.pipeline.toy.world import FIRST_USER_SEED, render

HERE = Path(__file__).parent
VENV = HERE.parent / ".venv-interop"
REQUIREMENTS = HERE / "interop-requirements.txt"
PROMPTS = ("a red fish", "a blue cup", "a yellow star on a striped background")
PICTURES = 120
FOUND = 10
PATIENCE = 180
"""Seconds in which the back end has to start; importing all that it needs takes its time."""

BACK_END = """
import sys
import faiss, numpy as np
folder, port = sys.argv[1], int(sys.argv[2])
vectors = np.load(folder + "/img_emb/img_emb_0.npy").astype("float32")
index = faiss.IndexFlatIP(vectors.shape[1])
index.add(vectors)
faiss.write_index(index, folder + "/image.index")
import all_clip, flask
all_clip.load_clip = lambda *args, **kwargs: (None, None, None)  # weights would be fetched
run = flask.Flask.run
flask.Flask.run = lambda app, host, **rest: run(app, host="127.0.0.1", threaded=True, **rest)
from clip_retrieval.clip_back import clip_back
clip_back(indices_paths=folder + "/indices.json", port=port, enable_mclip_option=False,
          provide_aesthetic_embeddings=False)
"""

CLIENT = """
import json, sys
from clip_retrieval.clip_client import ClipClient, Modality
url, asked = sys.argv[1], json.load(sys.stdin)
client = ClipClient(url=url + "/knn-service", indice_name="pool", modality=Modality.IMAGE,
                    num_images=asked["number"], deduplicate=False)
print(json.dumps({
    "text": [client.query(text=text) for text in asked["texts"]],
    "image": client.query(image=asked["image"]),
    "embedding": client.query(embedding_input=asked["embedding"]),
}))
"""


def main() -> None:
    """Set up, ask in both directions, compare."""
    python = make_venv()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        toy = stack.enter_context(as_file(files("clipdistill.pipeline.toy") / "toy_teacher"))
        teacher = load_teacher(f"local-dir:{toy}", device="cpu")
        render(folder / "images", PICTURES, seed=FIRST_USER_SEED, labelled=False)
        embed(folder / "images", folder / "pool", model_name=f"local-dir:{toy}", device="cpu")
        their_back_end(python, folder, teacher, f"local-dir:{toy}")
        their_client(python, folder, teacher)
    print("interop: all is well")


def make_venv() -> Path:
    """The environment with clip-retrieval; made once."""
    python = VENV / "bin/python"
    ready = VENV / ".ready"
    wanted = REQUIREMENTS.read_text()
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"Setting up {VENV.name}: clip-retrieval needs much, this takes minutes.")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
        ready.write_text(wanted)
    return python


def their_back_end(python: Path, folder: Path, teacher: Teacher, name: str) -> None:
    """`search --source knn` against clip-retrieval's back end."""
    pool = foreign_pool(folder)
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    with back_end(python, folder / "theirs") as url:
        assert get(f"{url}/indices-list") == ["theirs"]
        search(
            folder / "prompts.txt",
            folder / "urls.txt",
            SearchOptions(
                source="knn",
                url=url,
                num_images=FOUND,
                deduplicate=False,
                model_name=name,
                retries=0,
            ),
        )
    rows = list(read_urls(folder / "urls.txt"))
    for prompt, query in zip(PROMPTS, teacher.embed_texts(PROMPTS), strict=True):
        mine = [row for row in rows if row.prompt == prompt]
        assert mine, f"nothing was found for {prompt!r}"
        scores = {known.url: score for known, score in best(pool, query, PICTURES)}
        assert all(abs(scores[row.url] - row.score) < 1e-3 for row in mine)
        first = best(pool, query, 1)[0][1]
        assert max(row.score for row in mine) > first - 0.1
    print(
        f"their back end, our client: {len(rows)} URLs for {len(PROMPTS)} prompts, "
        "with the scores of our exact search"
    )


def foreign_pool(folder: Path) -> Pool:
    """The same embeddings as clip-retrieval's `inference` leaves them: with URLs and captions."""
    stored = load_embeddings(folder / "pool")
    root = folder / "theirs"
    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()
    np.save(root / "img_emb/img_emb_0.npy", np.asarray(stored.vectors, np.float16))
    names = [row.image_path for row in stored.rows]
    table = {
        "image_path": names,
        "caption": [f"picture {name}" for name in names],
        "url": [f"https://example.org/{name}" for name in names],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), root / "metadata/metadata_0.parquet")
    (root / "indices.json").write_text(json.dumps({"theirs": str(root)}))
    return open_pool(root)


@contextlib.contextmanager
def back_end(python: Path, root: Path) -> Iterator[str]:
    """clip-retrieval's back end while the block runs; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = root / "log.txt"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [str(python), "-c", BACK_END, str(root), str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            until = time.monotonic() + PATIENCE
            while not answers(f"{url}/indices-list"):
                if process.poll() is not None or time.monotonic() > until:
                    sys.exit(f"clip-retrieval's back end did not start:\n{log.read_text()}")
                time.sleep(0.2)
            yield url
        except BaseException:
            print(log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait()


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        get(url)
    except OSError:
        return False
    return True


def get(url: str) -> object:
    """GET JSON."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def best(pool: Pool, query: np.ndarray, k: int) -> list:
    """The `k` best rows by our own search: (what is known, score)."""
    found = pool.search(query[None], k)
    return list(zip(pool.metadata(found.rows[0]), found.scores[0].tolist(), strict=True))


def their_client(python: Path, folder: Path, teacher: Teacher) -> None:
    """clip-retrieval's client against our service."""
    pool = open_pool(folder / "pool")
    images = list_images(folder / "images")
    app = create_app(
        pool,
        embed_text=lambda text: teacher.embed_texts([text])[0],
        embed_image=lambda data: teacher.images.embed_pixels(
            np.stack([teacher.card.preprocess.to_pixels(decode(data))])
        )[0],
        images=images,
        allow_hosts=LOOPBACK,
    )
    queries = teacher.embed_texts(PROMPTS)
    asked = {
        "texts": PROMPTS,
        "image": str(images[7].path),
        "number": FOUND,
        "embedding": queries[0].tolist(),
    }
    with running_service(app) as url:
        done = subprocess.run(
            [str(python), "-c", CLIENT, url],
            input=json.dumps(asked),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"clip-retrieval's client failed:\n{done.stderr}")
        answer = json.loads(done.stdout.splitlines()[-1])
        with urllib.request.urlopen(answer["text"][0][0]["url"], timeout=10) as picture:
            assert (
                picture.read()
                == (folder / "images" / answer["text"][0][0]["image_path"]).read_bytes()
            )
    for query, items in zip(queries, answer["text"], strict=True):
        same(best(pool, query, FOUND), items)
    same(best(pool, queries[0], FOUND), answer["embedding"])
    assert answer["image"][0]["image_path"] == images[7].key
    print(
        f"our service, their client: {len(PROMPTS)} texts, a picture and an embedding, with the "
        "rows and scores of our exact search; pictures are handed out"
    )


def same(expected: list, items: list) -> None:
    """The client's items are the rows of our own search."""
    assert len(items) == len(expected), items
    for (known, score), item in zip(expected, items, strict=True):
        assert item["image_path"] == known.image_path
        assert abs(item["similarity"] - score) < 1e-5


if __name__ == "__main__":
    if shutil.disk_usage(HERE).free < 12 << 30:
        sys.exit("interop: clip-retrieval and what it needs take about 10 GB; free some space.")
    main()
