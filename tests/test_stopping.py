"""SIGTERM, SIGHUP and Ctrl-C in the middle of a verb: the same command goes on to the same end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import killing
from clipdistill.core import stopping
from clipdistill.distillation.distill import distill
from clipdistill.distillation.embed import embed
from clipdistill.distillation.options import DistillOptions
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.student import load_checkpoint
from stopped import Moment, check_stopped
from terminals import environment

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(scope="module")
def data(tmp_path_factory, pictures, tiny_teacher_name) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    pictures(root / "images", 60)
    embed(root / "images", root / "embeddings", model_name=tiny_teacher_name, device="cpu")
    return root / "images", root / "embeddings"


FAST = DistillOptions(image_size=32, batch_size=3, num_epochs=2, device="cpu", val_fraction=0.2)
"""16 steps and 4 batches of held-out images per epoch."""
TRAINER = "clipdistill.distillation.trainer"


def distill_here(images: Path, embeddings: Path, out: Path, options: DistillOptions) -> Any:
    return distill("test_resnet", images, embeddings, out, options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data) -> Path:
    out = tmp_path_factory.mktemp("whole") / "student"
    killing.run_to_end(distill_here, *data, out, FAST)
    return out


def student(out: Path) -> dict[str, Any]:
    """Weights, card and history, without times."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["images_per_second"]
    card = json.loads((out / "student.json").read_text())
    card["training"]["best"].pop("images_per_second", None)
    return {"weights": (out / "model.safetensors").read_bytes(), "card": card, "rows": rows}


@pytest.mark.parametrize(
    ("number", "moment", "epoch", "step"),
    [
        (signal.SIGINT, Moment(TRAINER, "Trainer", "_step", 7), 0, 7),
        (signal.SIGTERM, Moment(TRAINER, "Trainer", "_step", 29), 1, 13),
        (signal.SIGHUP, Moment(TRAINER, "Trainer", "_step", 16), 0, 16),
        (
            signal.SIGTERM,
            Moment("clipdistill.distillation.validation", "Validator", "_batch", 6),
            1,
            16,
        ),
        (
            signal.SIGTERM,
            Moment("clipdistill.distillation.validation", "Validator", "_batch", 4),
            1,
            0,
        ),
    ],
    ids=[
        "in an epoch",
        "in the last epoch",
        "before validation",
        "in validation",
        "after an epoch",
    ],
)
def test_a_training_is_saved_where_it_is_and_goes_on_to_the_same_student(
    tmp_path, data, whole, number, moment, epoch, step
):
    out = tmp_path / "student"
    check_stopped(distill_here, (*data, out, FAST), tmp_path / "log", moment, number)
    saved = load_checkpoint(out / "checkpoint.pth")
    assert (saved["epoch"] + 1, saved["step"]) == (epoch, step)
    killing.run_to_end(distill_here, *data, out, FAST)
    assert student(out) == student(whole)


def test_the_average_of_the_weights_is_saved_as_well(tmp_path, data):
    options = replace(FAST, ema_decay=0.9)
    killing.run_to_end(distill_here, *data, tmp_path / "whole", options)
    moment = Moment(TRAINER, "Trainer", "_step", 21)
    arguments = (*data, tmp_path / "student", options)
    check_stopped(distill_here, arguments, tmp_path / "log", moment, signal.SIGTERM)
    killing.run_to_end(distill_here, *arguments)
    assert student(tmp_path / "student") == student(tmp_path / "whole")


def embed_here(images: Path, out: Path, model_name: str) -> Any:
    """Embed 60 images and two views of each, in batches of 8 and shards of 32."""
    more: dict[str, Any] = {"batch_size": 8, "shard_size": 32, "views": 2}
    return embed(images, out, model_name=model_name, device="cpu", **more)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        (Moment("clipdistill.distillation.embed", "_Shard", "add", 3), 24),
        (Moment("clipdistill.formats.embeddings", "EmbeddingStore", "append", 1), 32),
    ],
    ids=["between shards", "writing a shard"],
)
def test_what_was_embedded_is_kept_once(tmp_path, data, tiny_teacher_name, number, moment, kept):
    embed_here(data[0], tmp_path / "whole", tiny_teacher_name)
    arguments = (data[0], tmp_path / "embeddings", tiny_teacher_name)
    check_stopped(embed_here, arguments, tmp_path / "log", moment, number)
    assert embed_here(*arguments).kept == kept
    one, other = load_embeddings(tmp_path / "whole"), load_embeddings(tmp_path / "embeddings")
    assert one.rows == other.rows
    assert np.array_equal(one.vectors, other.vectors)
    rows = np.arange(len(one.rows))
    assert np.array_equal(one.views().embeddings(rows), other.views().embeddings(rows))


STUBBORN = """
import signal, sys, threading, time
from pathlib import Path
from clipdistill import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
ready, how = Path(sys.argv[1]), sys.argv[2]
if how == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
if how == "background":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
def action():
    if how == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
    ready.touch()
    try:
        time.sleep(2 if how == "nohup" else 60)
    finally:
        if how == "saving":
            ready.with_name("saving").touch()
            time.sleep(60)
sys.exit(cli.run_script(action))
"""


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN, str(folder / "ready"), how],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_for(folder / "ready", process)
    return process


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_without_a_traceback(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "saving")
    process.send_signal(signal.SIGTERM)
    wait_for(tmp_path / "saving", process)
    process.send_signal(number)
    stderr = process.communicate(timeout=20)[1]
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert stderr in (
        f"stopped{by}; run the same command again to go on\n",
        "stopped by SIGTERM; run the same command again to go on\n",
    )
    assert process.returncode > 128


def test_a_thread_that_goes_on_does_not_keep_the_process(tmp_path: Path) -> None:
    process = start(tmp_path, "thread")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "stopped by SIGTERM" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 128 + signal.SIGTERM


def test_a_job_in_the_background_that_ignores_ctrl_c_ends_at_sigterm(tmp_path: Path) -> None:
    process = start(tmp_path, "background")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate(timeout=20)[1]
    assert process.returncode == 128 + signal.SIGTERM


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    process = start(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0


def test_without_sighup_as_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "OTHERS", ("SIGTERM", "SIGNONE"))
    before = signal.getsignal(signal.SIGTERM)
    with stopping.signals_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_nothing_is_postponed_and_nothing_fails() -> None:
    done: list[bool] = []

    def work() -> None:
        with stopping.signals_as_ctrl_c(), stopping.postponed() as stop:
            done.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]


def interrupted(times: int) -> list[str]:
    """What a block does that is interrupted so often, and how it ends."""
    done = []
    try:
        with stopping.postponed() as stop:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            done.append(f"asked: {stop.asked}")
    except KeyboardInterrupt:
        done.append("stopped")
    return done


def test_ctrl_c_waits_for_the_end_of_a_block_and_a_second_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert interrupted(0) == ["asked: False"]
    assert interrupted(1) == ["asked: True", "stopped"]
    assert interrupted(2) == ["stopped"]
    assert signal.getsignal(signal.SIGINT) is before
