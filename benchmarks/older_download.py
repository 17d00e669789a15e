"""The older script's way to download, for `downloads.py`: requests in asyncio's default thread
pool, all tasks at once.

    python benchmarks/older_download.py URLS.txt FOLDER WORKERS
"""

import asyncio
import sys
from pathlib import Path

import requests


def fetch(url: str, path: Path) -> None:
    """Store what is there."""
    answer = requests.get(url, timeout=10)
    if answer.status_code == 200:
        path.write_bytes(answer.content)


async def main(urls: Path, out: Path, workers: int) -> None:
    """Fetch every line of `urls`."""
    turn = asyncio.Semaphore(workers)
    loop = asyncio.get_running_loop()

    async def one(url: str, number: int) -> None:
        async with turn:
            await loop.run_in_executor(None, fetch, url, out / f"{number}.jpg")

    await asyncio.gather(*(one(url, n) for n, url in enumerate(urls.read_text().split())))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
