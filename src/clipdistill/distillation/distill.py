"""distill: images + the teacher's embeddings -> a student."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, MismatchError, OutputError
from ..core.launch import first_process
from ..core.locks import locked
from ..core.metrics import lost_nothing
from ..core.progress import message
from ..core.results import Result, Table, list_some
from ..core.signatures import PathOrUrl
from ..core.storage import location
from ..core.wording import many, percent
from ..formats.cards import Compression, Quantization, StudentCard, shipped_training
from ..formats.embeddings import CACHE, Failure, embeddings_at_hand
from ..formats.matched import Matched, match_embeddings
from ..formats.selection import load_selection
from ..formats.student import (
    CHECKPOINT,
    SAMPLE_IMAGES,
    WEIGHTS,
    is_student,
    load_card,
    load_checkpoint,
    load_weights,
    origin,
    save_card,
    save_samples,
)
from ..formats.text import TextEmbeddings
from ..images.loading import default_workers
from ..images.pixels import PixelCache
from ..images.sources import Listing, list_images
from ..models.class_list import load_class_list
from .options import BEFORE_CROPS, COMPRESSING, INT8_EPOCHS, DistillOptions

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from .batches import Order
    from .trainer import TrainingState
    from .validation import TrainingData

BYTES_PER_GB = 1e9
DAY = 86400.0
"""Seconds that processes wait for the one that decodes the images."""


@dataclass(frozen=True)
class StateMeasure:
    """How close a state of the network was to the teacher, on the held-out images.

    Attributes:
        state: "fitted", "dense", "sparse", "pruned", "trained" or "calibrated".
        val_cosine: as in `DistillResult`.
        val_agreement: share of held-out images with the teacher's label; None without any.
    """

    state: str
    val_cosine: float | None
    val_agreement: float | None


@dataclass(frozen=True, repr=False)
class DistillResult(Result):
    """What `distill` did.

    Attributes:
        out: the student's folder.
        arch: timm's name.
        dim: length of the embedding.
        image_size: side of the input, pixels.
        parameters: of the network.
        train_images: images trained on.
        val_images: images held out.
        epochs: finished.
        best_epoch: whose weights were kept, from 1; 0: no epoch was better than the student before
            training, the last of `before`, which was kept.
        val_cosine: mean cosine with the teacher on held-out images; None without any.
        val_agreement: share of them on which both choose the same label; None without prompts.
        not_kept: measures of the best epoch, where it was not kept; else None.
        before: the same measures before training: of pretrained weights with a fitted projection
            ("fitted"), of the student it started from ("dense" or "sparse"), after pruning without
            training ("pruned"), after 2:4 training ("trained"), and after calibration without
            training ("calibrated"); empty for a training from random weights.
        compression: what was done to the network; None: a plain one.
        not_embedded: images without an embedding.
        gone: embeddings without an image.
        failures: images that could not be used, each with its reason.
        resumed: whether an earlier run was continued, or found finished.
        seconds: of this run.
    """

    out: Path
    arch: str
    dim: int
    image_size: int
    parameters: int
    train_images: int
    val_images: int
    epochs: int
    best_epoch: int
    val_cosine: float | None
    val_agreement: float | None
    not_kept: StateMeasure | None
    before: tuple[StateMeasure, ...]
    compression: Compression | None
    not_embedded: int
    gone: int
    failures: tuple[Failure, ...]
    resumed: bool
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines: list[str | Table] = [
            f"{self.arch} ({self.parameters / 1e6:.1f} M parameters, {self.image_size} px, "
            f"{self.dim}-d): {many(self.epochs, 'epoch')} over "
            f"{many(self.train_images, 'image')}"
            f"{', continued' if self.resumed else ''}.",
        ]
        if self.val_cosine is not None:
            agreement = (
                ""
                if self.val_agreement is None
                else f", same label as the teacher {percent(self.val_agreement)}"
            )
            which = "" if self.not_kept else f" (epoch {self.best_epoch}, the best)"
            lines.append(
                f"On {self.val_images} held-out images{which}: mean cosine with the teacher "
                f"{self.val_cosine:.3f}{agreement}."
            )
        lines += _fitted_lines(self)
        if self.not_kept is not None:
            lines.append(
                f"The student before training ({STATES[self.before[-1].state]}) was kept, because "
                f"no epoch was better; the best one has the cosine {self.not_kept.val_cosine:.3f}."
            )
        if self.compression is not None:
            lines += _compression_lines(self)
        if self.not_embedded:
            lines.append(f"Left out, without an embedding: {many(self.not_embedded, 'image')}.")
        if self.gone:
            lines.append(f"{self.gone} embeddings have no image and were left out.")
        lines += list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures])
        return [*lines, f"Student: {self.out}"]


RANDOM_WEIGHTS = (
    "The student starts from random weights. Pretrained ones (--pretrained, or --student-weights "
    "FILE) give far more accuracy in the same time; docs/students.md has figures."
)
STATES = {
    "dense": "dense, as it was",
    "sparse": "2:4 sparse, as it was",
    "pruned": "pruned to 2:4, not trained",
    "trained": "2:4 sparse, trained",
    "calibrated": "INT8, calibrated, not trained",
}
"""What the states before training are called."""
MUCH_CLIPPED = 0.01
"""Share of a layer's weights beyond its range from which the layer is named."""


