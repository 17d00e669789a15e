"""Downloads per second and memory from a local server: `clipdistill download` with every protection
on, img2dataset, and the older script's thread pool, side by side.

    python3 -m venv .venv-img2dataset && .venv-img2dataset/bin/pip install img2dataset==1.47.0
    python benchmarks/downloads.py --img2dataset .venv-img2dataset/bin/img2dataset
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import interleaved, ratios, write_report

from clipdistill.images.loading import default_workers

HOSTS = 64
"""Addresses 127.0.0.1 to 127.0.0.64 play so many hosts."""


def jpeg_of(size: int, seed: int = 0) -> bytes:
    """A JPEG of noise of about so many bytes."""
    random = np.random.default_rng(seed)
    side = 40
    while True:
        pixels = random.integers(0, 255, (side, side, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=50)
        if file.tell() >= size:
            return file.getvalue()
        side = int(side * 1.2) + 1


def noise(size: int, different: int) -> list[bytes]:
    """So many JPEGs of noise."""
    return [jpeg_of(size, seed) for seed in range(different)]


@contextlib.contextmanager
def server(
    make: Callable[[], list[bytes]], latency: float = 0.0, failures: float = 0.0
) -> Iterator[int]:
    """Serve what `make` returns from a process of its own; yields the port."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=serve, args=(far, make, latency, failures), daemon=True)
    process.start()
    try:
        yield near.recv()
    finally:
        process.terminate()
        process.join()


def serve(connection, make: Callable[[], list[bytes]], latency: float, failures: float) -> None:
    """A server that does as little as it can."""
    pictures = make()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                number = int(request.split()[1].rsplit(b"/", 1)[1])
                if latency:
                    await asyncio.sleep(latency)
                if number % 10 < 10 * failures:
                    writer.write(gone)
                else:  # no two bodies are the same: a number follows the JPEG's end
                    picture = pictures[number % len(pictures)]
                    writer.write(answer % (len(picture) + 8) + picture + b"%08d" % number)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(one, "0.0.0.0", 0, backlog=4096)
        connection.send(server.sockets[0].getsockname()[1])
        await asyncio.sleep(1e6)

    asyncio.run(main())


def write_urls(path: Path, port: int, count: int) -> None:
    """Write a list of so many URLs of the server, over all hosts."""
    lines = (f"http://127.0.0.{1 + n % HOSTS}:{port}/{n}\n" for n in range(count))
    path.write_text("".join(lines))


def our_command(urls: Path, out: Path, workers: int, resize: int) -> list[str]:
    """`clipdistill download`; further options may follow."""
    return [
        sys.executable,
        "-m",
        "clipdistill",
        "download",
        str(urls),
        str(out),
        "--quiet",
        "--allow-private",
        "--max-workers",
        str(workers),
        "--per-host",
        str(workers),
        "--resize",
        str(resize),
    ]


def their_command(urls: Path, out: Path, workers: int, resize: int, img2dataset: str) -> list[str]:
    """img2dataset, as many downloads at once as ours (threads are per process); further options may
    follow, and overrule.
    """
    processes = default_workers()
    words = [
        img2dataset,
        "--url_list",
        str(urls),
        "--output_folder",
        str(out),
        "--thread_count",
        str(workers // processes),
        "--processes_count",
        str(processes),
        "--output_format",
        "files",
        "--enable_wandb",
        "False",
        "--compute_hash",
        "sha256",
        "--number_sample_per_shard",
        "500",
    ]
    words += (
        [
            "--resize_mode",
            "keep_ratio",
            "--image_size",
            str(resize),
            "--resize_only_if_bigger",
            "True",
        ]
        if resize
        else ["--resize_mode", "no"]
    )
    return words


def commands(
    urls: Path, out: Path, workers: int, resize: int, img2dataset: str
) -> dict[str, list[str]]:
    """One command line a candidate."""
    script = Path(__file__).with_name("older_download.py")
    python = Path(img2dataset).with_name("python")  # it has requests
    pool = [str(python), str(script), str(urls), str(out), str(workers)]
    return {
        "ours": our_command(urls, out, workers, resize),
        "img2dataset": their_command(urls, out, workers, resize, img2dataset),
        "older": pool,
    }


@dataclass(frozen=True)
class Ran:
    """What a command took.

    Attributes:
        seconds: from its start to its end.
        processor: seconds of the processor, of all its processes.
        peak: memory in MB, see `Memory`.
    """

    seconds: float
    processor: float
    peak: float


def run_command(name: str, command: list[str], log: Path, **environment: str) -> Ran:
    """Run a command and measure it."""
    start, before = time.perf_counter(), os.times()
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
        memory = Memory(process.pid)
        code = process.wait()
    seconds, after = time.perf_counter() - start, os.times()
    peak = memory.stop()
    if code:
        raise SystemExit(f"{name}: exit {code}\n{log.read_text()[-2000:]}")
    processor = after.children_user - before.children_user
    return Ran(seconds, processor + after.children_system - before.children_system, peak)


class Memory:
    """Samples the memory of a process and all below it: anonymous and shared pages, not mapped
    files, and pages of several processes once; the peak in MB."""

    def __init__(self, pid: int) -> None:
        self.peak = 0.0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """End, and return the peak."""
        self._done.set()
        self._thread.join()
        return self.peak

    def _sample(self) -> None:
        cost = 0.0
        while not self._done.wait(max(0.1, 50 * cost)):  # at most 2% of a processor
            start = time.thread_time()
            self.peak = max(self.peak, sum(_memory(pid) for pid in _tree(self._pid)) / 1024)
            cost = time.thread_time() - start


def _tree(pid: int) -> list[int]:
    children: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    return [pid, *(one for child in children for one in _tree(int(child)))]


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))


