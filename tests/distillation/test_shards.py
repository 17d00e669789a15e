"""embed by several processes and jobs: the folder is the one that a single process writes."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest

from clipdistill.core.errors import (
    MismatchError,
    MissingExtraError,
    OptionError,
    OutputError,
    ServiceError,
)
from clipdistill.core.processes import run_processes
from clipdistill.core.ray_actors import run_actors
from clipdistill.distillation import embed as embedding
from clipdistill.distillation.embed import embed, embed_shard
from clipdistill.formats.embeddings import load_embeddings, read_failures
from clipdistill.formats.parts import part_path, read_plan

SHARED = {"batch_size": 4, "shard_size": 6, "device": "cpu", "num_workers": 1}


@pytest.fixture
def images(tmp_path, pictures):
    pictures(tmp_path / "images", 20)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path, images, tiny_teacher_name):
    def call(out: str, **options):
        options = {"model_name": tiny_teacher_name, **SHARED, **options}
        return embed(images, tmp_path / out, **options)

    return call


def files(folder: Path) -> dict[str, bytes]:
    names = ("img_emb", "metadata", "views")
    paths = [path for name in names for path in (folder / name).glob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check_same(one: Path, other: Path) -> None:
    """Byte for byte, in order, and complete."""
    mine, theirs = load_embeddings(one), load_embeddings(other)
    assert mine.rows == theirs.rows
    assert mine.vectors.tobytes() == theirs.vectors.tobytes()
    assert files(one) == files(other)
    assert read_failures(one) == read_failures(other)
    card = json.loads((one / "meta.json").read_text())
    assert card == json.loads((other / "meta.json").read_text())
    assert not (one / "parts").exists()


def test_jobs_of_an_array_make_the_folder_of_one_process(run, tmp_path):
    run("alone", views=2)
    first = run("shared", shard_index=1, shard_count=3, views=2)
    assert first.waiting == 3
    assert "3 shards are left for other jobs" in "\n".join(map(str, first.summary()))
    assert not (tmp_path / "shared/meta.json").exists()
    again = run("shared", shard_index=1, shard_count=3, views=2)
    assert (again.embedded, again.waiting) == (0, 3)
    run("shared", shard_index=2, shard_count=3, views=2)
    last = run("shared", shard_index=0, shard_count=3, views=2)
    assert last.waiting == 0
    check_same(tmp_path / "shared", tmp_path / "alone")


def test_a_shard_embedded_twice_has_the_same_bytes(run, tmp_path, tiny_teacher):
    run("shared", shard_index=0, shard_count=2)
    before = files(tmp_path / "shared")
    plan = read_plan(tmp_path / "shared")
    part = part_path(tmp_path / "shared", 2)
    stats = embed_shard(part, tmp_path / "shared", 2, tiny_teacher, plan.header, batch_size=4)
    assert (stats.number, stats.images, stats.embedded, stats.failures) == (2, 6, 6, ())
    assert files(tmp_path / "shared") == before
    assert {"img_emb/img_emb_0.npy", "img_emb/img_emb_2.npy"} <= before.keys()


def test_a_plain_command_ends_what_jobs_began_and_then_embeds_what_is_new(
    run, tmp_path, images, pictures
):
    run("shared", shard_index=0, shard_count=2)
    result = run("shared", batch_size=64)
    assert result.waiting == 0
    run("alone")
    check_same(tmp_path / "shared", tmp_path / "alone")
    pictures(images, 23, ending=".jpg")
    assert run("shared", shard_index=0, shard_count=2).waiting == 2
    assert run("shared", shard_index=1, shard_count=2).gone == 0
    assert len(load_embeddings(tmp_path / "shared").rows) == 43
    assert run("shared", shard_index=1, shard_count=2).kept == 43


def test_other_options_are_refused_while_a_plan_is_unfinished(run, tmp_path, other_teacher):
    run("shared", shard_index=0, shard_count=2)
    name = other_teacher.card.model_name
    with pytest.raises(MismatchError, match="not in the same embedding space"):
        run("shared", shard_index=1, shard_count=2, model_name=name)
    with pytest.raises(MismatchError, match="Use the same options"):
        run("shared", dtype="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_index": 1}, "belong together"),
        ({"shard_index": 2, "shard_count": 2}, "from 0 to the count minus 1"),
        ({"workers": 0}, "1 or more"),
        ({"workers": 2, "layout": "npy"}, "Give --layout clip-retrieval"),
    ],
)
def test_wrong_options(run, options, message):
    with pytest.raises(OptionError, match=message):
        run("shared", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"shard_index": 0, "shard_count": 1},
        pytest.param({"workers": 2}, marks=pytest.mark.scale),
    ],
)
def test_another_job_may_finish_the_folder_first(run, tmp_path, monkeypatch, options):
    run("alone")
    real = embedding._outcomes

    def late(*arguments):
        monkeypatch.undo()
        assert run("shared", shard_index=0, shard_count=1).waiting == 0
        return real(*arguments)

    monkeypatch.setattr(embedding, "_outcomes", late)
    assert run("shared", **options).waiting == 0
    check_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.scale
def test_worker_processes_make_the_folder_of_one_process(run, tmp_path):
    run("alone")
    result = run("shared", workers=2)
    assert (result.embedded, result.waiting) == (20, 0)
    assert [failure.image_path for failure in result.failures] == ["broken.png"]
    check_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.scale
def test_a_part_that_cannot_be_embedded_costs_no_other(run, tmp_path):
    run("shared", shard_index=0, shard_count=4)
    part_path(tmp_path / "shared", 2).write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"1 of 3 shards could not.*run the same(.|\n)*shard 2: "):
        run("shared", workers=2)
    assert not (tmp_path / "shared/meta.json").exists()
    assert sorted(path.name for path in (tmp_path / "shared/stats").iterdir()) == [
        f"shard_{number}.json" for number in (0, 1, 3)
    ]


def die_at_three(offset: int):
    def work(task: str) -> int:
        if task == "3":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "4":
            raise ValueError("four")
        return int(task) + offset

    return work


def refuse(offset: int):
    raise MismatchError("not this one")


@pytest.mark.scale
def test_a_process_that_dies_costs_its_own_task():
    outcomes = {one.task: one for one in run_processes(die_at_three, (10,), map(str, range(8)), 2)}
    assert len(outcomes) == 8
    assert [outcomes[str(n)].value for n in (0, 1, 2, 5, 6, 7)] == [10, 11, 12, 15, 16, 17]
    assert outcomes["3"].reason == "its process ended without a word (exit code -9)"
    assert outcomes["4"].reason == "ValueError: four"
    with pytest.raises(MismatchError, match="not this one"):
        list(run_processes(refuse, (10,), ["1"], 2))


@pytest.mark.scale
def test_without_a_cluster_one_sentence_says_so(run, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ServiceError, match="--ray auto: no Ray cluster can be reached"):
        run("shared", ray="auto")
    start = time.monotonic()
    with pytest.raises(ServiceError, match=r"at 127\.0\.0\.1:1 .*Connection refused.*ray start"):
        run("shared", ray="127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere.invalid:6379")
    with pytest.raises(ServiceError, match=r"--ray auto: .*nowhere\.invalid:6379"):
        run("shared", ray="auto")
    assert time.monotonic() - start < 60  # Ray itself tries for minutes


def test_errors_keep_their_words_on_the_way_to_another_process():
    for error in (MissingExtraError("ray", "ray", "--ray"), ServiceError("busy", 503)):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_without_ray_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'clipdistill\[ray\]'"):
        run("shared", ray="local")


@pytest.mark.scale
def test_ray_makes_the_folder_of_one_process(run, tmp_path):
    pytest.importorskip("ray")
    run("alone")
    result = run("shared", ray="local", workers=2)
    assert (result.embedded, result.waiting) == (20, 0)
    check_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.scale
def test_an_actor_that_dies_is_replaced_and_its_task_tried_again(tmp_path):
    pytest.importorskip("ray")
    tasks = [str(number) for number in range(8)]
    mark = tmp_path / "died"

    def die_once(path: str):  # within the test, so that Ray sends it as it is
        def work(task: str) -> int:
            if task == "3" and not os.path.exists(path):
                open(path, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return int(task)

        return work

    found = run_actors(die_once, (str(mark),), tasks, 2, address="local")
    assert sorted((one.task, one.value, one.reason) for one in found) == [
        (task, int(task), "") for task in tasks
    ]
    assert mark.exists()