def _fitted_lines(result: DistillResult) -> list[str]:
    """Say how good the pretrained weights were with a fitted projection, before the training."""
    fitted = [one for one in result.before if one.state == "fitted"]
    if not fitted or fitted[0].val_cosine is None:
        return []
    same = fitted[0].val_agreement
    label = "" if same is None else f", same label {percent(same)}"
    return [
        f"Before the training, its projection fitted: cosine {fitted[0].val_cosine:.3f}{label}."
    ]


def _compression_lines(result: DistillResult) -> list[str | Table]:
    """What was done, what was left alone, and what each step cost."""
    from ..models.compression import describe, float_adds_note

    done = result.compression
    assert done is not None
    lines: list[str | Table] = [f"{describe(done)}."]
    for title, facts in (("Not pruned:", done.sparse), ("Not quantised:", done.int8)):
        if facts is not None:
            lines += list_some(title, [f"{name}: {why}" for name, why in facts.skipped], 5)
    lines += float_adds_note(done)
    lines += _clipped_lines(done.int8)
    if result.val_cosine is not None:
        lines += [_table_of_states(result), *_calibration_lines(result)]
    return lines


def _clipped_lines(int8: Quantization | None) -> list[str]:
    """Say how many weights training has moved beyond the ranges, which stay as calibrated."""
    if int8 is None or not int8.clipped_share:
        return []
    worst = [f"{name}: {percent(share)}" for name, share in int8.clipped if share >= MUCH_CLIPPED]
    return [
        f"Training moved {percent(int8.clipped_share, 2)} of the INT8 weights beyond their range, "
        "where they are clipped. A lower --lr moves fewer.",
        *list_some(f"Layers with {percent(MUCH_CLIPPED, 0)} or more:", worst, 5),
    ]


def _table_of_states(result: DistillResult) -> Table:
    kept = StateMeasure("", result.val_cosine, result.val_agreement)
    last = (f"trained, epoch {result.best_epoch}", kept)
    if result.not_kept is not None:
        last = ("trained, not kept", result.not_kept)
    rows = [
        (name, _figure(one.val_cosine), _figure(one.val_agreement))
        for name, one in (*((STATES[one.state], one) for one in result.before), last)
    ]
    columns = ("state", ">cosine with the teacher", ">same label")
    width = 3 if result.val_agreement is not None else 2
    return Table(
        "What each step cost, and what training recovered",
        columns[:width],
        tuple(row[:width] for row in rows),
    )


