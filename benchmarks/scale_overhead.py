"""What it costs to divide `embed` among processes: `--workers 2` and `--ray local --workers 2`
against one process with two threads, over the same images in the same shards.

Each command runs in a process of its own, in turns.  Its work lasts from the beginning of the first
shard to the end of the last one, by the statistics of the shards; the rest of the command's time is
start-up: imports, the listing, the teacher, and the Ray cluster.

    python benchmarks/scale_overhead.py --images PHOTOS --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reporting import interleaved, ratios, write_report

from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.parts import done_parts, read_stats
from clipdistill.images.sources import list_images

ONE = "one process, two threads"
COMMANDS = {
    ONE: ["--shard-index", "0", "--shard-count", "1", "--num-workers", "2"],
    "--workers 2": ["--workers", "2"],
    "--ray local --workers 2": ["--ray", "local", "--workers", "2"],
}
MOST = 0.10
"""Overhead that was allowed."""


def main() -> None:
    """Time all of them in turns, and write the report."""
    asked = parse()
    startup: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="clipdistill-") as place:
        images = Path(place) / "images"
        count = repeat(asked.images, images, asked.count)
        numbers = iter(range(1000))
        bytes_of: dict[str, bytes] = {}

        def embed(name: str) -> float:
            out = Path(place) / str(next(numbers))
            whole = command(images, out, COMMANDS[name], asked)
            stats = [read_stats(out, number) for number in sorted(done_parts(out))]
            work = max(one.finished for one in stats) - min(
                one.finished - one.seconds for one in stats
            )
            startup[name].append(whole - work)
            bytes_of[name] = load_embeddings(out).vectors.tobytes()
            return work

        candidates = {name: lambda name=name: embed(name) for name in COMMANDS}
        times = interleaved(candidates, asked.rounds, warm_up=not asked.no_warm_up)
    report(asked, count, times, startup, bytes_of)


def repeat(source: Path, folder: Path, count: int) -> int:
    """Link images into a folder, again and again under other names; returns how many."""
    folder.mkdir()
    items = list_images(source)
    for number in range(count):
        item = items[number % len(items)]
        (folder / f"{number:08}{item.path.suffix}").symlink_to(item.path.absolute())
    return count


def command(images: Path, out: Path, options: list[str], asked: argparse.Namespace) -> float:
    """Run `embed` and return its seconds."""
    words = [
        *(sys.executable, "-m", "clipdistill", "embed", os.fspath(images), os.fspath(out)),
        *("--model-name", asked.teacher, "--device", "cpu", "--shard-size", str(asked.shard_size)),
        *("--batch-size", str(asked.batch_size), *options),
    ]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def report(
    asked: argparse.Namespace,
    count: int,
    times: dict[str, list[float]],
    startup: dict[str, list[float]],
    vectors: dict[str, bytes],
) -> None:
    """Medians, and the overhead over one process."""
    rows, conclusions = [], []
    for name, seconds in times.items():
        overhead = 1 / ratios(times, name, ONE) - 1
        same = "yes" if vectors[name] == vectors[ONE] else "other rounding"
        work = statistics.median(seconds)
        before = statistics.median(startup[name][-len(seconds) :])
        shown = "" if name == ONE else f"{100 * overhead:+.1f}%"
        rows.append([name, f"{work:.2f}", f"{count / work:.1f}", shown, f"{before:.1f}", same])
        if name != ONE:
            held = "within" if overhead <= MOST else "not within"
            conclusions.append(
                f"{name}: {100 * overhead:+.1f}% beyond start-up, {held} the {MOST:.0%} that were "
                "allowed."
            )
    write_report(
        "scale-overhead",
        "embed by two processes against one with two threads",
        [
            f"{count} images of {asked.images} in shards of {asked.shard_size}, teacher "
            f"{asked.teacher}, {asked.rounds} rounds in turns; medians. Overhead is the median "
            "over the rounds. Vectors may round differently where the number of threads differs.",
            "",
            *conclusions,
        ],
        ("command", "work s", "images/s", "overhead", "start-up s", "same bytes"),
        rows,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="embed by several processes against one")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--count", type=int, default=2048, help="images; repeated if necessary")
    parser.add_argument("--shard-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-warm-up", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
