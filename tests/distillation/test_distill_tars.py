"""distill over tars that are streamed: by one process, by several, and by others after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import killing
from clipdistill.core.errors import InputError, OutputError
from clipdistill.core.progress import reporting
from clipdistill.core.reporters import PlainReporter
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.options import DistillOptions
from clipdistill.formats.student import load_card, load_checkpoint, load_weights
from clipdistill.images import runs
from clipdistill.images.sources import ImageItem, list_images
from tars import draw_tars

SIZES = [38, 6, 50, 16, 32, 2, 24, 24]
"""Images of the tars: uneven."""
STREAMED = DistillOptions(
    image_size=32,
    batch_size=12,
    num_epochs=2,
    device="cpu",
    val_fraction=0.1,
    lr=1e-3,
    check_export=False,
    cache_gb=0.0,
    shuffle_buffer=24,
    checkpoint_seconds=0.0,
)
ARCH = "test_vit"  # no batch normalisation, whose statistics are each process's own


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_teacher_name) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("tars")
    draw_tars(root / "images", SIZES)
    embed(root / "images", root / "embeddings", model_name=tiny_teacher_name, device="cpu")
    return root / "images", root / "embeddings"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data) -> Path:
    """What one process learns; not to be changed."""
    out = tmp_path_factory.mktemp("alone") / "student"
    distill(ARCH, *data, out, STREAMED)
    return out


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_images_of_tars_are_read_once_each_and_tar_by_tar(tmp_path, data, alone, monkeypatch):
    opened: list[str] = []
    real = runs.open_regular
    monkeypatch.setattr(runs, "open_regular", lambda path: opened.append(path.name) or real(path))
    alone_read = []
    read = ImageItem.read
    monkeypatch.setattr(ImageItem, "read", lambda item: alone_read.append(item.key) or read(item))
    distill(ARCH, *data, tmp_path / "student", replace(STREAMED, shuffle_buffer=191))
    streams, epochs = 5, 2
    assert len(opened) <= epochs * (len(SIZES) + 2 * streams)
    # Beside the samples in the student's folder, only held-out images are read one by one.
    assert max(Counter(alone_read).values()) <= epochs + 1
    assert len(set(alone_read)) <= 19 + 16
    assert weights(tmp_path / "student") != weights(alone)  # another buffer, another order


@pytest.mark.parametrize("change", [{"cache_gb": 1.0}, {"num_workers": 0}])
def test_the_pixel_cache_does_not_change_what_is_learnt(tmp_path, data, alone, change):
    options = replace(STREAMED, cache_dir=tmp_path / "cache", **change)
    distill(ARCH, *data, tmp_path / "student", options)
    assert weights(tmp_path / "student") == weights(alone)


def test_pixels_are_kept_of_all_images_or_of_none(tmp_path, data, capsys):
    options = replace(STREAMED, cache_dir=tmp_path / "cache", cache_gb=1e-4)  # for 32 images
    with reporting(PlainReporter()):
        distill(ARCH, *data, tmp_path / "student", replace(options, num_epochs=1))
    assert not list((tmp_path / "cache").rglob("*.npy"))
    assert "of 192 images take 590 kB and are not kept" in capsys.readouterr().err


def test_a_buffer_for_all_images_shuffles_them_as_files(tmp_path, data, pictures):
    """Nothing is streamed, and what fits is cached."""
    options = replace(STREAMED, shuffle_buffer=192, num_epochs=1, cache_dir=tmp_path / "cache")
    distill(ARCH, *data, tmp_path / "one", options)
    distill(ARCH, *data, tmp_path / "two", replace(options, cache_gb=1.0))
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert load_card(tmp_path / "one").training["options"]["shuffle_buffer"] == 192


def test_views_of_streamed_images_are_replayed(tmp_path, data, tiny_teacher_name):
    embed(data[0], tmp_path / "views", model_name=tiny_teacher_name, device="cpu", views=2)
    for name, gigabytes in (("one", 0.0), ("two", 1.0)):
        options = replace(STREAMED, cache_gb=gigabytes, num_epochs=1)
        distill(ARCH, data[0], tmp_path / "views", tmp_path / name, options)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_damaged_image_is_left_out_and_listed(tmp_path, data):
    images = tmp_path / "images"
    images.mkdir()
    for path in data[0].iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    item = list_images(images)[30]
    whole = bytearray(item.path.read_bytes())
    whole[item.offset : item.offset + 64] = bytes(64)
    item.path.write_bytes(whole)
    result = distill(ARCH, images, data[1], tmp_path / "student", STREAMED)
    assert [failure.image_path for failure in result.failures] == [item.key]
    assert result.epochs == 2


def test_a_streamed_training_killed_within_an_epoch_ends_with_the_same_weights(tmp_path, data):
    out = tmp_path / "student"
    checkpoint = out / "checkpoint.pth"
    seen = killing.changed(checkpoint)
    assert killing.killed_when(seen, distill, ARCH, *data, out, LONG)
    assert 0 < load_checkpoint(checkpoint)["step"] < 44
    distill(ARCH, *data, out, LONG)
    distill(ARCH, *data, tmp_path / "whole", LONG)
    assert weights(out) == weights(tmp_path / "whole")


LONG = replace(STREAMED, batch_size=4)
"""44 steps per epoch; the state is saved after the tenth of them for the first time."""


def test_another_buffer_is_refused_by_name(tmp_path, data, alone):
    with pytest.raises(OutputError, match="--shuffle-buffer was 24, now 25"):
        distill(ARCH, *data, alone, replace(STREAMED, shuffle_buffer=25))
    with pytest.raises(InputError, match=r"^--shuffle-buffer .*expected 1 or more"):
        distill(ARCH, *data, tmp_path / "student", replace(STREAMED, shuffle_buffer=0))


# Several processes.

SEVERAL = replace(STREAMED, batch_size=8, num_epochs=3)
"""22 steps per epoch; the state is saved after the tenth, the twentieth and the last."""
STEPS, SAVED = 22, 10
SCRIPT = """
    import json, os, sys, threading
    from pathlib import Path
    import torch
    from clipdistill.images.pixels import PixelCache
    from clipdistill.distillation.options import DistillOptions
    from clipdistill.distillation.distill import distill
    from clipdistill.distillation.trainer import Trainer

    torch.set_num_threads(1)
    arch, images, embeddings, out, log, options, cache = sys.argv[1:]
    rank = os.environ.get("RANK", "0")
    events = open(f"{log}-{rank}.jsonl", "a")

    def note(**event):
        print(json.dumps(event), file=events, flush=True)

    build, step, gather = PixelCache._build_chunk, Trainer._step, PixelCache.gather

    def building(self, *arguments):
        note(built=str(self.folder))
        return build(self, *arguments)

    def stepping(self, number, *arguments):
        note(epoch=self.state.epoch, step=number, process=os.getpid())
        return step(self, number, *arguments)

    def gathering(self, rows, numbers=None, read=None):
        if threading.current_thread().name == "load-ahead":
            note(rows=rows.tolist())
        return gather(self, rows, numbers, read)

    PixelCache._build_chunk, Trainer._step = building, stepping
    PixelCache.gather = gathering
    settings = DistillOptions(**json.loads(options), cache_dir=Path(cache))
    distill(arch, Path(images), Path(embeddings), Path(out), settings)