def _calibration_lines(result: DistillResult) -> list[str]:
    """Say where calibration cost nothing, so that INT8 needs no training."""
    if len(result.before) < 2 or result.before[-1].state != "calibrated":
        return []
    start, calibrated = result.before[-2:]
    if not lost_nothing(start.val_cosine, calibrated.val_cosine):
        return []
    return [
        "INT8 by calibration alone lost nothing: `clipdistill quantize` makes such a student "
        "without training."
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def distill(
    arch: str,
    images: PathOrUrl,
    embeddings: PathOrUrl,
    out: Path,
    options: DistillOptions = DistillOptions(),
) -> DistillResult:
    """Distil the teacher's embeddings into a small network.

    Can be stopped and run again at any time; it resumes from the last saved state and ends with
    exactly the same weights (on a CPU: bit for bit).  `accelerate launch` and `torchrun` over
    several processes and machines work, and a training may be resumed with another number of them.

    Args:
        arch: timm's name of the student, such as resnet18 or mobilenetv3_small_100.
        images: folder of images (or WebDataset tars), the one that was embedded, or its URL.
        embeddings: what `embed` wrote (or a folder of .npy files of the older scripts), or its URL.
        out: folder for the student.
        options: how to distil.

    Raises:
        InputError: images or embeddings are missing or empty, nothing matches, the student
            cannot be exported, or there are more processes than the batches can serve.
        MismatchError: dimensions, teachers, or the initial checkpoint do not fit.
        ModelNotFoundError: the student is unknown or its weights cannot be fetched.
        OutputError: `out` cannot be written, holds a student made with other settings, or another
            process is writing to it.
        TrainingError: the loss is no longer finite.
    """
    from ..models.student import check_arch
    from ..models.tracing import check_exportable
    from .fine_tuning import check_start, start_card

    images, embeddings, out = location(images), location(embeddings), Path(out)
    start = time.monotonic()
    check_arch(arch)
    options.check()
    embeddings = embeddings_at_hand(embeddings)
    pairs = _load_pairs(images, embeddings, options)
    text = None
    if options.prompts is not None:
        text = load_class_list(
            options.prompts, pairs.teacher, embeddings, device=options.device, ask_hub=True
        )
    parent = None if options.init_checkpoint is None else start_card(options.init_checkpoint)
    card = _new_card(arch, pairs, parent, options)
    with locked(out, "distill") if first_process() else contextlib.nullcontext():
        earlier = _check_output(out, card, options)
        if is_student(out):
            message(f"{out} is finished already.")
            return _result(out, load_card(out), pairs, {}, True, time.monotonic() - start)
        if earlier is None:
            check_start(options, card, parent)
        accelerator = _accelerator(options)
        network = _network(card, earlier, options)
        if earlier is None and not (options.pretrained or options.starts_from_file):
            message(RANDOM_WEIGHTS)
        if options.check_export and earlier is None and parent is None:
            check_exportable(network, card.preprocess.size, arch)
        cache = _pixel_cache(pairs, card, embeddings, options)
        _decode(cache, accelerator)
        data = _split(pairs, cache, text, options, accelerator.num_processes)
        card = _train(accelerator, network, data, card, options, out=out, earlier=earlier)
        if accelerator.is_main_process:
            save_samples(out, cache.gather(data.train[:SAMPLE_IMAGES])[0])
            save_card(out, card)
        _agree(cache)
        accelerator.end_training()
        return _result(
            out, card, pairs, cache.failures, earlier is not None, time.monotonic() - start
        )


def _chosen(items: Listing, only: Path | None) -> Listing:
    """Choose the images that a selection names; all without one.

    Raises:
        InputError: it names none of them.
    """
    if only is None:
        return items
    wanted = set(load_selection(only))
    mask = np.fromiter((key in wanted for key in items.keys), bool, len(items))
    chosen = items.take(np.flatnonzero(mask))
    if not chosen:
        raise InputError(
            f"{only} names none of the {many(len(items), 'image')}. It names images like "
            f"{min(wanted)!r}, the folder has images like {items[0].key!r}."
        )
    if len(chosen) < len(wanted):
        message(f"Named by {only}, but not there: {many(len(wanted) - len(chosen), 'image')}.")
    return chosen


def _load_pairs(images: Path, embeddings: Path, options: DistillOptions) -> Matched:
    """The images that are chosen, with the embeddings and the views that shall be replayed.

    Raises:
        InputError: there are too few, or fewer views than `options` names.
        MismatchError: the embeddings are not of the dimension that `options` names.
    """
    items = _chosen(list_images(images), options.only)
    pairs = _with_views(_pair(items, embeddings), options.views, embeddings)
    if options.output_dim is not None and options.output_dim != pairs.teacher.dim:
        raise MismatchError(
            f"--output-dim {options.output_dim}, but {embeddings} holds {pairs.teacher.dim}-d "
            "embeddings. Leave --output-dim away; it is found by itself."
        )
    return pairs


def _pair(items: Listing, root: Path) -> Matched:
    """Bring images and embeddings together by name.

    Raises:
        InputError: fewer than four images have an embedding.
    """
    found = match_embeddings(items, root)
    if len(found.items) < 4:
        raise InputError(
            f"Only {len(found.items)} of {many(len(items), 'image')} have an embedding in {root}. "
            f"The embeddings are of images named like {found.example!r}, the images are named like "
            f"{items[0].key!r}. Give the folder that was embedded, or run `clipdistill embed`."
        )
    return found


def _streamed(pairs: Matched, options: DistillOptions) -> bool:
    """Whether the images are read tar by tar: the buffer does not hold all of them."""
    return pairs.items.in_tars() is not None and len(pairs.items) > options.shuffle_buffer


def _with_views(pairs: Matched, count: int | None, embeddings: Path) -> Matched:
    """The pairs with the views that shall be replayed: all that are stored unless given.

    Raises:
        InputError: more views are asked for than are stored.
    """
    stored = 0 if pairs.views is None else pairs.views.spec.count
    if count is None or count == stored:
        return pairs
    if count > stored:
        raise InputError(
            f"--views {count}: {embeddings} holds "
            f"{many(stored, 'view') if stored else 'no views'} per image. Run "
            f"`clipdistill embed --views {count}` into another folder, or ask for fewer."
        )
    if count == 0 or pairs.views is None:
        return replace(pairs, views=None)
    return replace(pairs, views=pairs.views.first(count))


def _new_card(
    arch: str, pairs: Matched, parent: StudentCard | None, options: DistillOptions
) -> StudentCard:
    """The card of a student before its training; its input is that of `parent`, if any."""
    from ..models.student import default_preprocess

    known = pairs.teacher.fingerprint is not None
    geometry = pairs.teacher.preprocess if known else None
    preprocess = default_preprocess(arch, options.image_size, geometry)
    if parent is not None:
        preprocess = parent.preprocess.at_size(options.image_size or parent.preprocess.size)
    if options.init_checkpoint is not None and options.image_size is None:
        message(
            f"{options.init_checkpoint} does not record its image size: {preprocess.size} px, the "
            f"default of {arch}, is used. --image-size gives another."
            if parent is None
            else f"The input is that of {options.init_checkpoint}: {preprocess.geometry}."
        )
    compression = None if parent is None else parent.compression
    merged = compression is not None and compression.merged
    settings = _identity(options)
    if pairs.items.in_tars() is not None:
        settings["shuffle_buffer"] = options.shuffle_buffer
    return StudentCard(
        arch=arch,
        dim=pairs.teacher.dim,
        preprocess=preprocess,
        teacher=pairs.teacher if known else None,
        training={"options": settings, "data": pairs.fingerprint()},
        compression=Compression(merged=True) if merged else None,
    )


def _identity(options: DistillOptions) -> dict[str, Any]:
    """The settings that decide what is learnt; weights to start from by name and content."""
    sources = ((name, getattr(options, name)) for name in ("student_weights", "init_checkpoint"))
    return {
        **options.identity(),
        **{name: origin(source) for name, source in sources if source is not None},
    }


def _check_output(out: Path, card: StudentCard, options: DistillOptions) -> StudentCard | None:
    """The card of an earlier run of the same training in `out`; None without one.

    Raises:
        OutputError: it holds another one.
    """
    if is_student(out):
        found = load_card(out)
    elif (out / CHECKPOINT).is_file():
        checkpoint = load_checkpoint(out / CHECKPOINT)
        if "card" not in checkpoint:
            raise OutputError(
                f"{out / CHECKPOINT} was made by the older scripts and cannot be continued. "
                f"Choose another output folder; --init-checkpoint {out / CHECKPOINT} starts "
                "from its weights."
            )
        found = StudentCard.from_json(checkpoint["card"])
    else:
        return None
    difference = _difference(found, card, options)
    if difference:
        raise OutputError(
            f"{out} holds a student made differently: {difference}. Choose another output folder "
            "(--init-checkpoint starts from that student's weights), or delete this one."
        )
    return found


def _difference(found: StudentCard, wanted: StudentCard, options: DistillOptions) -> str:
    """Say in words how two trainings differ; empty when one continues the other."""
    if found.arch != wanted.arch:
        return f"it is a {found.arch}, not a {wanted.arch}"
    if found.preprocess != wanted.preprocess:
        return f"input {found.preprocess.geometry}, not {wanted.preprocess.geometry}"
    if found.training.get("data") != wanted.training["data"]:
        return "from other images or embeddings"
    # What a card leaves out (see `DistillOptions.identity`) has its default.
    defaults = {**DistillOptions().to_json(), **BEFORE_CROPS}
    theirs, ours = (shipped_training(one.training).get("options", {}) for one in (found, wanted))
    both = ours.pop(INT8_EPOCHS, None) and theirs.get("sparse") and theirs.get("qat")
    if both and INT8_EPOCHS not in theirs:
        return "trained for 2:4 and INT8 at once; now INT8 training follows 2:4 training"
    keys = [*ours, *(key for key in COMPRESSING if key in theirs and key not in ours)]
    pairs = [
        (key, theirs.get(key, defaults.get(key)), ours.get(key, defaults.get(key))) for key in keys
    ]
    by_default = [key for key in options.resolved if getattr(options, key) is None]
    changed = [
        f"--{key.replace('_', '-')} was {before}, now {now}"
        + (f" by default (--{key} {before} continues it)" if key in by_default else "")
        for key, before, now in pairs
        if before != now and not _is_older(before, now)
    ]
    return "; ".join(changed)


def _is_older(before: Any, now: Any) -> bool:
    """Whether `before` is a name as older cards have it, without the digest that `now` has."""
    return isinstance(before, str) and isinstance(now, str) and now.startswith(f"{before} (")


def _accelerator(options: DistillOptions) -> Accelerator:
    """accelerate's handle on device, precision and processes."""
    from datetime import timedelta

    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    from ..models.torch_embedder import resolve_device, resolve_precision

    device = resolve_device(options.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # accelerate keeps the first call's device and precision for the life of the process.
        AcceleratorState._reset_state(reset_partial_state=True)
    precision = resolve_precision(options.precision, device, training=True)
    # Decoding the images for the first time may take the first process hours.
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=DAY))
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[patience],
    )


