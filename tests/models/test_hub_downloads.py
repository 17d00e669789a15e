"""Models from a hub on loopback (hub_server), by the real client and our own loading code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

import clipdistill
from clipdistill import ModelNotFoundError
from clipdistill.models import hub as hub_module
from clipdistill.models.architecture import build_student
from clipdistill.models.teacher import load_teacher
from clipdistill.models.teachers import DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED
from hub_server import FOREVER, Hub, serving
from terminals import environment

TEACHER, STUDENT = "lab/tiny-clip", "lab/tiny-student"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def student_files() -> dict[str, bytes]:
    """A repository of timm's: test_resnet with random weights."""
    torch.manual_seed(5)
    network = build_student("test_resnet", 8)
    config = {
        "architecture": "test_resnet",
        "num_classes": 8,
        "pretrained_cfg": {"input_size": [3, 160, 160], "num_classes": 8},
    }
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(network.state_dict()),
    }


@pytest.fixture
def hub(tiny_teacher_dir: Path, student_files, tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    """A hub with a teacher and a student, an empty cache, and a client that asks only this hub."""
    with serving() as found:
        files = {name: (tiny_teacher_dir / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        found.repositories = {TEACHER: files, STUDENT: dict(student_files)}
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in (*hub_module.PROXIES, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
        yield found


def teacher():
    return load_teacher(f"hf-hub:{TEACHER}", device="cpu")


def student() -> torch.nn.Module:
    return build_student(f"hf-hub:{STUDENT}", 8, pretrained=True)


def refused(load) -> str:
    """The sentence of a model that cannot be loaded."""
    with pytest.raises(ModelNotFoundError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_teacher_is_downloaded_once(hub: Hub, tiny_teacher) -> None:
    assert teacher().card.fingerprint == tiny_teacher.card.fingerprint
    assert f"GET stored {WEIGHTS}" in hub.seen
    hub.seen.clear()
    teacher()
    assert hub.seen
    assert not [line for line in hub.seen if line.startswith("GET")]


def test_a_student_is_downloaded_with_its_weights(hub: Hub, student_files) -> None:
    from safetensors.torch import load

    wanted = load(student_files["model.safetensors"])
    found = student().state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_without_the_hub_the_cache_is_enough(hub: Hub, monkeypatch, tiny_teacher) -> None:
    teacher(), student()
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert teacher().card.fingerprint == tiny_teacher.card.fingerprint
    student()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    assert teacher().card.fingerprint == tiny_teacher.card.fingerprint
    assert hub.seen == []


@pytest.mark.parametrize("fault", ["503", "hang up"])
def test_a_hub_that_fails_leaves_the_cache_usable(hub: Hub, fault: str, tiny_teacher) -> None:
    teacher()
    hub.heads = fault
    assert teacher().card.fingerprint == tiny_teacher.card.fingerprint


@pytest.mark.parametrize("then", [[], ["whole"]])
def test_a_download_that_is_cut_continues(hub: Hub, then, tiny_teacher, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what arrived in part is kept
    half = len(hub.repositories[TEACHER][WEIGHTS]) // 2
    hub.faults[WEIGHTS] = ["cut", *then]
    assert teacher().card.fingerprint == tiny_teacher.card.fingerprint
    assert f"GET stored {WEIGHTS} from {half - half % 4096}" in hub.seen


@pytest.mark.parametrize(
    ("load", "file"),
    [(teacher, WEIGHTS), (student, "model.safetensors")],
    ids=["teacher", "student"],
)
class TestOneSentence:
    """What goes wrong at the hub is one sentence, and the next attempt works."""

    def test_a_connection_that_is_lost(self, hub: Hub, load, file: str) -> None:
        hub.faults[file] = ["hang up"] * FOREVER
        assert "the connection to the hub was lost" in refused(load)
        hub.faults.clear()
        load()

    def test_a_hub_that_answers_503(self, hub: Hub, load, file: str) -> None:
        hub.faults[file] = ["503"] * FOREVER
        assert "the hub answered with an error (503); try again later" in refused(load)
        hub.faults.clear()
        hub.heads = "503"
        assert "the hub answered with an error (503); try again later" in refused(load)
        hub.heads = ""
        load()

    def test_content_that_is_not_what_was_announced(self, hub: Hub, load, file: str) -> None:
        hub.faults[file] = ["flip"]
        text = refused(load)
        assert f"{file} arrived damaged: its SHA-256 is not the one that the hub names" in text
        assert "run the same command again" in text
        load()

    def test_a_gated_repository(self, hub: Hub, load, file: str) -> None:
        hub.gated |= {TEACHER, STUDENT}
        name = TEACHER if file == WEIGHTS else STUDENT
        text = refused(load)
        assert f"{name} is gated: accept its conditions on {hub.endpoint}/{name}" in text
        assert "hf auth login" in text

    def test_a_repository_that_is_not_there(self, hub: Hub, load, file: str) -> None:
        hub.repositories.clear()
        text = refused(load)
        assert "there is no such repository, or it is private" in text
        assert "hf auth login" in text

    def test_a_file_that_is_not_there(self, hub: Hub, load, file: str) -> None:
        for files in hub.repositories.values():
            files.pop(file, None)
        assert "the repository has no file " in refused(load)

    def test_nobody_there_and_nothing_in_the_cache(self, hub, load, file, monkeypatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        text = refused(load)
        assert "the hub cannot be reached, and its local cache does not hold the file" in text


def test_a_teacher_of_open_clips_list_is_explained_too(hub: Hub) -> None:
    def load() -> None:
        load_teacher(DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED, device="cpu")

    repository = hub_module.DEFAULT_FILE[0]
    assert f"{repository}: there is no such repository" in refused(load)
    hub.repositories[repository] = {WEIGHTS: b"weights"}
    hub.faults[WEIGHTS] = ["hang up"] * FOREVER
    assert "the connection to the hub was lost" in refused(load)


def test_a_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add(TEACHER)
    (tmp_path / "token").write_text("hf_secret")
    teacher()
    assert hub.tokens == {"127.0.0.1"}


def test_doctor_asks_the_hub_once(hub: Hub) -> None:
    repository, file = hub_module.DEFAULT_FILE
    (one,) = clipdistill.doctor("hub", hub=True).checks
    assert one.state == "broken"
    assert "there is no such repository" in one.found
    hub.repositories[repository] = {file: b"{}"}
    hub.seen.clear()
    (one,) = clipdistill.doctor("hub", hub=True).checks
    assert (one.state, hub.seen) == ("works", [f"HEAD {file}"])


def test_the_variables_that_people_set(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HOME, which the client reads when it is imported."""
    repository, file = hub_module.DEFAULT_FILE
    hub.repositories[repository] = {file: b"{}"}
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-m", "clipdistill", "doctor", "hub", "cache", "--hub", "--json"],
        env=environment(HF_HOME=str(home), HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0"),
        capture_output=True,
        text=True,
        check=False,
    )
    found = {one["part"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["hub"]["state"] == "works"
    assert found["cache"]["found"].endswith(f"free in {home / 'hub'}")
    assert hub.seen == [f"HEAD {file}"]
