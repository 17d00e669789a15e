"""What `run` chooses from budgets on this machine: the student and the number of epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..core.durations import parse_duration
from ..core.errors import InputError
from ..core.progress import message
from ..core.wording import duration, many, megabytes, milliseconds
from ..formats.choice import Candidate, StudentChoice, load_choice, save_choice
from ..formats.probe import Probe
from ..models.students import AUTO, KNOWN
from .fingerprints import of_value
from .options import RunOptions
from .steps.step import fit_seconds

Measure = Callable[[str, int | None, float], Candidate]
"""(timm's name, side of the input, bytes per parameter) -> what it takes here."""


def with_student(options: RunOptions, path: Path, measure: Measure) -> RunOptions:
    """Replace --student auto by the most accurate known student that keeps to the budget.

    Args:
        options: of the run.
        path: where the choice is kept; a resumed run takes it from there.
        measure: measures a candidate.

    Raises:
        InputError: no known student keeps to the budget.
    """
    if options.student != AUTO:
        return options
    weight_bytes = 1 if options.shipped in ("int8", "sparse-int8") else 4
    limits = [options.max_latency, options.max_size, options.image_size, weight_bytes]
    of = of_value([*limits, [known.arch for known in KNOWN]])
    choice = load_choice(path, of)
    if choice is None:
        choice = _chosen(options, of, weight_bytes, measure)
        save_choice(path, choice)
        taken = choice.candidates[-1]
        message(
            f"Student: {taken.arch}, the most accurate of {len(KNOWN)} within the budget "
            f"({_figures(taken)}; FP32 in ONNX Runtime on this machine's CPU)"
        )
    return replace(options, student=choice.arch, max_latency=None, max_size=None)


def _chosen(options: RunOptions, of: str, weight_bytes: float, measure: Measure) -> StudentChoice:
    """Try the known students, the most accurate first.

    Raises:
        InputError: none keeps to the budget.
    """
    latency, size = options.max_latency, options.max_size
    tried: list[Candidate] = []
    for known in KNOWN:
        if size is not None and known.parameters * weight_bytes > 1.5 * size:
            tried.append(Candidate(known.arch, None, known.parameters * weight_bytes))
            continue  # far too large: not worth measuring
        found = measure(known.arch, options.image_size, weight_bytes)
        tried.append(found)
        fits = latency is None or (found.latency_ms or math.inf) <= latency
        if fits and (size is None or found.size_mb <= size):
            return StudentChoice(of, known.arch, tuple(tried))
    smallest = min(tried, key=lambda one: one.size_mb)
    fastest = min(tried, key=lambda one: one.latency_ms or math.inf)
    asked = [
        f"--max-latency {latency:g}" if latency is not None else "",
        f"--max-size {size:g}" if size is not None else "",
    ]
    nearest = dict.fromkeys(f"{one.arch} ({_figures(one)})" for one in (smallest, fastest))
    smaller = "" if latency is None else ", or a smaller --image-size"
    raise InputError(
        f"{' '.join(filter(None, asked))}: none of {len(KNOWN)} known students keeps to it. The "
        f"nearest: {' and '.join(nearest)}. Allow more{smaller}, or name a student of timm's."
    )


def _figures(candidate: Candidate) -> str:
    took, size = candidate.latency_ms, f"{megabytes(candidate.size_mb)} MB"
    return size if took is None else f"{milliseconds(took)} ms, {size}"


def with_epochs(options: RunOptions, probe: Probe | None, image_count: int) -> RunOptions:
    """Replace --time-budget by as many epochs as fit into it.

    Args:
        options: of the run.
        probe: of this machine.
        image_count: images to train on, or as many as a search may find.

    Raises:
        InputError: one epoch takes longer.
    """
    if options.time_budget is None or probe is None or not image_count:
        return options
    seconds = parse_duration(options.time_budget, "--time-budget")
    epoch = image_count * (1 - options.held_out) / probe.training_rate
    first = image_count / probe.decode_rate
    first += fit_seconds(probe, options.distill_options("dense"), image_count)
    epochs = int((seconds - first) / epoch)
    if epochs < 1:
        raise InputError(
            f"--time-budget {options.time_budget}: one epoch of {options.student} at "
            f"{probe.image_size} px over {many(image_count, 'image')} takes about "
            f"{duration(first + epoch)} on {probe.device}. Allow more "
            "time, or choose a smaller --image-size or --student."
        )
    return replace(options, num_epochs=epochs, time_budget=None)
