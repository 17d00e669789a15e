"""Start-up: wall time and imports of `clipdistill --help` and of `predict` with an ONNX file.

python benchmarks/startup.py --classifier classifier.onnx --image picture.jpg
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from reporting import interleaved, write_report

HEAVY = ("torch", "timm", "open_clip", "pyarrow", "onnx", "onnxruntime", "numpy", "PIL", "cyclopts")


def imports_of(code: str) -> tuple[int, str]:
    """How many modules a fresh Python has after `code`, and which heavy ones."""
    tail = f"\nimport sys; print(len(sys.modules), *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    count, *heavy = done.stdout.strip().splitlines()[-1].split()
    return int(count), ", ".join(heavy) or "none"


def main() -> None:
    """Time the commands in turn and write the report."""
    parser = argparse.ArgumentParser(description="start-up time")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    lines = {
        "python -c pass": ["-c", "pass"],
        "clipdistill --help": ["-m", "clipdistill", "--help"],
        "clipdistill predict CLASSIFIER.onnx IMAGE": [
            "-m",
            "clipdistill",
            "predict",
            arguments.classifier,
            arguments.image,
        ],
    }

    def runner(command: list[str]):
        return lambda: (
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            and None
        )

    times = interleaved(
        {name: runner(command) for name, command in lines.items()}, arguments.repeats
    )
    base = statistics.median(times["python -c pass"])
    rows = []
    for name, command in lines.items():
        middle = statistics.median(times[name])
        if command[0] == "-c":
            count, heavy = imports_of("pass")
        else:
            call = f"from clipdistill.cli import main; main({command[2:]!r})"
            count, heavy = imports_of(call)
        rows.append([f"`{name}`", f"{middle:.3f}", f"{middle - base:+.3f}", str(count), heavy])
    write_report(
        "startup",
        "Start-up",
        [f"Medians of {arguments.repeats} interleaved runs."],
        ["command", "seconds", "over Python's own", "modules", "of the heavy ones"],
        rows,
    )


if __name__ == "__main__":
    main()