"""


class Launch:
    """`torchrun` with gloo, on machines that are imitated, in a folder for its logs.

    Args:
        folder: for the script and the logs.
        processes: per machine.
        data: images and embeddings.
        out: the student.
        caches: folder of the pixel cache of each machine.
        options: other settings than those of `SEVERAL`.
    """

    def __init__(
        self,
        folder: Path,
        processes: int,
        data: tuple[Path, Path],
        out: Path,
        caches: tuple[Path, ...] = (),
        **options: object,
    ) -> None:
        folder.mkdir()
        self.log = folder / "events"
        script = folder / "train.py"
        script.write_text(textwrap.dedent(SCRIPT))
        defaults = asdict(DistillOptions())
        wanted = {**asdict(SEVERAL), **options}
        changed = {name: value for name, value in wanted.items() if value != defaults[name]}
        caches = caches or (folder / "pixels",)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._errors = folder / "errors"
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"),
                    *("--nnodes", str(len(caches)), "--nproc-per-node", str(processes)),
                    *("--rdzv-id", "test", "--rdzv-endpoint", f"localhost:{port}"),
                    *(str(script), ARCH, *map(str, data), str(out), str(self.log)),
                    *(json.dumps(changed), str(cache)),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=self._errors.open("a"),
                start_new_session=True,
            )
            for cache in caches
        ]

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def end(self) -> Launch:
        """Wait until it has ended well."""
        with self:
            codes = [process.wait(400) for process in self.processes]
        assert not any(codes), self.errors()
        return self

    def errors(self) -> str:
        """The end of what the processes complained about."""
        return self._errors.read_text()[-9000:]

    def events(self) -> list[list[dict[str, Any]]]:
        """What each rank noted."""
        paths = sorted(self.log.parent.glob(f"{self.log.name}-*.jsonl"))
        lines = [path.read_text().split("\n")[:-1] for path in paths]
        return [[json.loads(line) for line in rank] for rank in lines]

    def rows(self) -> list[list[list[int]]]:
        """The images of each step, by rank."""
        return [[one["rows"] for one in rank if "rows" in one] for rank in self.events()]

    def wait_for_step(self, epoch: int, step: int) -> int:
        """Wait until a rank other than the first takes a step; returns its process."""
        give_up = time.monotonic() + 300
        while time.monotonic() < give_up:
            assert self.processes[0].poll() is None, self.errors()
            for rank in self.events()[1:]:
                for one in rank:
                    if (one.get("epoch"), one.get("step")) == (epoch, step):
                        return int(one["process"])
            time.sleep(0.005)
        raise AssertionError("it did not come to the step")


@pytest.fixture(scope="module")
def complete(tmp_path_factory, data):
    """`complete(N)`: the student of N processes that nobody killed, and their launch."""
    made: dict[int, tuple[Path, Launch]] = {}

    def make(processes: int) -> tuple[Path, Launch]:
        if processes not in made:
            folder = tmp_path_factory.mktemp("complete")
            launch = Launch(folder / "launch", processes, data, folder / "student").end()
            made[processes] = folder / "student", launch
        return made[processes]

    return make


def check_once_each(ranks: list[list[list[int]]], out: Path) -> None:
    """The steps of these ranks have every image once."""
    rows = [row for rank in ranks for batch in rank for row in batch]
    assert len(rows) == len(set(rows)) == load_card(out).training["train_images"]


def check_close(one: Path, other: Path) -> None:
    """The students differ by rounding alone."""
    states = [load_weights(out / "model.safetensors") for out in (one, other)]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=5e-3), name
    rows = [
        [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (one, other)
    ]
    assert rows[1] == pytest.approx(rows[0], abs=1e-3)


@pytest.mark.scale
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_does_and_read_every_image_once(complete, processes):
    one, _ = complete(1)
    out, launch = complete(processes)
    ranks = launch.rows()
    assert [len(rank) for rank in ranks] == [3 * STEPS] * processes  # uneven tars, as many steps
    for epoch in range(3):
        check_once_each([rank[epoch * STEPS : (epoch + 1) * STEPS] for rank in ranks], out)
    check_close(one, out)


@pytest.mark.scale
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (2, 2)])
def test_after_a_kill_within_an_epoch_another_number_of_processes_goes_on(
    tmp_path, data, complete, before, after
):
    out = tmp_path / "student"
    with Launch(tmp_path / "before", before, data, out) as first:
        os.kill(first.wait_for_step(epoch=1, step=SAVED + 2), signal.SIGKILL)
        assert first.processes[0].wait(200) != 0
    second = Launch(tmp_path / "after", after, data, out).end()
    whole, launch = complete(after)
    resumed = second.rows()
    assert [len(rank) for rank in resumed] == [2 * STEPS - SAVED] * after
    assert resumed == [rank[STEPS + SAVED :] for rank in launch.rows()]
    begun = [rank[STEPS : STEPS + SAVED] for rank in first.rows()]
    check_once_each([*begun, *(rank[: STEPS - SAVED] for rank in resumed)], out)
    check_close(whole, out)
    if before == after:
        assert weights(out) == weights(whole)


def writers(launch: Launch) -> list[tuple[str, int]]:
    """Folder and rank of every chunk of pixels that was made."""
    ranks = enumerate(launch.events())
    return [(one["built"], rank) for rank, found in ranks for one in found if "built" in one]


@pytest.mark.scale
def test_each_machine_has_a_pixel_cache_that_one_of_its_processes_writes(tmp_path, data):
    caches = (tmp_path / "a", tmp_path / "b")
    options = {"batch_size": 12, "cache_gb": 1.0, "num_epochs": 1}
    launch = Launch(tmp_path / "launch", 2, data, tmp_path / "out", caches, **options).end()
    found = writers(launch)
    assert len({rank for _, rank in found}) == 2
    assert sorted(Path(folder).parent for folder, _ in found) == sorted(caches)


@pytest.mark.scale
def test_machines_that_share_a_pixel_cache_write_it_once(tmp_path, data):
    caches = (tmp_path / "shared",) * 2
    options = {"cache_gb": 1.0, "num_epochs": 1}
    launch = Launch(tmp_path / "launch", 1, data, tmp_path / "out", caches, **options).end()
    assert len(writers(launch)) == 1


@pytest.mark.scale
def test_more_processes_than_the_batches_serve_are_refused(tmp_path, data):
    with Launch(tmp_path / "launch", 2, data, tmp_path / "out", batch_size=2) as launch:
        assert launch.processes[0].wait(200) != 0
    assert "Start at most 1 processes, or raise --batch-size" in launch.errors()


@pytest.mark.scale
def test_a_student_that_another_process_writes_is_refused(tmp_path, data):
    """And no process waits for the one that was refused."""
    out = tmp_path / "out"
    with (
        killing.holding(out, tmp_path / "ready", folder=True),
        Launch(tmp_path / "launch", 2, data, out) as launch,
    ):
        assert launch.processes[0].wait(200) != 0
    assert f"{out}: `clipdistill distill` (process" in launch.errors()
    assert "is writing it now. Wait until it has finished" in launch.errors()
