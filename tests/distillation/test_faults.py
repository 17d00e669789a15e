"""embed while things break: the folder is the one that a single process writes, byte by byte."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_shards import check_same

import faults
from clipdistill.core.errors import MissingExtraError, OutputError, ServiceError
from clipdistill.core.ray_actors import run_actors
from clipdistill.distillation import embed as embedding
from clipdistill.distillation.embed import embed
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.parts import done_parts

pytestmark = pytest.mark.scale
SHARED = {"batch_size": 4, "shard_size": 4, "device": "cpu", "num_workers": 1}
SHARDS = 9


@pytest.fixture(scope="module")
def images(tmp_path_factory, pictures) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "images"
    pictures(folder, 34)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "poison.png").write_bytes((folder / "picture_3.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, images, tiny_teacher_name) -> Path:
    """What one process writes; not to be changed."""
    out = tmp_path_factory.mktemp("alone") / "embeddings"
    embed(images, out, model_name=tiny_teacher_name, **SHARED)
    return out


@pytest.fixture
def run(tmp_path, images, tiny_teacher_name):
    def call(fault: Callable[..., object] = faults.real_worker, **options):
        """Embed into one folder, with a fault in the processes that embed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embedding, "shard_worker", fault)
            if fault is faults.poisoned:
                patch.setattr(embedding, "decode_worker", faults.poisoned_decoder)
            options = {"model_name": tiny_teacher_name, **SHARED, "workers": 2, **options}
            return embed(images, tmp_path / "out", **options)

    return call


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A Ray cluster of a head without processors; tests add the machines that work."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    tests = Path(__file__).resolve().parents[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        paths = [os.fspath(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        head = {"num_cpus": 0, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def machines(cluster) -> Iterator[list[object]]:
    """Two machines of one processor each."""
    nodes = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
    cluster.wait_for_nodes()
    yield nodes
    for node in nodes:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)


def in_thread(action: Callable[[], object], out: Path, shards: int) -> threading.Thread:
    """Do something as soon as so many shards are done."""

    def wait() -> None:
        give_up = time.monotonic() + 120
        while len(done_parts(out)) < shards and time.monotonic() < give_up:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_an_actor_that_is_killed(run, tmp_path, alone, cluster, machines):
    result = run(faults.dies_once, ray=cluster.address)
    assert (tmp_path / "out/died").exists()
    assert result.embedded == 35
    check_same(tmp_path / "out", alone)


def test_a_machine_that_is_lost(run, tmp_path, alone, cluster, machines):
    lose = in_thread(
        lambda: cluster.remove_node(machines[1], allow_graceful=False), tmp_path / "out", 2
    )
    result = run(faults.slow, ray=cluster.address)
    lose.join()
    assert len(cluster.worker_nodes) == 1
    assert (result.embedded, result.waiting) == (35, 0)
    check_same(tmp_path / "out", alone)


DRIVER = """
    import sys
    import faults
    from clipdistill.distillation import embed

    embed.shard_worker = faults.slow
    embed.embed(sys.argv[1], sys.argv[2], model_name=sys.argv[3], ray=sys.argv[4], workers=2,
                batch_size=4, shard_size=4, device="cpu", num_workers=1)
"""


def test_a_driver_that_is_killed_and_started_again(
    run, tmp_path, images, alone, cluster, machines, tiny_teacher_name
):
    out = tmp_path / "out"
    arguments = [os.fspath(images), os.fspath(out), tiny_teacher_name, cluster.address]
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(DRIVER), *arguments])
    in_thread(driver.kill, out, 2).join()
    assert driver.wait() == -signal.SIGKILL
    assert 2 <= len(done_parts(out)) < SHARDS
    assert not (out / "meta.json").exists()
    assert run(ray=cluster.address).waiting == 0
    check_same(out, alone)


def test_a_slow_machine(run, tmp_path, alone, cluster, machines):
    run(faults.slow_machine, ray=cluster.address)
    assert 1 <= len((tmp_path / "out/slow").read_text().split()) <= SHARDS // 2
    check_same(tmp_path / "out", alone)


@pytest.fixture(params=["processes", "ray"])
def engine(request) -> dict[str, str]:
    """Options of what runs the processes."""
    if request.param == "processes":
        return {}
    request.getfixturevalue("machines")
    return {"ray": request.getfixturevalue("cluster").address}


def test_an_image_that_kills_its_decoder_costs_only_itself(run, tmp_path, alone, engine):
    result = run(faults.poisoned, **engine)
    assert [one.image_path for one in result.failures] == ["broken.png", "poison.png"]
    assert "decoding it failed: its process ended without a word (exit code -11)" in str(
        result.failures[1].reason
    )
    rows = load_embeddings(tmp_path / "out").rows
    assert list(rows.keys) == list(load_embeddings(alone).rows.keys)[:-1]
    assert not (tmp_path / "out/parts").exists()


def test_a_shard_that_always_kills_its_process_costs_no_other(run, tmp_path, alone, engine):
    with pytest.raises(OutputError, match=r"1 of 9 shards could not(.|\n)*shard 2: its"):
        run(faults.dies_always, **engine)
    assert done_parts(tmp_path / "out") == {*range(SHARDS)} - {2}
    run(**engine)
    check_same(tmp_path / "out", alone)


def test_a_full_disk(run, tmp_path, alone, engine):
    with pytest.raises(OutputError, match=r"7 of 9 shards could not(.|\n)*File too large"):
        run(faults.full_disk, **engine)
    out = tmp_path / "out"
    assert len(done_parts(out)) == 2
    assert len(list((out / "metadata").iterdir())) == 2  # nothing half-written is visible
    run(**engine)
    check_same(out, alone)


def test_two_commands_that_embed_the_same_shards_at_once(
    run, tmp_path, images, alone, cluster, machines, tiny_teacher_name
):
    arguments = [os.fspath(images), os.fspath(tmp_path / "out"), tiny_teacher_name, cluster.address]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(DRIVER), *arguments]) as other:
        run(faults.slow)
        assert other.wait(120) == 0
    check_same(tmp_path / "out", alone)


def test_other_versions_of_ray_are_named(cluster, monkeypatch):
    import ray

    theirs = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.1.0")
    expected = rf"the cluster runs Ray {theirs} with Python 3\S+, this process Ray 2\.1\.0 with"
    with pytest.raises(ServiceError, match=f"{expected} .*Install the same versions of both"):
        next(run_actors(faults.slow, (), ["1"], 1, address=cluster.address))


def test_a_machine_without_the_extra_is_named(run, cluster, machines):
    with pytest.raises(MissingExtraError, match=r"^On \S+: .*'open_clip'.*clipdistill\[train\]"):
        run(faults.without_extra, ray=cluster.address)


def test_a_machine_without_the_package_is_named(tmp_path, cluster, machines, monkeypatch):
    """Actors cannot import what this process imports."""
    (tmp_path / "only_here.py").write_text("def set_up():\n    return len\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("only_here")
    (tmp_path / "only_here.py").unlink()
    with pytest.raises(ServiceError, match=r"cannot start on \S+ \(ModuleNotFoundError: No module"):
        list(run_actors(module.set_up, (), ["1", "2"], 2, address=cluster.address))