def _network(
    card: StudentCard, earlier: StudentCard | None, options: DistillOptions
) -> torch.nn.Module:
    """The network to train: as `earlier`, whose training is resumed, or with initial weights."""
    if earlier is not None and earlier.compression is not None:
        from ..models.compression import rebuild

        return rebuild(card.arch, card.dim, card.preprocess.size, earlier.compression)
    return _initial_network(card, options)


def _initial_network(card: StudentCard, options: DistillOptions) -> torch.nn.Module:
    """Build the student and give it its initial weights, the same for the same seed.

    It is merged where the student to start from is merged.
    """
    import torch

    from ..models.compression.merging import merge_unchecked
    from ..models.student import build_student, check_size, load_backbone_weights, load_state

    torch.manual_seed(options.seed)
    network = build_student(
        card.arch,
        card.dim,
        image_size=card.preprocess.size,
        pretrained=options.pretrained and not options.starts_from_file,  # which replaces all
        ask_hub=True,
    )
    check_size(network, card.arch, card.preprocess.size)
    if card.compression is not None and card.compression.merged:
        merge_unchecked(network)
    if options.student_weights is not None:
        load_backbone_weights(network, options.student_weights)
    if options.init_checkpoint is not None:
        source = options.init_checkpoint
        if source.is_dir():
            source = source / (WEIGHTS if (source / WEIGHTS).is_file() else CHECKPOINT)
        load_state(network, load_weights(source), source)
    return network


