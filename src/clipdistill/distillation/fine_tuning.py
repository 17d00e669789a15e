"""From a finished student to the start of another training: checks, pruning, calibration.

What each step costs is measured as it happens: the student as it was, after pruning, after
calibration (which is what post-training quantisation gives), and the training then adds its own.
The last of these states is kept where no epoch of the training is better.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import InputError, MismatchError
from ..core.files import describing
from ..core.progress import message, track
from ..formats.cards import Compression, StudentCard
from ..formats.student import CHECKPOINT, WEIGHTS, is_student, load_card, load_checkpoint
from ..images.preprocess import Preprocess
from ..models.compression import Compressed, add_int8, add_sparsity, check_int8
from ..models.compression.sparsity import found_sparsity, masks_of
from ..models.torch_embedder import memory_layout, to_input
from .batches import some_rows
from .options import DistillOptions
from .trainer import Start, TrainingState
from .validation import TrainingData, Validator

AMAX = "_quantizer._amax"
"""Ending of the names of a quantiser's range in a state dict."""


def check_start(options: DistillOptions, card: StudentCard, found: StudentCard | None) -> None:
    """Check that a training can start from `options.init_checkpoint`.

    Args:
        options: how to train.
        card: what is to be trained.
        found: the card of what it starts from, if there is one (see `start_card`).

    Raises:
        InputError: it is quantised already, or this student cannot be INT8.
        MismatchError: it is another architecture.
        MissingExtraError: INT8, and ModelOpt is not installed.
    """
    source = options.init_checkpoint
    if source is None:
        return
    if found is not None and found.arch != card.arch:
        raise MismatchError(
            f"--init-checkpoint {source} is a {found.arch}, not a {card.arch}: a checkpoint of "
            f"another architecture. Train a {found.arch}, or start from another student."
        )
    compression = None if found is None else found.compression
    if compression is not None and compression.int8 is not None:
        raise InputError(already_quantized(source))
    if compression is not None and compression.sparse is not None and not options.compresses:
        message(f"{source} is 2:4 sparse; trained without --sparse or --qat it becomes dense.")
    if options.qat:
        check_int8(card.arch, card.dim, card.preprocess.size)


def start_card(source: Path) -> StudentCard | None:
    """The card of a student's folder, weights or checkpoint; None where it has none.

    Raises:
        InputError: it does not exist, or has quantised weights without a card.
    """
    if source.is_dir() and is_student(source):
        return load_card(source)
    if source.name == WEIGHTS and is_student(source.parent):
        return load_card(source.parent)
    path = source / CHECKPOINT if source.is_dir() else source
    if path.suffix == ".safetensors" or not path.is_file():
        if not source.exists():
            raise InputError(f"{source}: no such checkpoint.")
        return None
    saved = load_checkpoint(path)
    model = saved.get("model")
    if "card" in saved:
        with describing(path):
            return StudentCard.from_json(saved["card"])
    if isinstance(model, dict) and any(str(name).endswith(AMAX) for name in model):
        raise InputError(already_quantized(source))
    return None


def already_quantized(source: Path) -> str:
    """The sentence for a student that is INT8 where one in floating point is needed."""
    return (
        f"{source} is quantised already (INT8). Start from the student in floating point that it "
        "was made from."
    )


def begin(
    network: torch.nn.Module,
    card: StudentCard,
    data: TrainingData,
    validator: Validator,
    options: DistillOptions,
    before: TrainingState | None = None,
) -> tuple[Compression | None, Start]:
    """Measure a student, and prune or quantise it as the options say, measuring again.

    Args:
        network: with the weights of the student to start from; changed in place.
        card: what is to be trained; its sparsity is that of `network`, if it is known.
        data: training and held-out images.
        validator: measures.
        options: how to train, either 2:4 or INT8 (see `DistillOptions.stages`).
        before: the stage that made `network`; None for a finished student.

    Returns:
        The compression of what is to be trained, and what its training begins with.
    """
    size = card.preprocess.size
    network.to(validator.device).to(memory_format=memory_layout(network))
    known = None if card.compression is None else card.compression.sparse
    sparse = known or found_sparsity(network, size)
    rows = [_row("dense" if sparse is None else "sparse", validator(network))]
    done = Compressed(network, card.compression or Compression())
    if options.sparse:
        shown = some_rows(data.train, options.calibration_images, options.seed)
        images = functools.partial(_batches, data, shown, network, card.preprocess, options)
        compensates = sparse is None and options.sparse_from == "compensated"
        done = add_sparsity(done, size, images if compensates else None)
        rows.append(_row("pruned", validator(network)))
    elif options.qat:
        if sparse is not None:
            facts = replace(done.compression, sparse=sparse)
            done = Compressed(network, facts, masks_of(network, sparse))
        chosen = some_rows(data.train, options.calibration_images, options.seed)
        batches = _batches(data, chosen, network, card.preprocess, options)
        done = add_int8(done, size, card.arch, batches, len(chosen), options.calibration)
        int8 = done.compression.int8
        assert int8 is not None
        trained = replace(done.compression, int8=replace(int8, trained=True))
        done = replace(done, compression=trained)
        rows.append(_row("calibrated", validator(network)))
    network.train()
    start = Start(
        masks=done.masks,
        rows=rows if before is None else _after(before, rows),
        # Without --sparse and --qat, a 2:4 student shall become dense.
        counts=options.compresses or sparse is None,
    )
    return (done.compression if options.compresses else card.compression), start


def _after(before: TrainingState, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a stage before it and of this one, which begins with what that one kept."""
    trained = "state" not in before.kept
    first = [{**rows[0], "state": "trained"}] if trained else []  # else it is the row "pruned"
    return [*before.rows, *({**row, "epoch": before.epochs} for row in (*first, *rows[1:]))]


def _row(state: str, measured: dict[str, float]) -> dict[str, Any]:
    return {"epoch": 0, "state": state, **measured}


def _batches(
    data: TrainingData,
    rows: np.ndarray[Any, Any],
    network: torch.nn.Module,
    preprocess: Preprocess,
    options: DistillOptions,
) -> Iterator[torch.Tensor]:
    device = next(network.parameters()).device
    with track("calibrate", len(rows), "images") as step:
        for start in range(0, len(rows), options.batch_size):
            some = rows[start : start + options.batch_size]
            pixels, _ = data.pixels.gather(some)
            inputs = to_input(torch.from_numpy(pixels).to(device), preprocess)
            yield inputs.contiguous(memory_format=memory_layout(network))
            step(len(some))