def measure(arguments, size: int, latency: float, failures: float, resize: int) -> list[str]:
    """One row: all candidates at one point."""
    # Shrunk copies of one picture are duplicates, which ours keeps once.
    make = partial(noise, size, arguments.count if resize else 1)
    expected = sum(n % 10 >= 10 * failures for n in range(arguments.count))
    peaks: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        server(make, latency, failures) as port,
    ):
        scratch = Path(name)
        urls, out = scratch / "urls.txt", scratch / "out"
        write_urls(urls, port, arguments.count)
        lineup = commands(urls, out, arguments.workers, resize, arguments.img2dataset)
        if resize:
            del lineup["older"]  # it cannot

        def run(key: str) -> float:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            ran = run_command(key, lineup[key], scratch / "log")
            peaks[key] = max(peaks.get(key, 0.0), ran.peak)
            found = sum(1 for path in out.rglob("*.jpg"))
            if found != expected:
                raise SystemExit(f"{key}: {found} of {expected} images")
            return ran.seconds

        times = interleaved(
            {key: partial(run, key) for key in lineup}, arguments.repeats, warm_up=False
        )
    point = [
        f"{size / 1000:g} KB",
        f"{latency * 1000:g} ms",
        f"{failures:.0%}",
        str(resize or "no"),
    ]
    for key in ("ours", "img2dataset", "older"):
        if key in times:
            rate = arguments.count / float(np.median(times[key]))
            point.append(f"{rate:.0f}/s, {peaks[key]:.0f} MB")
        else:
            point.append("")
    point += [
        f"{ratios(times, 'ours', key):.2f}x" if key in times else ""
        for key in ("img2dataset", "older")
    ]
    return point


def main() -> None:
    """Measure every point and write the report."""
    parser = argparse.ArgumentParser(description="downloads per second")
    parser.add_argument("--img2dataset", required=True, help="its command")
    parser.add_argument("--count", type=int, default=2000, help="URLs")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [
        measure(arguments, size, latency, failures, 0)
        for size in (1_000, 200_000)
        for latency in (0.0, 0.05, 0.2)
        for failures in (0.0, 0.3)
    ]
    rows.append(measure(arguments, 200_000, 0.05, 0.3, 256))
    write_report(
        "downloads",
        "Downloads: whole commands against a local server",
        [
            f"{arguments.count} URLs over {HOSTS} loopback addresses, {arguments.workers} at once "
            "each (the older pool: as many threads as asyncio's default executor has here, "
            f"{min(32, (os.cpu_count() or 1) + 4)}), start of the program included; "
            "median of the rounds, and the peak of memory of all its processes. Ours has "
            "every protection on but the one against loopback, and looks whether every picture is "
            "whole. Ratios above 1: ours is faster.",
        ],
        [
            "picture",
            "latency",
            "404s",
            "resize",
            "ours",
            "img2dataset 1.47",
            "older thread pool",
            "ours / img2dataset",
            "ours / older",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
