"""Stores that cannot be used: one clear sentence, over every verb that takes a URL."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from clipdistill.cli import main
from clipdistill.core import storage
from clipdistill.distillation.embed import embed
from gcs_server import forget_clients as forget_google
from gcs_server import gs  # noqa: F401  (fixture)
from hub_server import hub_store  # noqa: F401  (fixture)
from s3_server import forget_clients as forget_s3
from s3_server import s3, s3_process  # noqa: F401  (fixtures)

NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there."""
ONLY_READ = (7, "hf:// can only be read: every file that is written to the hub is a commit")


@pytest.fixture(scope="module")
def commands(tmp_path_factory, pictures, tiny_teacher_name, tiny_text):
    """A function of a URL that gives commands which read it, and commands which write to it."""
    folder = tmp_path_factory.mktemp("commands")
    pictures(folder / "images", 4)
    embed(folder / "images", folder / "emb", model_name=tiny_teacher_name, device="cpu")
    (folder / "urls.txt").write_text("https://example.org/a.jpg\n")
    images, emb, out, text = (str(folder / name) for name in ("images", "emb", "out", "text.npy"))
    text = str(tiny_text)

    def of(url: str) -> tuple[list[list[str]], list[list[str]]]:
        reading = [
            ["embed", url, out],
            ["embed", f"{url}/{{00..01}}.tar", out],
            ["select", url, emb, text, out, "--num-images", "2"],
            ["select", images, url, text, out, "--num-images", "2"],
            ["pool", "search", url, "--text", text],
            ["distill", "test_resnet", url, emb, out],
            ["distill", "test_resnet", images, url, out],
            ["status", url],
        ]
        writing = [
            ["embed", images, url],
            ["select", images, emb, text, url, "--num-images", "2"],
            ["download", str(folder / "urls.txt"), url, "--layout", "webdataset"],
        ]
        return reading, writing

    return of


@pytest.fixture
def refused(commands, capsys, monkeypatch) -> Callable[..., None]:
    """Check that all commands with a URL end with an exit code and a sentence."""
    monkeypatch.setattr(storage, "PAUSE", 0.0)

    def check(url: str, text: str, code: int, written: tuple[int, str] | None = None) -> None:
        reading, writing = commands(url)
        for command in reading + writing:
            to_write = written if written and command in writing else (code, text)
            assert main(command) == to_write[0], command
            shown = " ".join(capsys.readouterr().err.split())
            assert re.match(f"error: {re.escape(url)}.*{to_write[1]}", shown), (command, shown)
            assert shown.count("error: ") == 1
            assert "Traceback" not in shown

    return check


def test_a_protocol_that_is_not_known(refused):
    refused("foo://bucket/a", r"expected a path, or a URL that begins with s3://", 2)


@pytest.mark.parametrize(
    ("package", "scheme"),
    [("s3fs", "s3"), ("fsspec", "s3"), ("gcsfs", "gs"), ("huggingface_hub", "hf")],
)
def test_a_package_that_is_missing(refused, monkeypatch, package, scheme):
    registry = pytest.importorskip("fsspec.registry")
    monkeypatch.delitem(registry._registry, scheme, raising=False)
    storage._system.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    text = rf"needs the package '{package}'.*pip install 'clipdistill\[storage\]'"
    refused(f"{scheme}://lab/images", text, 9, ONLY_READ if scheme == "hf" else None)
    storage._system.cache_clear()


@pytest.mark.parametrize("fixture", ["s3", "gs"])
def test_a_bucket_that_is_missing(refused, request, fixture):
    request.getfixturevalue(fixture)
    text = r"there is no bucket 'no-such-place'\. Check its name"
    refused(f"{fixture}://no-such-place/a", text, 3, (7, text))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("hf://datasets/lab/none/a", "there is no such repository.*hf auth login"),
        ("hf://datasets/lab/images@v2/a", "has no such revision"),
        ("hf://datasets/lab", "expected a repository, such as hf://datasets/ORG/NAME"),
        ("hf://buckets/lab/images/a", "buckets are not read"),
    ],
)
def test_a_repository_that_is_missing(refused, hub_store, url, text):  # noqa: F811
    hub_store.repositories["datasets/lab/images"] = {"a/1.png": b"1"}
    refused(url, text, 3, ONLY_READ)


def test_credentials_that_are_missing(refused, s3, gs, monkeypatch, tmp_path):  # noqa: F811
    gs.private = True
    text = "no credentials.*gcloud auth application-default login"
    refused(gs.url, text, 3, (7, text))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    forget_s3()
    text = "no credentials.*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    refused(s3.url, text, 3, (7, text))


def test_what_credentials_do_not_allow(refused, s3, gs):  # noqa: F811
    for store in (s3, gs):
        store.every = (1, 403)
        text = "access is denied.*Check the credentials"
        refused(store.url, text, 3, (7, text))


def test_no_network(refused, s3, gs, hub_store, monkeypatch):  # noqa: F811
    from huggingface_hub import constants

    monkeypatch.setattr(storage, "_answered", set())
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", NOWHERE)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    forget_s3()
    forget_google()
    text = "the store cannot be reached .*Check the network, and"
    refused("s3://bucket/a", f"{text} AWS_ENDPOINT_URL", 10)
    refused("gs://bucket/a", f"{text} STORAGE_EMULATOR_HOST", 10)
    refused("hf://datasets/lab/images", f"{text} HF_ENDPOINT", 10, ONLY_READ)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("hf://datasets/lab/images", "HF_HUB_OFFLINE is set. Unset it", 10, ONLY_READ)
