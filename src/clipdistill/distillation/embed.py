"""embed: images -> the teacher's embeddings."""

from __future__ import annotations

import collections
import contextlib
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, OptionError, OutputError
from ..core.files import ensure_folder
from ..core.locks import locked
from ..core.processes import Outcome, run_processes
from ..core.progress import message, track
from ..core.results import Result, Table, list_some
from ..core.signatures import PathOrUrl
from ..core.stopping import postponed
from ..core.storage import RemotePath, absolute_name, location
from ..core.wording import many
from ..formats.embeddings import (
    EmbeddingStore,
    Failure,
    Header,
    write_shard_rows,
    write_vectors,
)
from ..formats.img2dataset import failed_downloads
from ..formats.parts import (
    Plan,
    ShardStats,
    begin_part,
    done_parts,
    end_plan,
    fail_part,
    finish_part,
    is_done,
    next_number,
    part_path,
    read_part,
    read_plan,
    read_stats,
    running_parts,
    write_part,
    write_plan,
)
from ..formats.rows import Row
from ..images.loading import Loaded, batched, default_workers, load_pixels, stack
from ..images.sources import ImageItem, Listing, images_folder, list_images
from ..images.views import MOST_VIEWS, ViewSpec
from ..models.teachers import DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED, license_note
from .embed_resume import Resumption, append_moved, gone_images, plan_resume

if TYPE_CHECKING:
    from ..models.teacher import Teacher


@dataclass(frozen=True, repr=False)
class EmbedResult(Result):
    """What `embed` did.

    Attributes:
        out: the folder of embeddings.
        teacher: teacher that made them.
        license: of the teacher's weights, an SPDX-like identifier; empty when unknown.
        images: images found.
        embedded: images embedded in this run.
        kept: images that were embedded before.
        moved: images whose bytes were embedded before under another name.
        gone: embeddings whose image is no longer there (kept; `distill` leaves them out).
        failures: images that could not be used, each with its reason.
        seconds: of embedding, without loading the teacher.
        waiting: shards of a shared folder that other jobs still have to embed.
    """

    out: Path
    teacher: str
    license: str
    images: int
    embedded: int
    kept: int
    moved: int
    gone: int
    failures: tuple[Failure, ...]
    seconds: float
    waiting: int = 0

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        rate = f" ({self.embedded / self.seconds:.0f} images/s)" if self.seconds > 0.1 else ""
        lines: list[str | Table] = [
            f"{many(self.embedded, 'image')} embedded{rate}, {self.kept} kept from before, "
            f"{self.moved} found again under a new name, {len(self.failures)} failed; "
            f"teacher {self.teacher}.",
        ]
        if self.gone:
            lines.append(f"{self.gone} embeddings belong to images that are gone; they are kept.")
        lines += list_some("Not used:", [f"{f.image_path}: {f.reason}" for f in self.failures])
        if self.waiting:
            lines.append(
                f"{self.waiting} shards are left for other jobs; the last one completes the folder."
            )
        lines.append(f"Embeddings: {self.out}")
        return lines


