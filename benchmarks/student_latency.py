"""Size and latency of the students that `run --student auto` chooses from.

    python benchmarks/student_latency.py --sizes 96 224

Random weights: what a network takes does not depend on them.  One image at a time in ONNX Runtime
on the CPU, FP32, three rounds in turns; the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics

from reporting import write_report

from clipdistill.models.students import KNOWN
from clipdistill.pipeline.probe import measure_student

ROUNDS = 3
FP32_BYTES = 4


def main() -> None:
    """Measure every known student at every size, in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 224])
    sizes = parser.parse_args().sizes
    seconds: dict[tuple[str, int], list[float]] = {}
    megabytes: dict[str, float] = {}
    for _ in range(ROUNDS):
        for known in KNOWN:
            for side in sizes:
                found = measure_student(known.arch, side, FP32_BYTES)
                assert found.latency_ms is not None
                seconds.setdefault((known.arch, side), []).append(found.latency_ms)
                megabytes[known.arch] = found.size_mb
    lines = []
    for known in KNOWN:
        taken = [statistics.median(seconds[known.arch, side]) for side in sizes]
        cells = [f"{megabytes[known.arch]:.1f}", f"{megabytes[known.arch] / FP32_BYTES:.1f}"]
        cells += [f"{one:.2f}" for one in taken]
        lines.append([f"`{known.arch}`", f"{known.imagenet:.1f}%", *cells])
    columns = ["student", "ImageNet top-1 of its weights", "MB, FP32", "MB, INT8"]
    columns += [f"ms at {side} px" for side in sizes]
    notes = [
        f"Medians of {ROUNDS} rounds. ImageNet accuracies are timm's (src/clipdistill/models/",
        "students.py names the source); sizes are those of the weights.",
    ]
    write_report("student-latency", "Students by size and latency", notes, columns, lines)


if __name__ == "__main__":
    main()