def _pixel_cache(
    pairs: Matched, card: StudentCard, embeddings: Path, options: DistillOptions
) -> PixelCache:
    folder = options.cache_dir or embeddings / CACHE
    workers = default_workers() if options.num_workers is None else options.num_workers
    return PixelCache(
        folder,
        pairs.items,
        pairs.contents,
        card.preprocess,
        workers=workers,
        views=None if pairs.views is None else pairs.views.shown,
        limit_bytes=int(options.cache_gb * BYTES_PER_GB),
        partial=not _streamed(pairs, options),
    )


def _decode(cache: PixelCache, accelerator: Accelerator) -> None:
    """Fill the cache: one process per machine decodes, the others then read what it wrote.

    Machines that share the folder take turns, and the second one finds everything done.
    """
    from accelerate.utils import gather_object

    # The free disk decides how much fits: all processes use what fits on every machine.
    cache.cached = min(gather_object([cache.cached]))
    if accelerator.is_local_main_process:
        with locked(cache.folder, "distill", DAY) if cache.cached else contextlib.nullcontext():
            cache.build()
    accelerator.wait_for_everyone()
    if not accelerator.is_local_main_process:
        cache.build()
    _agree(cache)


def _agree(cache: PixelCache) -> None:
    """Give every process the failures of all, so that all leave out the same images."""
    from accelerate.utils import gather_object

    for found in gather_object([cache.failures]):
        cache.failures |= found


