"""`download --layout webdataset` against img2dataset that writes tars, and `embed` of these tars
against clip-retrieval's inference with the same teacher, side by side.

Each command runs in a process of its own, in turns, over a few images and over many.  What an
image costs beyond start-up is the difference of the seconds of the processor over that of the
images; other work on the same processor hardly changes it.

    python3 -m venv .venv-peers
    .venv-peers/bin/pip install img2dataset==1.47.0 clip-retrieval==2.45.0
    .venv-peers/bin/pip install "open-clip-torch>=3" "setuptools<70"  # local-dir, pkg_resources
    python benchmarks/peers.py --img2dataset .venv-peers/bin/img2dataset \
        --clip-retrieval .venv-peers/bin/clip-retrieval --images PHOTOS --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet
from downloads import Ran, our_command, run_command, server, their_command, write_urls
from PIL import Image
from reporting import interleaved, ratios, write_report

from clipdistill.formats.embeddings import load_embeddings
from clipdistill.images.loading import default_workers
from clipdistill.images.sources import list_images

OURS = "clipdistill"


@dataclass(frozen=True)
class Contest:
    """What one row compares.

    Attributes:
        name: of the row.
        peer: what ours is compared with.
        counts: numbers of images: few, and many.
        run: runs a candidate over so many images into an empty folder.
        check: compares what both made of many images; returns what to report.
    """

    name: str
    peer: str
    counts: tuple[int, int]
    run: Callable[[str, int, Path], Ran]
    check: Callable[[Path, Path], str]


def main() -> None:
    """Compare both, and write the report."""
    asked = parse()
    with tempfile.TemporaryDirectory(prefix="clipdistill-") as place:
        scratch = Path(place)
        rows = []
        with server(partial(photos, asked.images, asked.urls)) as port:
            for size in asked.image_size:
                rows.append(measure(downloading(asked, scratch, port, size), asked, scratch))
            tars = scratch / "tars"
            urls = scratch / "urls.txt"
            write_urls(urls, port, asked.count)
            words = our_words(asked, urls, tars, asked.image_size[0])
            run_command(OURS, words, scratch / "log")
        if not asked.no_embed:
            rows.append(measure(embedding(asked, scratch, tars), asked, scratch))
    report(asked, rows)


def photos(folder: Path, count: int) -> list[bytes]:
    """The bytes of so many images; after all of the folder come the same ones turned and mirrored,
    so that no two give the same image.
    """
    made = [item.read() for item in list_images(folder)[:count]]
    given = len(made)
    for turn in Image.Transpose:
        for data in made[: min(given, count - len(made))]:
            file = io.BytesIO()
            image = Image.open(io.BytesIO(data)).convert("RGB")
            image.transpose(turn).save(file, "JPEG", quality=85)
            made.append(file.getvalue())
    return made


def downloading(asked: argparse.Namespace, scratch: Path, port: int, size: int) -> Contest:
    """Downloads into tars."""
    urls = scratch / "urls.txt"
    peer = "img2dataset 1.47"

    def run(name: str, count: int, out: Path) -> Ran:
        write_urls(urls, port, count)
        if name == OURS:
            return run_command(name, our_words(asked, urls, out, size), scratch / "log")
        words = their_command(urls, out, asked.workers, size, asked.img2dataset)
        words += ["--output_format", "webdataset", "--number_sample_per_shard", str(asked.tar)]
        words += ["--encode_quality", "90", "--skip_reencode", "True"]  # as ours
        return run_command(name, words, scratch / "log")

    def check(ours: Path, theirs: Path) -> str:
        counts = [len(list_images(folder)) for folder in (ours, theirs)]
        if counts[0] != counts[1]:
            raise SystemExit(f"ours stored {counts[0]} images, {peer} {counts[1]}")
        return f"{counts[0]} images each"

    name = f"download into tars, {f'{size} px' if size else 'bytes kept'}"
    return Contest(name, peer, (asked.tar, asked.urls), run, check)


def our_words(asked: argparse.Namespace, urls: Path, out: Path, size: int) -> list[str]:
    """Our download into tars."""
    words = our_command(urls, out, asked.workers, size)
    return [*words, "--layout", "webdataset", "--shard-size", str(asked.tar)]


def embedding(asked: argparse.Namespace, scratch: Path, tars: Path) -> Contest:
    """Embeddings of tars."""
    cores = default_workers()
    last = asked.count // asked.tar - 1

    def run(name: str, count: int, out: Path) -> Ran:
        many = f"{tars}/{{00000..{last:05}}}.tar"
        source = f"{tars}/00000.tar" if count == asked.tar else many
        words = ours(source, out) if name == OURS else theirs(source, out)
        return run_command(name, words, scratch / "log", OMP_NUM_THREADS=str(cores))

    def ours(source: str, out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "clipdistill", "embed", source, str(out), "--quiet"),
            *("--model-name", asked.teacher, "--device", "cpu"),
            *("--batch-size", str(asked.batch_size), "--num-workers", str(cores)),
        ]

    def theirs(source: str, out: Path) -> list[str]:
        program = Path(asked.clip_retrieval)
        script = Path(__file__).with_name("clip_retrieval_local.py")
        return [
            *(str(program.with_name("python")), str(script), asked.teacher, "inference"),
            *("--input_dataset", source, "--output_folder", str(out)),
            *("--input_format", "webdataset", "--clip_model", "open_clip:teacher"),
            *("--batch_size", str(asked.batch_size), "--num_prepro_workers", str(cores)),
            *("--enable_text", "False", "--enable_wandb", "False"),
        ]

    def check(one: Path, other: Path) -> str:
        cosines = compare(one, other)
        return (
            f"{len(cosines)} images each; cosine of both: median {np.median(cosines):.4f}, least "
            f"{cosines.min():.4f}"
        )

    counts = (asked.tar, (last + 1) * asked.tar)
    return Contest("embed tars", "clip-retrieval 2.45", counts, run, check)


def compare(ours: Path, theirs: Path) -> np.ndarray:
    """The cosines of the vectors of each image; both must have the same images."""
    embeddings = load_embeddings(ours)
    mine = dict(zip(map(stem, embeddings.rows.keys), embeddings.vectors, strict=True))
    found: dict[str, np.ndarray] = {}
    for path in sorted((theirs / "img_emb").glob("*.npy")):
        number = path.stem.rpartition("_")[2]
        table = pyarrow.parquet.read_table(theirs / "metadata" / f"metadata_{number}.parquet")
        names = map(stem, table["image_path"].to_pylist())
        found |= dict(zip(names, np.load(path), strict=True))
    if mine.keys() != found.keys():
        raise SystemExit(f"ours embedded {len(mine)} images, the peer {len(found)}, not the same")
    pairs = [(mine[name], found[name]) for name in mine]
    one, other = (np.stack(side).astype(np.float32) for side in zip(*pairs, strict=True))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.sum(one * other, axis=1) / lengths


def stem(name: str) -> str:
    """The name of an image without folders, tar and ending."""
    return Path(name).stem


def measure(contest: Contest, asked: argparse.Namespace, scratch: Path) -> list[str]:
    """One row: ours and the peer in turns."""
    few, many = contest.counts
    folders: dict[str, Path] = {}
    processor: dict[str, list[float]] = {}
    peaks = dict.fromkeys((OURS, contest.peer), 0.0)

    def run(name: str, count: int) -> float:
        out = scratch / f"out-{name}"
        shutil.rmtree(out, ignore_errors=True)
        ran = contest.run(name, count, out)
        peaks[name] = max(peaks[name], ran.peak)
        processor.setdefault(f"{name}, {count}", []).append(ran.processor)
        folders[name] = out
        return ran.seconds

    candidates = {
        (f"{name}, {count}"): partial(run, name, count)
        for count in (few, many)
        for name in (OURS, contest.peer)
    }
    times = interleaved(candidates, asked.rounds, warm_up=not asked.no_warm_up)
    found = contest.check(folders[OURS], folders[contest.peer])
    spent = {name: statistics.median(values[-asked.rounds :]) for name, values in processor.items()}
    whole = {name: many / statistics.median(times[f"{name}, {many}"]) for name in peaks}
    cost = {
        name: 1000 * (spent[f"{name}, {many}"] - spent[f"{name}, {few}"]) / (many - few)
        for name in peaks
    }
    return [
        contest.name,
        contest.peer,
        *(f"{rate:.1f}" for rate in whole.values()),
        f"{ratios(times, f'{OURS}, {many}', f'{contest.peer}, {many}'):.2f}x",
        *(f"{spent[f'{name}, {few}']:.1f}" for name in peaks),
        *(f"{each:.1f}" for each in cost.values()),
        f"{cost[contest.peer] / cost[OURS]:.2f}x",
        *(f"{peak:.0f}" for peak in peaks.values()),
        f"{peaks[OURS] / peaks[contest.peer]:.2f}",
        found,
    ]


def report(asked: argparse.Namespace, rows: Sequence[Sequence[str]]) -> None:
    """Write what was found."""
    cores = default_workers()
    write_report(
        "peers-downloads" if asked.no_embed else "peers",
        "Tars downloaded and embedded, against img2dataset and clip-retrieval",
        [
            f"{asked.urls} images downloaded from a server on loopback ({asked.images}, and the "
            f"same turned and mirrored), {0 if asked.no_embed else asked.count} of them embedded; "
            f"tars of {asked.tar}; {asked.rounds} rounds in turns, medians. All processes, the "
            f"server among them, share {cores} processor(s). Images/s are those of a whole "
            f"command, its start included. Seconds of the processor are those of all its "
            f"processes, over {asked.tar} images (mostly the start), and for each image beyond. "
            "Memory is the peak of all processes of a command: anonymous and shared pages, without "
            "mapped files, pages of several processes once.",
            "",
            f"Downloads: {asked.workers} at once, JPEG quality 90 where images are shrunk, images "
            "that need no shrinking keep their bytes, SHA-256 of each. Ours has every protection "
            "on but the one against loopback.",
            "",
            f"Embeddings: teacher {asked.teacher}, batches of {asked.batch_size}, OMP_NUM_THREADS="
            f"{cores}, {cores} decoding thread(s) of ours, {cores} decoding process(es) of "
            "clip-retrieval, images only; the tars are those of our first download. "
            "benchmarks/clip_retrieval_local.py runs clip-retrieval's command: it lets it find a "
            "teacher in a folder, and puts the teacher in evaluation mode, which clip-retrieval "
            "does not (its vectors of a teacher with batch normalisation are others then).",
        ],
        [
            "what",
            "against",
            *("images/s: ours", "theirs", "ours / theirs"),
            *(f"processor s for {asked.tar}: ours", "theirs"),
            *("processor ms per further image: ours", "theirs", "theirs / ours"),
            *("MB: ours", "theirs", "ours / theirs"),
            "results",
        ],
        rows,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="against img2dataset and clip-retrieval")
    parser.add_argument("--img2dataset", required=True, help="its command")
    parser.add_argument("--clip-retrieval", required=True, help="its command")
    parser.add_argument("--images", type=Path, required=True, help="photos, no two the same")
    parser.add_argument("--teacher", required=True, help="local-dir:FOLDER")
    parser.add_argument("--urls", type=int, default=3000, help="images downloaded")
    parser.add_argument("--count", type=int, default=1000, help="images embedded")
    parser.add_argument("--no-embed", action="store_true", help="compare only the downloads")
    parser.add_argument("--tar", type=int, default=250, help="photos per tar")
    parser.add_argument("--image-size", type=int, nargs="+", default=[0, 224], help="0: as it is")
    parser.add_argument("--workers", type=int, default=64, help="downloads at once")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-warm-up", action="store_true")
    asked = parser.parse_args()
    if asked.count % asked.tar or not asked.tar < asked.count <= asked.urls:
        parser.error("--count: expected two or more times --tar, and at most --urls")
    return asked


if __name__ == "__main__":
    main()
