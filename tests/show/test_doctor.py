"""doctor: what works on a machine, and what it says about the rest."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

import clipdistill
from clipdistill import cli
from clipdistill.core.errors import OptionError
from clipdistill.core.packages import EXTRA_PACKAGES, EXTRAS
from clipdistill.show import doctor as verb
from clipdistill.show.checks import machine


def checked(*parts: str, **options: bool) -> dict:
    return {one.part: one for one in clipdistill.doctor(*parts, **options).checks}


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`shadow("cv2", code)`: what child processes import by that name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def put(module: str, code: str) -> None:
        (tmp_path / f"{module}.py").write_text(code)

    return put


def test_the_base_works_here_and_json_says_so(capsys) -> None:
    assert cli.main(["doctor", "base", "python", "--json", "--quiet"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [(one["part"], one["state"]) for one in value["checks"]] == [
        ("python", "works"),
        ("base", "works"),
    ]
    assert (
        f"onnxruntime {importlib.metadata.version('onnxruntime')} (" in value["checks"][1]["found"]
    )
    assert "CPU" in value["checks"][1]["found"]


def test_a_missing_extra_says_what_it_gives_and_how_to_install_it(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert cli.main(["doctor", "openvino", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "missing" in shown
    assert "not installed: openvino" in shown
    assert f"openvino: {EXTRAS['openvino']}. pip install 'clipdistill[openvino]'" in shown
    assert cli.main(["doctor", "openvino", "--quiet", "--strict"]) == 9


def test_a_package_that_cannot_be_imported_or_ends_the_process_is_broken(shadow) -> None:
    shadow("jinja2", "raise ImportError('libGL.so.1: cannot open shared object file')")
    shadow("matplotlib", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    shadow("onnxruntime", "print('noise')\ndef get_available_providers(): return ['CPU']")
    found = checked("base", "plots", "report")
    assert found["base"].state == "works"
    assert found["plots"].state == found["report"].state == "broken"
    assert "matplotlib: importing it ended Python with SIGILL (it was built" in found["plots"].found
    assert "jinja2: ImportError: libGL.so.1" in found["report"].found
    assert "pip install --upgrade --force-reinstall" in found["report"].remedy


def test_a_package_that_is_too_old_is_broken(monkeypatch) -> None:
    real = importlib.metadata.version
    old = {"jinja2": "2.4"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: old.get(name) or real(name))
    one = checked("report")["report"]
    assert one.state == "broken"
    assert "jinja2: version 2.4 is installed, but clipdistill needs >=3.1" in one.found


def test_gpus_are_computed_on(shadow, monkeypatch) -> None:
    torch = """
class cuda:
    device_count = lambda: {count}
    get_device_properties = lambda index: type("P", (), dict(name="Orin", major=8, minor=7))
class backends:
    class mps:
        is_available = lambda: False
def ones(*shape, device):
    {fault}
    return type("T", (), dict(sum=lambda self: self, item=lambda self: 8.0))()
"""
    monkeypatch.setitem(EXTRA_PACKAGES, "torch", ("a-torch-of-ones-own", "train"))
    shadow("torch", torch.format(count=1, fault="pass"))
    assert checked("cuda")["cuda"].found == "Orin, compute capability 8.7"
    shadow("torch", torch.format(count=1, fault="raise RuntimeError('no kernel image')"))
    broken = checked("cuda")["cuda"]
    assert (broken.state, broken.found) == ("broken", "RuntimeError: no kernel image")
    shadow("torch", torch.format(count=0, fault="pass"))
    assert "finds no GPU" in checked("cuda")["cuda"].found


def test_cameras_are_listed_and_not_opened(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "CAMERAS", tmp_path / "sys")
    monkeypatch.setattr(machine, "DEVICES", tmp_path / "dev")
    assert checked("camera")["camera"].state == "missing"
    for number, index in (("0", "0"), ("1", "1"), ("2", "0")):
        folder = tmp_path / "sys" / f"video{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"Webcam {number}\n")
        (folder / "index").write_text(f"{index}\n")
    one = checked("camera")["camera"]
    assert (one.state, one.found) == ("broken", "no permission to open /dev/video0, /dev/video2")
    assert "usermod -aG video" in one.remedy
    (tmp_path / "dev").mkdir()
    for number in "012":
        (tmp_path / "dev" / f"video{number}").write_text("")
    assert checked("camera")["camera"].found == "0: Webcam 0; 2: Webcam 2"


def test_a_cache_that_cannot_be_written_and_a_full_disk(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    one = checked("cache")["cache"]
    assert (one.state, one.found) == ("broken", f"{tmp_path / 'file'} is no folder")
    assert "HF_HOME=FOLDER" in one.remedy
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "new" / "hub"))
    assert checked("cache")["cache"].state == "works"
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(machine, "LEAST_FREE", 1 << 80)
    assert checked("disk")["disk"].found.startswith("only ")


def test_nobody_is_called_unless_it_is_wanted(monkeypatch) -> None:
    monkeypatch.setattr(machine, "hub_problem", lambda: pytest.fail("the hub was called"))
    one = checked("hub", strict=True)["hub"]
    assert (one.state, one.found) == ("not tried", "it is contacted only with --hub")
    assert clipdistill.doctor("hub", strict=True).exit_code == 0


def test_an_unknown_part_is_explained() -> None:
    with pytest.raises(OptionError, match=r"PARTS cudda: .*Did you mean cuda\?.*Known: python"):
        clipdistill.doctor("cudda")


def test_every_extra_of_a_package_has_its_purpose() -> None:
    assert {extra for _, extra in EXTRA_PACKAGES.values()} == set(EXTRAS)
    assert set(verb.PARTS) >= {*EXTRAS, *machine.MACHINE}
