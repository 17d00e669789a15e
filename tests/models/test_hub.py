"""The model hub: one connection when it cannot be reached, none for untrusted cards."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from clipdistill import ClipDistillError, InputError, ModelNotFoundError
from clipdistill.models import hub
from clipdistill.models.architecture import build_student
from clipdistill.models.open import open_embedder


@pytest.fixture
def online(monkeypatch):
    """huggingface_hub as if the network were there, without a proxy."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in hub.PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener(monkeypatch, online) -> Iterator[list[str]]:
    """A hub on loopback that hangs up at once; yields a line per connection."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                seen.append("connection")
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield seen
        stop.set()
        thread.join()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_without_a_network_only_the_local_cache_is_tried(monkeypatch, online):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with hub.hub_access():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_with_a_network_the_hub_is_asked(listener):
    with hub.hub_access():
        assert not constants.HF_HUB_OFFLINE


def test_a_proxy_is_taken_to_work(monkeypatch, online):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with hub.hub_access():
        assert not constants.HF_HUB_OFFLINE


def test_pretrained_weights_without_a_network_say_what_to_do(monkeypatch, online):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(ModelNotFoundError, match=r"--student-weights FILE.*--no-pretrained"):
        build_student("resnet18", 8, pretrained=True)


def test_a_card_that_names_the_hub_asks_nobody(listener, tmp_path):
    """Whoever opens a stranger's student must not be announced to a server."""
    card = {
        "format": "clipdistill.student",
        "version": 1,
        "arch": "hf-hub:stranger/network",
        "dim": 8,
        "preprocess": {"size": 32},
        "teacher": None,
        "training": {},
    }
    (tmp_path / "student.json").write_text(json.dumps(card))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ClipDistillError):
        open_embedder(str(tmp_path))
    with pytest.raises((InputError, ModelNotFoundError)):
        build_student("hf-hub:stranger/network", 8)
    assert listener == []