def embed(
    images: PathOrUrl,
    out: PathOrUrl,
    *,
    model_name: str = DEFAULT_MODEL_NAME,
    pretrained: str = DEFAULT_PRETRAINED,
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    layout: Literal["clip-retrieval", "npy"] = "clip-retrieval",
    dtype: Literal["float16", "float32"] = "float16",
    normalize: bool = True,
    shard_size: int = 4096,
    views: int = 0,
    view_seed: int = 0,
    recheck: bool = False,
    workers: int = 1,
    shard_index: int | None = None,
    shard_count: int | None = None,
    ray: str | None = None,
) -> EmbedResult:
    """Embed images with a teacher.

    Can be stopped and run again at any time: what is embedded is kept, new images are appended,
    changed ones are embedded anew, renamed ones are recognised by their content.

    Args:
        images: folder of images (searched recursively), or WebDataset tars; also a glob, braces
            as in shards/{00000..00123}.tar, or a URL such as s3://bucket/shards.
        out: folder for the embeddings, or its URL.
        model_name: open_clip's name of the teacher, hf-hub:ORG/REPO or local-dir:FOLDER.
        pretrained: open_clip's weights tag or a weights file (not for hf-hub and local-dir).
        batch_size: images a forward pass.
        num_workers: threads that decode; default: one a processor.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the forward pass; auto is fp16 on CUDA, fp32 elsewhere.
        layout: clip-retrieval's shards, or one .npy an image (the older scripts').
        dtype: of the stored vectors (layout npy: always float32).
        normalize: store vectors of unit length.
        shard_size: images per shard; a kill loses at most these.
        views: views per image to embed as well, for `distill` to replay: seeded crops, mirrorings
            and mild colour changes. Each costs as much as the image itself. 0: none.
        view_seed: seed of the views.
        recheck: compare the content of every image with what was embedded, also where name, size
            and time are the same.
        workers: processes that embed; each loads the teacher. With --ray: actors.
        shard_index: number of this job, from 0, of --shard-count jobs that embed into the same
            folder, such as those of a Slurm array. Each embeds its share of the shards.
        shard_count: number of these jobs.
        ray: embed on a Ray cluster: its address, "auto" for the running one, or "local" to start
            one on this machine.

    Raises:
        InputError: the folder is missing, empty, or no image can be read.
        ModelNotFoundError: the teacher is unknown or cannot be fetched.
        MismatchError: `out` holds embeddings of another teacher.
        OutputError: `out` cannot be written to, or another process is writing to it.
    """
    images, out = location(images), location(out)
    spec = _view_spec(views, view_seed, layout)
    if layout == "npy" and isinstance(out, RemotePath):
        raise OptionError(
            f"--layout npy writes to folders of this machine only, not to {out}. Use "
            "--layout clip-retrieval."
        )
    if isinstance(out, RemotePath):
        ensure_folder(out)  # says at once what is wrong with it
    shared = workers > 1 or ray is not None or shard_count is not None
    _check_sharing(workers, shard_index, shard_count, layout if shared else "", shard_size)
    items = list_images(images)
    shared = shared or read_plan(out) is not None
    with contextlib.nullcontext() if shared else locked(out, "embed"):
        from ..models.teacher import load_teacher

        teacher = load_teacher(model_name, pretrained, device=device, precision=precision)
        note = license_note(str(teacher.card), teacher.card.license)
        if note:
            message(note)
        stored = "float32" if layout == "npy" else dtype
        header = Header(teacher.card, layout, stored, normalize, spec)
        if shared:
            ensure_folder(out)
            model = _Model(model_name, pretrained, device, precision)
            crew = _Crew(workers, num_workers, shard_index or 0, shard_count or 1, ray)
            request = _Request(images, items, out, batch_size, shard_size, recheck)
            return _embed_shared(request, header, teacher, model, crew)
        decoders = default_workers() if num_workers is None else num_workers
        store = EmbeddingStore(out, header)
        plan = plan_resume(items, store, recheck)
        if plan.kept:
            message(f"{plan.kept} of {len(items)} images are embedded already.")
        append_moved(store, plan.moves, shard_size)
        start = time.monotonic()
        failures = [
            *plan.failures,
            *_embed_all(teacher, store, plan.todo, batch_size, decoders, shard_size),
        ]
        seconds = time.monotonic() - start
        embedded = len(plan.todo) - len(failures) + len(plan.failures)
        failures += _failed_downloads(images, items)
        _check_any(images, items, store, failures)
        store.finish(failures)
        gone = gone_images(items, store)
    return EmbedResult(
        out=out,
        teacher=str(teacher.card),
        license=teacher.card.license,
        images=len(items),
        embedded=embedded,
        kept=plan.kept,
        moved=plan.moved,
        gone=gone,
        failures=tuple(failures),
        seconds=seconds,
    )


def _failed_downloads(images: Path, items: Listing) -> list[Failure]:
    """What img2dataset could not download, if the images are its output."""
    return failed_downloads(images if images.is_dir() else None, items.tars())