def _split(
    pairs: Matched,
    cache: PixelCache,
    text: TextEmbeddings | None,
    options: DistillOptions,
    processes: int,
) -> TrainingData:
    from .batches import split_rows
    from .validation import TrainingData

    train, val = split_rows(pairs.items.keys, options.val_fraction, options.seed)
    failed = np.array(sorted(cache.failures), dtype=np.intp)
    train, val = np.setdiff1d(train, failed), np.setdiff1d(val, failed)
    least = max(4, 2 * processes)
    if len(train) < least:
        reasons = [f"{pairs.items[row].key}: {why}" for row, why in cache.failures.items()]
        raise InputError(
            "\n".join(
                [
                    f"Only {many(len(train), 'image')} left to learn from; expected {least} or "
                    "more. Add images, or repair those that cannot be read and run `clipdistill "
                    "embed` again.",
                    *list_some("Not readable, the first:", reasons, 5),
                ]
            )
        )
    order = _order(pairs, cache, train, options)
    order.steps(processes)
    return TrainingData(cache, pairs.targets, train, val, order, text, pairs.views)


def _order(
    pairs: Matched, cache: PixelCache, train: NDArray[np.intp], options: DistillOptions
) -> Order:
    """The order of the images to learn from: tar by tar where `options` say so, else shuffled."""
    from .batches import ShuffledOrder
    from .streams import StreamedOrder

    views = 0 if pairs.views is None else pairs.views.spec.count
    size, seed = options.batch_size, options.seed
    stored = pairs.items.in_tars()
    if stored is None or not _streamed(pairs, options):
        return ShuffledOrder(train, batch_size=size, seed=seed, views=views)
    return StreamedOrder(
        train,
        stored[0][train],
        stored[1][train],
        None if cache.cached == len(pairs.items) else pairs.items,
        batch_size=size,
        buffer=options.shuffle_buffer,
        seed=seed,
        views=views,
    )


