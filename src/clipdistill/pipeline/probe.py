"""A short probe of teacher and student on this machine, for estimates of time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.wording import many
from ..formats.choice import Candidate
from ..formats.probe import Probe
from ..images.loading import default_workers, load_pixels, stack
from ..images.preprocess import Preprocess
from ..images.sources import ImageItem
from ..images.synthetic import smooth_pixels
from .fingerprints import of_value
from .options import RunOptions

IMAGES = 32
"""Images to measure with, spread over the folder."""
BATCH = 16
"""Images per forward pass of the teacher."""
PATIENCE, MOST_RUNS = 2.0, 6
"""Seconds, and runs, after which each of the two measurements stops."""
DIM = 512
"""Length of the embedding of a student that is only timed; other ones change little."""
UNKNOWN_RATE = 1e6
"""Of decoding images that are not there yet: it costs nothing in the estimate."""


def what_is_probed(options: RunOptions) -> str:
    """A fingerprint of everything that speed depends on, except the images."""
    chosen = (options.teacher, options.student, options.image_size, options.batch_size)
    weights = str(options.student_weights or options.pretrained)
    optimizer = options.distill_options("dense").optimizer_name
    return of_value([*chosen, options.device, options.precision, optimizer, weights])


def probe(items: Sequence[ImageItem] | None, options: RunOptions) -> Probe:
    """Embed a few images with the teacher, and train the student for a few steps.

    Args:
        items: the images; None: drawn ones stand for them.
        options: of the run.

    Raises:
        ModelNotFoundError: teacher or student is unknown, or its weights cannot be had.
        InputError: the device does not exist, or no image can be read.
        MissingExtraError: the extra `train` is not installed.
    """
    start = time.monotonic()
    from ..models.teacher import load_teacher

    model_name, pretrained = options.teacher_name()
    teacher = load_teacher(model_name, pretrained, device=options.device)
    loaded = time.monotonic() - start
    pixels, decode_rate = _decode(items, teacher.card.preprocess, options.num_workers)
    some = pixels[:BATCH]
    teacher_rate = _rate(lambda: teacher.images.embed_pixels(some), len(some))
    side, parameters, training_rate = _training_rate(options, teacher.card.dim)
    device = str(teacher.images.device)
    return Probe(
        what_is_probed(options),
        time.monotonic() - start,
        loaded,
        decode_rate,
        teacher_rate,
        training_rate,
        teacher.card.dim,
        side,
        parameters,
        device,
    )


def _decode(
    items: Sequence[ImageItem] | None, preprocess: Preprocess, num_workers: int | None
) -> tuple[NDArray[np.uint8], float]:
    """A few images, and how many are decoded per second.

    Raises:
        InputError: none of them can be read.
    """
    if items is None:
        return smooth_pixels(IMAGES, preprocess.size), UNKNOWN_RATE
    workers = default_workers() if num_workers is None else num_workers
    spread = np.linspace(0, len(items) - 1, min(IMAGES, len(items))).astype(int)
    some = [items[index] for index in spread]
    start = time.monotonic()
    loaded = list(load_pixels(some, preprocess, workers=workers))
    rate = len(some) / max(1e-6, time.monotonic() - start)
    good = [one for one in loaded if one.pixels is not None]
    if not good:
        raise InputError(
            f"None of {many(len(some), 'image')} that were tried can be read, such as "
            f"{loaded[0].item.key}: {loaded[0].reason}."
        )
    return stack(good), rate


def _rate(run: Callable[[], object], images: int) -> float:
    """Images per second of a function at its fastest: so short a probe is easily disturbed.

    The first run warms up, and counts if it is the only one.
    """
    seconds: list[float] = []
    while len(seconds) < MOST_RUNS and sum(seconds) < PATIENCE:
        start = time.monotonic()
        run()
        seconds.append(time.monotonic() - start)
    return images / max(1e-6, min(seconds[1:] or seconds))


def _training_rate(options: RunOptions, dim: int) -> tuple[int, int, float]:
    """Side of the student's input, its parameters, images per second of training steps.

    Pretrained weights are loaded as well: if they are missing, that is known before hours of work.
    """
    import torch

    from ..distillation.losses import LossContext, distillation_loss
    from ..distillation.optimizer import make_optimizer
    from ..models.student import (
        build_student,
        check_arch,
        check_size,
        default_preprocess,
        load_backbone_weights,
    )
    from ..models.torch_embedder import autocast, memory_layout, resolve_device, resolve_precision

    check_arch(options.student)
    weights = options.student_weights
    size = default_preprocess(options.student, options.image_size, None).size
    fetch = options.pretrained and weights is None
    network = build_student(options.student, dim, image_size=size, pretrained=fetch, ask_hub=True)
    if weights is not None:
        load_backbone_weights(network, weights)
    check_size(network, options.student, size)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device, training=True)
    layout = memory_layout(network)
    network = network.to(device).to(memory_format=layout).train()
    optimizer = make_optimizer(network, options.distill_options("dense"))
    batch = options.batch_size
    pixels = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    target = torch.nn.functional.normalize(torch.rand(batch, dim, device=device), dim=-1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            output = network(pixels)
        context = LossContext(torch.ones(batch, device=device))
        loss = distillation_loss("cosine", output, target, context)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())  # waits for a GPU

    return size, sum(p.numel() for p in network.parameters()), _rate(step, batch)


def measure_student(arch: str, image_size: int | None, weight_bytes: float) -> Candidate:
    """Measure a student with random weights: what it takes does not depend on them.

    Args:
        arch: timm's name.
        image_size: side of the input in pixels; None: the network's own.
        weight_bytes: bytes per parameter in the classifier that is shipped.

    Raises:
        MissingExtraError: a package that exports is not installed.
        ClipDistillError: torch cannot export the network.
    """
    from ..deploy.latency import latency_ms
    from ..models.student import build_student, default_preprocess

    side = default_preprocess(arch, image_size, None).size
    network = build_student(arch, DIM, image_size=side).eval()
    parameters = sum(one.numel() for one in network.parameters())
    return Candidate(arch, latency_ms(network, DIM, side, arch), parameters * weight_bytes / 1e6)