def _view_spec(views: int, seed: int, layout: str) -> ViewSpec | None:
    """The views to embed; None: none.

    Raises:
        InputError: the options cannot be used.
    """
    if views == 0:
        return None
    if not 1 <= views <= MOST_VIEWS:
        raise OptionError(f"--views {views}: expected 0 to {MOST_VIEWS}.")
    if seed < 0:
        raise OptionError(f"--view-seed {seed}: expected 0 or more.")
    if layout == "npy":
        raise OptionError(
            "--views needs --layout clip-retrieval: layout npy has one vector per image."
        )
    return ViewSpec(views, seed)


def _check_any(
    images: Path, items: Sequence[ImageItem], store: EmbeddingStore, failures: Sequence[Failure]
) -> None:
    """Refuse to call a store complete that holds nothing."""
    if not store.count:
        reasons = [f"{f.image_path}: {f.reason}" for f in failures]
        raise InputError(
            "\n".join(
                [
                    f"{images}: none of its {many(len(items), 'image')} can be read.",
                    *list_some("The first:", reasons, 5),
                ]
            )
        )


def _embed_all(
    teacher: Teacher,
    store: EmbeddingStore,
    todo: Sequence[ImageItem],
    batch_size: int,
    workers: int,
    shard_size: int,
) -> list[Failure]:
    """Embed `todo` and append it shard by shard; returns the failures."""
    failures: list[Failure] = []
    shard = _Shard()
    spec = store.header.views
    parts = range(0, len(todo), shard_size)
    # Views wait decoded as well: fewer images at once, the same memory.
    ahead = max(1, 4 * batch_size // (1 + (spec.count if spec else 0)))
    loaded = load_pixels(todo, teacher.card.preprocess, workers=workers, ahead=ahead, views=spec)
    with track("embed", len(todo), "images") as step:
        try:
            for _ in parts:
                # Batches begin anew with each part, as in `embed_shard`: the vectors are the same.
                for good, bad in batched(itertools.islice(loaded, shard_size), batch_size):
                    failures += [Failure(one.item.key, one.reason) for one in bad]
                    if good:
                        failures += shard.add(teacher, store.header, good, batch_size)
                    step(len(good) + len(bad), f"{len(failures)} failed" if failures else "")
                shard.flush(store)
        except KeyboardInterrupt:
            shard.flush(store)
            raise
        shard.flush(store)
    return failures


@dataclass
class _Shard:
    """Embedded images that are not yet written.

    Attributes:
        rows: the images.
        vectors: float32 (n, D) each.
        views: (embeddings float32 (n, K, D), parameters float32 (n, K, 8)) each; none without.
    """

    rows: list[Row] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    views: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def add(
        self, teacher: Teacher, header: Header, good: Sequence[Loaded], batch_size: int
    ) -> list[Failure]:
        """Embed one batch; returns the images whose embedding is not finite."""
        tower = teacher.images
        embed_batch = tower.embed_pixels if header.normalized else tower.raw_pixels
        vectors = embed_batch(stack(good))
        # Checked as stored: raw outputs may be too large for float16.
        with np.errstate(over="ignore"):
            finite: NDArray[np.bool_] = np.isfinite(vectors.astype(header.dtype)).all(axis=1)
        seen: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        if header.views is not None:
            pixels = np.concatenate([one.views for one in good if one.views is not None])
            parts = [
                embed_batch(pixels[start : start + batch_size])
                for start in range(0, len(pixels), batch_size)
            ]
            embedded = np.concatenate(parts).reshape(len(good), header.views.count, -1)
            with np.errstate(over="ignore"):
                finite &= np.isfinite(embedded.astype(header.dtype)).all(axis=(1, 2))
            drawn = np.stack([one.parameters for one in good if one.parameters is not None])
            seen.append((embedded[finite], drawn[finite]))
        items = [(one.item, one.content) for one, fine in zip(good, finite, strict=True) if fine]
        with postponed():  # all three or none
            self.rows += [Row(it.key, content, it.size, it.mtime_ns) for it, content in items]
            self.vectors.append(vectors[finite])
            self.views += seen
        reason = "its embedding is not finite; try --precision fp32 --dtype float32"
        return [
            Failure(one.item.key, reason)
            for one, fine in zip(good, finite, strict=True)
            if not fine
        ]

    def flush(self, store: EmbeddingStore) -> None:
        """Write what there is as one shard, whole even when it is stopped meanwhile."""
        if not self.rows:
            return
        views = None
        if self.views:
            embeddings, parameters = zip(*self.views, strict=True)
            views = (np.concatenate(embeddings), np.concatenate(parameters))
        with postponed():  # what was written must not be written again
            store.append(self.rows, np.concatenate(self.vectors), views)
            self.rows.clear()
            self.vectors.clear()
            self.views.clear()

    def joined(
        self,
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.float32], NDArray[np.float32]] | None]:
        """The vectors float32 (n, D), and the views as `EmbeddingStore.append` takes them."""
        views = None
        if self.views:
            embeddings, parameters = zip(*self.views, strict=True)
            views = (np.concatenate(embeddings), np.concatenate(parameters))
        return np.concatenate(self.vectors), views