def _train(
    accelerator: Accelerator,
    network: torch.nn.Module,
    data: TrainingData,
    card: StudentCard,
    options: DistillOptions,
    *,
    out: Path,
    earlier: StudentCard | None,
) -> StudentCard:
    """Train, with the projection fitted, or pruned and calibrated, before where `options` say so.

    Returns the finished card.

    `network` has its initial weights, or the structure of `earlier`, whose training is resumed.
    """
    from ..models.compression import rebuild
    from .fine_tuning import begin
    from .projection import fit_projection
    from .trainer import Start, Trainer
    from .validation import Validator

    stages, start, state = options.stages(), Start(), None
    validator = Validator(accelerator, data, card.preprocess, options.batch_size)
    if earlier is not None:
        card = replace(card, compression=earlier.compression)
    if card.compression is not None and card.compression.int8 is not None:
        stages = stages[-1:]
    for stage in stages:
        if state is not None:  # from the student that the stage before has kept
            accelerator.free_memory()
            network = rebuild(card.arch, card.dim, card.preprocess.size, card.compression)
            network.load_state_dict(state.best_model)
        if earlier is None and options.init_checkpoint is not None:
            compression, start = begin(network, card, data, validator, stage, state)
            card = replace(card, compression=compression)
        elif earlier is None and options.fits_projection:
            rows = fit_projection(network, data, card, validator, options)
            start = Start(rows=rows)  # not counted: see `fit_projection`
        resume, earlier = earlier is not None, None
        trainer = Trainer(accelerator, network, data, card, out, stage, start=start, resume=resume)
        state = trainer.run()
    assert state is not None
    return _finished_card(card, state, data, network)


def _finished_card(
    card: StudentCard, state: TrainingState, data: TrainingData, network: torch.nn.Module
) -> StudentCard:
    outcome = {
        "epochs": state.epochs,
        "best": state.kept,
        "before": [row for row in state.before if "state" in row],
        "train_images": len(data.train),
        "val_images": len(data.val),
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": {name: version(name) for name in ("clipdistill", "torch", "timm")},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if state.best_epoch < 0:
        outcome["best_trained"] = max(state.history, key=lambda row: row["val_cosine"])
    compression = _as_kept(card.compression, state)
    return replace(card, training={**card.training, **outcome}, compression=compression)


def _as_kept(compression: Compression | None, state: TrainingState) -> Compression | None:
    """The compression of the state that was kept: whether it was trained, and what is clipped."""
    from ..models.compression.quantization import clipped_shares

    if compression is None or compression.int8 is None:
        return compression
    share, layers = clipped_shares(state.best_model)
    trained = "state" not in state.kept
    facts = replace(compression.int8, trained=trained, clipped_share=share, clipped=layers)
    return replace(compression, int8=facts)


def _result(
    out: Path,
    card: StudentCard,
    pairs: Matched,
    failures: dict[int, str],
    resumed: bool,
    seconds: float,
) -> DistillResult:
    training, best = card.training, card.training["best"]
    return DistillResult(
        out=out,
        arch=card.arch,
        dim=card.dim,
        image_size=card.preprocess.size,
        parameters=training["parameters"],
        train_images=training["train_images"],
        val_images=training["val_images"],
        epochs=training["epochs"],
        best_epoch=0 if "best_trained" in training else best["epoch"],
        val_cosine=best.get("val_cosine"),
        val_agreement=best.get("val_agreement"),
        not_kept=_measure(training["best_trained"]) if "best_trained" in training else None,
        before=tuple(_measure(row) for row in training.get("before", [])),
        compression=card.compression,
        not_embedded=pairs.not_embedded,
        gone=pairs.gone,
        failures=tuple(Failure(pairs.items[row].key, why) for row, why in failures.items()),
        resumed=resumed,
        seconds=seconds,
    )


def _measure(row: dict[str, Any]) -> StateMeasure:
    return StateMeasure(
        row.get("state", "trained"), row.get("val_cosine"), row.get("val_agreement")
    )
