"""Machines, hours, disk and cost for 10^6, 10^8 and 5 * 10^9 images, from rates per machine.

What can be measured here is measured when this runs: bytes on disk per embedding, and how many
photos of a tar one processor reads and decodes per second.  Rates of GPUs, networks and prices are
assumptions, and the table says so; `--set NAME=VALUE` replaces one by a figure of your own machine,
which `embed`, `download` and `distill` print.

    python benchmarks/scale_costs.py --images PHOTOS [--set embed_rate=2600]
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from reporting import write_report

from clipdistill.core.zeroshot import LogitScale
from clipdistill.distillation.streams import StreamedOrder
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header
from clipdistill.formats.rows import Row
from clipdistill.images.pixels import PixelCache
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images

SIZES = (10**6, 10**8, 5 * 10**9)
MACHINES = {10**6: 1, 10**8: 8, 5 * 10**9: 64}
ASSUMED = {
    "image_kb": (50.0, "kB per image in tars (short side 256 px, JPEG)"),
    "download_rate": (500.0, "images/s that one machine downloads"),
    "embed_rate": (2000.0, "images/s that one GPU embeds (ViT-B-16, 224 px, fp16)"),
    "train_rate": (2500.0, "images/s that one GPU trains on (resnet18, 224 px, bf16)"),
    "train_images": (1e8, "images that a student is trained on, at most; `select` chooses them"),
    "epochs": (3.0, "epochs over them"),
    "gpu_price": (2.0, "price of a GPU machine per hour"),
    "cpu_price": (0.2, "price of a machine without a GPU per hour"),
    "disk_price": (0.02, "price of a GB for a month"),
}


def main() -> None:
    """Measure, compute, and write the report."""
    asked = parse()
    values = {name: value for name, (value, _) in ASSUMED.items()} | asked.set
    with tempfile.TemporaryDirectory(prefix="clipdistill-") as place:
        row_bytes = embedding_bytes(Path(place) / "embeddings", asked.rows, asked.dim)
        decoded = decode_rate(Path(place) / "images", asked.images, asked.photos)
    rows = [costs(count, values, row_bytes, decoded) for count in SIZES]
    given = [
        f"- {'given' if name in asked.set else 'assumed'}: {values[name]:g} {meaning}"
        for name, (_, meaning) in ASSUMED.items()
    ]
    write_report(
        "scale-costs",
        "Machines, hours, disk and cost, extrapolated",
        [
            "Nothing of this size was run. One GPU per machine; hours are those of all machines "
            "together, divided by their number.",
            "",
            f"- measured: {row_bytes:.0f} bytes on disk per embedding of {asked.dim} dimensions "
            f"in float16 ({asked.rows} rows, keys of 16 characters)",
            f"- measured: {decoded:.0f} images/s that one processor reads from tars, decodes and "
            f"resizes to 224 px ({asked.photos} photos of {asked.images})",
            *given,
        ],
        (
            "images",
            "machines",
            "download h",
            "embed h",
            "train h",
            "processors per GPU",
            "disk of images TB",
            "disk of embeddings TB",
            "cost of machines",
            "cost of disk per month",
        ),
        rows,
    )


def costs(count: int, values: dict[str, float], row_bytes: float, decoded: float) -> list[str]:
    """One row of the table."""
    machines = MACHINES[count]
    trained = min(count, values["train_images"]) * values["epochs"]
    hours = {
        "download": count / values["download_rate"] / 3600,
        "embed": count / values["embed_rate"] / 3600,
        "train": trained / values["train_rate"] / 3600,
    }
    images, embeddings = count * values["image_kb"] * 1e3, count * row_bytes
    money = hours["download"] * values["cpu_price"]
    money += (hours["embed"] + hours["train"]) * values["gpu_price"]
    processors = max(values["embed_rate"], values["train_rate"]) / decoded
    return [
        f"{count:.0e}".replace("e+0", "e"),
        str(machines),
        *(f"{hours[name] / machines:.3g}" for name in ("download", "embed", "train")),
        f"{processors:.0f}",
        f"{images / 1e12:.3g}",
        f"{embeddings / 1e12:.3g}",
        f"{money:,.0f}",
        f"{(images + embeddings) / 1e9 * values['disk_price']:,.0f}",
    ]


def embedding_bytes(folder: Path, rows: int, dim: int) -> float:
    """Bytes on disk per embedding."""
    random = np.random.default_rng(0)
    teacher = TeacherCard("any", "any", "a" * 32, dim, LogitScale(), Preprocess(224))
    store = EmbeddingStore(folder, Header(teacher, "clip-retrieval", "float16", True))
    for start in range(0, rows, 4096):
        numbers = range(start, min(rows, start + 4096))
        some = [
            Row(f"{n // 10000:05}.tar/{n:09}.jpg", random.bytes(16).hex(), 50000 + n % 999, 1 << 60)
            for n in numbers
        ]
        store.append(some, random.standard_normal((len(some), dim)))
    store.finish([])
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return used / rows


def decode_rate(folder: Path, photos: Path, count: int) -> float:
    """Images per second that one thread streams from tars and decodes, as `distill` does."""
    items = list_images(photos)
    folder.mkdir()
    for tar in range(4):
        with tarfile.open(folder / f"{tar}.tar", "w") as archive:
            for number in range(tar, count, 4):
                data = items[number % len(items)].read()
                info = tarfile.TarInfo(f"{number:09}{items[number % len(items)].path.suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    listing = list_images(folder)
    stored = listing.in_tars()
    assert stored is not None
    rows = np.arange(len(listing))
    order = StreamedOrder(rows, *stored, listing, batch_size=32, buffer=count // 4, seed=0)
    cache = PixelCache(
        folder / "cache", listing, [""] * count, Preprocess(224), workers=0, limit_bytes=0
    )
    start = time.process_time()
    for share in order.shares(0, 0, 1):
        cache.gather(share.rows, None, share.items)
    return count / (time.process_time() - start)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="machines, hours, disk and cost, extrapolated")
    parser.add_argument("--images", type=Path, required=True, help="photos to decode")
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    asked = parser.parse_args()
    pairs = [text.partition("=")[::2] for text in asked.set]
    for name, _ in pairs:
        if name not in ASSUMED:
            parser.error(f"--set {name}: expected one of {', '.join(ASSUMED)}")
    asked.set = {name: float(value) for name, value in pairs}
    return asked


if __name__ == "__main__":
    main()