def embed_shard(
    part: Path,
    out: Path,
    number: int,
    teacher: Teacher,
    header: Header,
    *,
    batch_size: int = 64,
    workers: int = 1,
    below: str = "",
) -> ShardStats:
    """Embed the images of one part into one shard.

    The same part gives the same files (beside the times in the statistics), whoever embeds it and
    however often, where batch size, device and number of threads are the same.

    Args:
        part: a file of `formats.parts`.
        out: folder for the embeddings.
        number: of the shard.
        teacher: embeds the images.
        header: of the folder.
        batch_size: images per forward pass.
        workers: threads that decode.
        below: folder, or the start of a URL, that has all images: the part may be a stranger's.

    Raises:
        InputError: there is no such part.
        FormatError: the part is damaged, or names files elsewhere.
        OutputError: the shard cannot be written.
    """
    items = read_part(part, below)
    begin_part(out, number)
    start = time.monotonic()
    shard, failures = _Shard(), list[Failure]()
    spec = header.views
    ahead = max(1, 4 * batch_size // (1 + (spec.count if spec else 0)))
    loaded = load_pixels(items, teacher.card.preprocess, workers=workers, ahead=ahead, views=spec)
    for good, bad in batched(loaded, batch_size):
        failures += [Failure(one.item.key, one.reason) for one in bad]
        if good:
            failures += shard.add(teacher, header, good, batch_size)
    if shard.rows:
        vectors, views = shard.joined()
        write_vectors(out, number, header, vectors, views)
        write_shard_rows(out, number, shard.rows, header)
    stats = ShardStats(
        number=number,
        images=len(items),
        embedded=len(shard.rows),
        failures=tuple(failures),
        seconds=time.monotonic() - start,
        finished=time.time(),
        host=platform.node(),
    )
    finish_part(out, stats)
    return stats


@dataclass(frozen=True)
class _Model:
    """How to load the teacher in another process."""

    model_name: str
    pretrained: str
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class _Crew:
    """Who embeds: processes, their decoding threads, this job among the jobs, Ray's address."""

    workers: int
    decoders: int | None
    index: int
    count: int
    ray: str | None

    @property
    def threads(self) -> int:
        """Threads of each process."""
        return 1 if self.ray else max(1, default_workers() // self.workers)


@dataclass(frozen=True)
class _Request:
    """What is to be embedded, and how it is divided."""

    images: Path
    items: Listing
    out: Path
    batch_size: int
    shard_size: int
    recheck: bool


PATIENCE = 3600.0
"""Seconds that a job waits for another one to divide the images."""


def _check_sharing(
    workers: int, index: int | None, count: int | None, layout: str, shard_size: int
) -> None:
    if workers < 1 or shard_size < 1:
        raise OptionError("--workers and --shard-size should be 1 or more.")
    if (index is None) != (count is None):
        raise OptionError("--shard-index and --shard-count belong together: give both or neither.")
    if index is not None and count is not None and not 0 <= index < count:
        raise OptionError(
            f"--shard-index {index} --shard-count {count}: expected an index from 0 to "
            "the count minus 1."
        )
    if layout == "npy":
        raise OptionError(
            "Several processes share one layout only, clip-retrieval. Give --layout clip-retrieval."
        )


def _embed_shared(
    request: _Request, header: Header, teacher: Teacher, model: _Model, crew: _Crew
) -> EmbedResult:
    """Embed together with other processes and jobs, each its shards; the last one finishes."""
    out, start = request.out, time.monotonic()
    plan, known = _divided(request, header)
    done: list[ShardStats] = []
    waiting = 0
    if plan is not None:
        finished = done_parts(out)
        mine = [n for n in plan.numbers if n % crew.count == crew.index and n not in finished]
        busy = running_parts(out)
        mine.sort(key=lambda number: number in busy)
        done = _embed_parts(mine, request, plan, teacher, model, crew)
        waiting = len(set(plan.numbers) - done_parts(out))
        if not waiting:
            _finish(request, header, plan)
    return EmbedResult(
        out=out,
        teacher=str(header.teacher),
        license=header.teacher.license,
        images=len(request.items),
        embedded=sum(stats.embedded for stats in done),
        kept=known.kept,
        moved=known.moved,
        gone=0 if waiting else gone_images(request.items, EmbeddingStore(out, header)),
        failures=tuple(failure for stats in done for failure in stats.failures),
        seconds=time.monotonic() - start,
        waiting=waiting,
    )


def _divided(request: _Request, header: Header) -> tuple[Plan | None, Resumption]:
    """The plan of the folder: an unfinished one, or a new one; None when nothing is left to do."""
    out = request.out
    with _locked_or(out, lambda: read_plan(out) is not None):
        plan = read_plan(out)
        if plan is not None:
            header.check_same(plan.header, out)
            finished = done_parts(out) & set(plan.numbers)
            message(f"Resuming: {len(finished)} of {plan.parts} shards are done.")
            return plan, Resumption(request.items, 0, [], [])
        store = EmbeddingStore(out, header)
        found = plan_resume(request.items, store, request.recheck)
        append_moved(store, found.moves, request.shard_size)
        if not len(found.todo):
            store.finish(_failed_downloads(request.images, request.items))
            return None, found
        parts = -(-len(found.todo) // request.shard_size)
        first = next_number(out, store.shards)
        plan = Plan(header, first, parts, len(found.todo), request.shard_size, request.batch_size)
        write_plan(out, plan, found.todo)
        return plan, found


@contextlib.contextmanager
def _locked_or(out: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """Keep other processes out of `out`; wait for them, unless `ready()` holds meanwhile."""
    give_up = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as stack:
        while not ready():
            try:
                stack.enter_context(locked(out, "embed"))
            except OutputError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.2)
            else:
                break
        yield


def _embed_parts(
    numbers: Sequence[int],
    request: _Request,
    plan: Plan,
    teacher: Teacher,
    model: _Model,
    crew: _Crew,
) -> list[ShardStats]:
    """Embed some parts, in this process or in others.

    Raises:
        OutputError: some could not be embedded; the others are kept.
    """
    out, done = request.out, list[ShardStats]()
    below = absolute_name(images_folder(request.images))
    failed: dict[int, str] = {}
    total = sum(min(plan.size, plan.images - (n - plan.first) * plan.size) for n in numbers)
    with track("embed", total, "images") as step:
        left = numbers
        while left:
            died: list[int] = []
            for outcome in _outcomes(left, out.absolute(), plan, teacher, model, crew, below):
                number = int(outcome.task)
                if not outcome.reason or is_done(out, number):  # by another job
                    done.append(read_stats(out, number))
                    step(done[-1].images)
                    continue
                failed[number] = outcome.reason
                fail_part(out, number, outcome.reason)
                if outcome.died:
                    died.append(number)
            left = [number for number in died if _marked_deadly(out, number, plan.header, below)]
            failed = {number: why for number, why in failed.items() if number not in left}
    if failed:
        reasons = [f"shard {number}: {why}" for number, why in sorted(failed.items())]
        raise OutputError(
            "\n".join(
                [
                    f"{out}: {len(failed)} of {len(numbers)} shards could not be embedded. The "
                    "others are kept: run the same command again.",
                    *list_some("The first:", reasons, 5),
                ]
            )
        )
    return done


def _marked_deadly(out: Path, number: int, header: Header, below: str) -> bool:
    """Find the images of a part whose decoding ends the process, and note it in the part.

    Returns:
        Whether there is one: without it the part can be embedded.
    """
    message(f"Shard {number}: looking for an image whose decoding ends the process.")
    items = list(read_part(part_path(out, number), below))
    arguments = (str(out), number, header, below)
    found = [place for place, item in enumerate(items) if not item.problem]
    reasons: dict[int, str] = {}
    for _ in range(2):  # an image is left out when it does so twice
        outcomes = run_processes(decode_worker, arguments, map(str, found), 1)
        reasons = {int(one.task): one.reason for one in outcomes if one.died}
        found = sorted(reasons)
    for place, why in reasons.items():
        items[place] = replace(items[place], problem=f"decoding it failed: {why}")
    if reasons:
        write_part(out, number, items)
    return bool(reasons)


def decode_worker(out: str, number: int, header: Header, below: str) -> Callable[[str], None]:
    """Return the function that decodes one image of a part, and nothing else.

    Raises:
        InputError: there is no such part.
    """
    items = read_part(part_path(location(out), number), below)
    preprocess = header.teacher.preprocess

    def decode(task: str) -> None:
        one = [items[int(task)]]
        collections.deque(load_pixels(one, preprocess, workers=0, views=header.views), maxlen=0)

    return decode


def _outcomes(
    numbers: Sequence[int],
    out: Path,
    plan: Plan,
    teacher: Teacher,
    model: _Model,
    crew: _Crew,
    below: str,
) -> Iterator[Outcome]:
    decoders = crew.threads if crew.decoders is None else crew.decoders
    if crew.ray is None and crew.workers == 1:
        if crew.decoders is None:
            decoders = default_workers()
        for number in numbers:
            _embed_unless_done(out, number, teacher, plan, decoders, below)
            yield Outcome(str(number))
        return
    tasks = [str(number) for number in numbers]
    arguments = (str(out), model, crew.threads, decoders, below)
    if crew.ray is None:
        yield from run_processes(shard_worker, arguments, tasks, crew.workers)
    else:
        from ..core.ray_actors import run_actors

        gpu = model.device.startswith("cuda")
        yield from run_actors(
            shard_worker, arguments, tasks, crew.workers, address=crew.ray, gpus=int(gpu)
        )


def _embed_unless_done(
    out: Path, number: int, teacher: Teacher, plan: Plan, decoders: int, below: str
) -> None:
    if is_done(out, number):  # another job has been here
        return
    try:
        embed_shard(
            part_path(out, number),
            out,
            number,
            teacher,
            plan.header,
            batch_size=plan.batch_size,
            workers=decoders,
            below=below,
        )
    except InputError:
        if not is_done(out, number):  # or it has been here since, and finished the folder
            raise


def shard_worker(
    out: str, model: _Model, threads: int, decoders: int, below: str
) -> Callable[[str], None]:
    """Load the teacher in a process of its own; returns the function that embeds a numbered part.

    Raises:
        MismatchError: the teacher is not the plan's.
    """
    import torch

    from ..models.teacher import load_teacher

    torch.set_num_threads(threads)
    folder = location(out)
    found = read_plan(folder)
    if found is None:
        return lambda _: None  # another job has finished the folder
    plan = found
    teacher = load_teacher(
        model.model_name, model.pretrained, device=model.device, precision=model.precision
    )
    teacher.card.check_same(plan.header.teacher, "This process", folder)
    return lambda task: _embed_unless_done(folder, int(task), teacher, plan, decoders, below)


def _finish(request: _Request, header: Header, plan: Plan) -> None:
    """Complete the folder once all its parts are done, unless another job has done so."""
    out = request.out
    with _locked_or(out, lambda: read_plan(out) is None):
        if read_plan(out) is None:
            return
        store = EmbeddingStore(out, header)
        stats = [read_stats(out, number) for number in plan.numbers]
        failures = [failure for one in stats for failure in one.failures]
        failures += _failed_downloads(request.images, request.items)
        _check_any(request.images, request.items, store, failures)
        store.finish(failures)
        end_plan(out)
