"""No dependency reports to its maker: nothing is kept in the home folder, nobody is called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipdistill.core.privacy import SWITCHES

CI = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "BUILD_BUILDID", "JENKINS_URL", "GITLAB_CI")
"""ONNX Runtime reports nothing where one of these is set, which would hide that it does."""
SUSPECT = re.compile(r"Microsoft|DeveloperTools|telemetry|deviceid|openvino_telemetry", re.I)


def command(verb: str, classifier: Path, photos: Path, student: Path) -> list[str]:
    return {
        "predict": ["predict", str(classifier), str(photos)],
        "demo": ["demo", str(classifier), "--images", str(photos)],
        "evaluate": ["evaluate", str(classifier), "--images", str(photos)],
        "benchmark": ["benchmark", str(classifier), "--rounds", "1", "--images", str(photos)],
        "export": [
            "export",
            str(student),
            str(photos.parent / "again.onnx"),
            "--images",
            str(photos),
        ],
    }[verb]


@pytest.mark.parametrize("verb", ["predict", "demo", "evaluate", "benchmark", "export"])
def test_nothing_is_kept_and_nobody_is_called(
    verb, tiny_classifier, tiny_student, pictures, tmp_path
):
    photos, home = tmp_path / "photos", tmp_path / "home"
    pictures(photos, 3)
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in {*CI, *SWITCHES}}
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "clipdistill"]
    line += command(verb, tiny_classifier, photos, tiny_student)
    log = tmp_path / "strace.log"
    if shutil.which("strace"):
        line = ["strace", "-f", "-qq", "-e", "trace=openat,mkdir,connect", "-o", str(log), *line]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    kept = [str(path.relative_to(home)) for path in home.rglob("*")]
    assert not [name for name in kept if SUSPECT.search(name)]
    if log.exists():
        calls = log.read_text(errors="replace").splitlines()
        installed = str(Path(sys.prefix))
        opened = [line for line in calls if "openat" in line or "mkdir" in line]
        assert opened
        assert not [line for line in opened if SUSPECT.search(line) and installed not in line]
        assert not [line for line in calls if re.search(r"connect\(.*AF_INET", line)]
