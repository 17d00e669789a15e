"""status: what the files say, before, during and after."""

from __future__ import annotations

import json
import os
import platform
import time

import numpy as np
import pytest

from clipdistill.core.errors import InputError
from clipdistill.core.results import to_json
from clipdistill.core.zeroshot import LogitScale
from clipdistill.distillation.status import status
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Failure, Header, Row
from clipdistill.formats.parts import (
    Plan,
    ShardStats,
    begin_part,
    end_plan,
    fail_part,
    finish_part,
    write_plan,
)
from clipdistill.images.preprocess import Preprocess
from clipdistill.images.sources import list_images

TEACHER = TeacherCard("ViT-X", "tag", "a" * 32, 4, LogitScale(50.0, -2.0), Preprocess(32))
HEADER = Header(TEACHER, "clip-retrieval", "float16", True)


@pytest.fixture
def planned(tmp_path, pictures):
    """Ten images in five parts."""
    pictures(tmp_path / "images", 10)
    plan = Plan(HEADER, 3, 5, 10, 2, 64)
    write_plan(tmp_path / "emb", plan, list_images(tmp_path / "images"))
    return tmp_path / "emb"


def done(out, number, ended, seconds, failures=()):
    finish_part(out, ShardStats(number, 2, 2, failures, seconds, ended, "far"))


def text(result):
    return "\n".join(
        str(getattr(part, "text", lambda part=part: part)()) for part in result.summary()
    )


def test_a_plan_under_way(planned):
    assert (status(planned).rate, status(planned).done) == (None, 0)
    for number in (4, 5, 6):
        begin_part(planned, number)
    done(planned, 3, 1000.0, 10.0, (Failure("x.png", "no image"),))
    done(planned, 4, 1010.0, 20.0)
    fail_part(planned, 5, "its process ended")
    away = {"host": "elsewhere", "process": 1, "started": time.time() - 90}
    (planned / "parts/part_7.running").write_text(json.dumps(away))
    found = status(planned)
    assert (found.shards, found.done, found.images, found.images_done) == (5, 2, 10, 4)
    assert (found.unusable, found.complete) == (1, False)
    assert found.rate == pytest.approx(4 / 20)
    assert found.seconds_left == pytest.approx(6 / 0.2)
    assert [(one.number, one.host) for one in found.running] == [
        (6, platform.node()),
        (7, "elsewhere"),
    ]
    assert found.running[1].seconds == pytest.approx(90, abs=5)
    assert [one.number for one in found.failed] == [5]
    assert [one.number for one in found.slowest] == [4, 3]
    shown = text(found)
    assert "2 of 5 shards done, 2 running, 1 failed: 4 of 10 images" in shown
    assert "0.2 images/s" in shown
    assert "shard 5: its process ended" in shown
    assert json.dumps(to_json(found))


@pytest.mark.skipif(os.name != "posix", reason="process numbers")
def test_a_process_that_ended_is_not_running(planned):
    about = {"host": platform.node(), "process": 2**22 + 1, "started": time.time()}
    (planned / "parts/part_3.running").write_text(json.dumps(about))
    assert status(planned).running == ()


def test_before_and_after(planned, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        status(tmp_path / "nothing")
    with pytest.raises(InputError, match="none are under way"):
        status(tmp_path / "images")
    end_plan(planned)
    store = EmbeddingStore(planned, HEADER)
    store.append([Row("a", "", 1, 1)], np.ones((1, 4)))
    half = status(planned)
    assert (half.complete, half.images, half.images_done) == (False, None, 1)
    assert "1 image embedded so far" in text(half)
    store.finish([Failure("b", "no image")])
    whole = status(planned)
    assert (whole.complete, whole.images, whole.unusable, whole.seconds_left) == (True, 1, 1, 0)
    assert "is complete: 1 image in 1 shard, 1 could not be used" in text(whole)
