"""What every benchmark here shares: interleaved timing, and a dated report with its command."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distributions, version
from pathlib import Path

HERE = Path(__file__).parent


def interleaved(
    candidates: dict[str, Callable[[], float | None]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run every candidate once a round, `repeats` rounds, so that a drifting machine hurts all.

    With `warm_up` one round more comes first and is not counted: caches, pools, kernels.
    A candidate that returns a number has timed itself (seconds); otherwise its wall time counts.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(0 if warm_up else 1, repeats + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            own = run()
            seconds = time.perf_counter() - start if own is None else own
            label = f"round {number}/{repeats}" if number else "warm-up"
            print(f"{label}  {name}: {seconds:.3f} s", file=sys.stderr)
            if number:
                times[name].append(seconds)
    return times


def ratios(times: dict[str, list[float]], name: str, to: str) -> float:
    """Median over the rounds of time(to) / time(name): 1 is as fast as `to`, above is faster."""
    return statistics.median(b / a for a, b in zip(times[name], times[to], strict=True))


def machine() -> str:
    """This machine in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tools = ", ".join(
        f"{package} {version(package)}"
        for package in ("clipdistill", "torch", "timm", "onnxruntime", "openvino", "pillow")
        if any(distributions(name=package))
    )
    return f"{name}, {cores} cores, Python {platform.python_version()}, {tools}"


def write_report(
    name: str,
    title: str,
    lines: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Path:
    """Write `benchmarks/NAME-DATE.md` and print it; returns its path."""
    today = datetime.date.today().isoformat()
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    table = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    table += ["| " + " | ".join(row) + " |" for row in rows]
    text = "\n".join(
        [
            f"# {title}",
            "",
            *lines,
            "",
            *table,
            "",
            f"Command: `{command}`  ",
            f"Machine: {machine()}  ",
            f"Date: {today}",
            "",
        ]
    )
    path = HERE / f"{name}-{today}.md"
    path.write_text(text)
    print(text)
    return path
