"""A user's own script is checked against our types: py.typed is there, and the stub is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import clipdistill

SCRIPT = """\
from pathlib import Path

import clipdistill

clipdistill.progress("none")
clipdistill.embed("photos", Path("emb"), model_name="local-dir:teacher")
clipdistill.embed_text("prompts.txt", "text.npy")
clipdistill.distill("resnet18", "photos", "emb", "student", num_epochs=2)
clipdistill.export("student", "classifier.onnx", text="text.npy")
found = clipdistill.predict("classifier.onnx", "cat.jpg")
best: tuple[str, float] = found.predictions[0].ranked[0]
print(best, found.summary(), clipdistill.run("prompts.txt", "runs/pets", images="photos").report)
"""
WRONG = {
    'clipdistill.embed("photos", "emb", batch_sise=2)': "call-arg",
    'clipdistill.embed("photos", 3)': "arg-type",
    'clipdistill.distill("resnet18", "photos", "emb", "student", criterion="mae")': "arg-type",
    "found.prediction": "attr-defined",
    "clipdistill.imbed": "attr-defined",
}
"""Mistakes that have to be found, and how mypy names them."""

# Of other packages only the names are used: reading them would take four times as long.
CONFIG = """\
[mypy]
follow_imports = skip
[mypy-clipdistill.*]
follow_imports = normal
"""


def test_a_users_script(tmp_path: Path) -> None:
    source = Path(clipdistill.__file__).parent
    assert (source / "py.typed").is_file()
    lines = [f"{code}  # type: ignore[{name}]\n" for code, name in WRONG.items()]
    # --strict also complains of an ignored mistake that is none.
    (tmp_path / "script.py").write_text(SCRIPT + "".join(lines))
    (tmp_path / "mypy.ini").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(source.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
