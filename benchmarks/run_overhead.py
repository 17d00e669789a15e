"""What `run` costs over its stages: against their commands one after the other, and with no change.

All go from the same pictures to a classifier and its figures, in turns.  The stages are the
commands that `run.json` names: each in a process of its own, as a script would do it, and all in
one process, as `run` calls them, which is the harder comparison.

python benchmarks/run_overhead.py --images PHOTOS --prompts prompts.txt --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from reporting import interleaved, ratios, write_report

from clipdistill.formats.run import RunFolder, load_run

ONE_PROCESS = """
import shlex, sys
from clipdistill import cli
for line in sys.stdin.read().splitlines():
    assert cli.main(shlex.split(line)[1:]) == 0, line
"""
MOST_SECONDS, MOST_RATIO = 3.0, 1.05


def call(words: list[str], lines: str = "") -> None:
    """Run a Python process that says nothing."""
    done = subprocess.run(
        [sys.executable, *words], input=lines, text=True, capture_output=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)


def main() -> None:
    """Time all of it in turns, and write the report."""
    asked = parse()
    options = [
        "--images",
        asked.images,
        "--teacher",
        asked.teacher,
        "--student",
        asked.student,
        "--image-size",
        asked.image_size,
        "--num-epochs",
        asked.num_epochs,
        *(["--labelled", asked.labelled] if asked.labelled else []),
        *(["--qat", "--fine-tuning-epochs", "1"] if asked.qat else []),
    ]
    with tempfile.TemporaryDirectory(prefix="clipdistill-") as place:
        numbers = iter(range(1000))

        def whole(out: Path) -> None:
            call(["-m", "clipdistill", "run", asked.prompts, str(out), *options])

        def fresh() -> Path:
            return Path(place) / str(next(numbers))

        finished = fresh()
        whole(finished)
        again: Callable[[], None] = lambda: whole(finished)  # noqa: E731
        times = interleaved(
            {
                "run": lambda: whole(fresh()),
                "its stages, one process": lambda: call(
                    ["-c", ONE_PROCESS], stages(finished, fresh())
                ),
                "its stages, a process each": lambda: separately(stages(finished, fresh())),
                "run again, nothing changed": again,
            },
            asked.rounds,
            warm_up=False,
        )
    report(asked, times)


def stages(finished: Path, out: Path) -> str:
    """The commands of a run, a line each, for another folder that has its held-out pictures."""
    folder = RunFolder(finished)
    lines = [step.command for step in load_run(folder).steps if step.command]
    (out / "cpu").mkdir(parents=True)
    (out / "trt").mkdir()
    # What only `run` does takes no time, but the commands need what it made.
    (out / "classifier.onnx").write_bytes(folder.classifier.read_bytes())
    (out / folder.record.name).write_bytes(folder.record.read_bytes())
    if folder.training_list.exists():
        (out / "training.txt").write_bytes(folder.training_list.read_bytes())
        (out / "holdout").symlink_to(folder.holdout)
    return "\n".join(line.replace(str(finished), str(out)) for line in lines)


def separately(lines: str) -> None:
    """Each command in a process of its own."""
    for line in lines.splitlines():
        call(["-m", *shlex.split(line)])


def report(asked: argparse.Namespace, times: dict[str, list[float]]) -> None:
    """Medians, and `run` as a multiple of the others."""
    rows = []
    for name, seconds in times.items():
        multiple = f"{ratios(times, name, 'run'):.3f}" if name != "run" else "1"
        rows.append([name, f"{statistics.median(seconds):.2f}", multiple])
    multiple = ratios(times, "its stages, one process", "run")
    again = statistics.median(times["run again, nothing changed"])
    write_report(
        "run-overhead",
        "run against its stages",
        [
            f"{asked.student} at {asked.image_size} px, {asked.num_epochs} epochs, "
            f"{asked.rounds} rounds in turns; medians.",
            f"run / its stages in one process: {multiple:.3f} (at most {MOST_RATIO} was wanted); "
            f"again with nothing changed: {again:.2f} s (at most {MOST_SECONDS:.0f} s).",
        ],
        ("what", "seconds", "run takes so many times as long"),
        rows,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="run against its stages")
    parser.add_argument("--images", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--labelled")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--image-size", default="64")
    parser.add_argument("--num-epochs", default="5")
    parser.add_argument("--qat", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
