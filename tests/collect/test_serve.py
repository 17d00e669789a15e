"""serve: the stage around the service: the pool's teacher, warnings, Ctrl-C."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from clipdistill.collect.serve import ServeOptions, serve
from clipdistill.core.errors import InputError, MismatchError
from clipdistill.distillation.embed import embed

SCRIPT = """
import sys
from pathlib import Path
from clipdistill.cli import run_script
from clipdistill.collect.serve import ServeOptions, serve
options = dict(option.split("=", 1) for option in sys.argv[3:])
options = {k: {"True": True, "False": False}.get(v, v) for k, v in options.items()}
images = Path(sys.argv[2]) if sys.argv[2] else None
action = lambda: serve(Path(sys.argv[1]), images=images, options=ServeOptions(port=0, **options))
sys.exit(run_script(action))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures, tiny_teacher_name):
    root = tmp_path_factory.mktemp("serve")
    pictures(root / "images", 6)
    embed(root / "images", root / "emb", model_name=tiny_teacher_name, device="cpu", num_workers=0)
    return root


class Served:
    """`serve` in a process of its own."""

    def __init__(self, pool, images="", **options):
        words = [f"{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(pool), str(images), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if found := re.search(r"at (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError(f"it did not start: {self.said}")

    def post(self, path, body):
        data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data=data, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stop(self, number=signal.SIGINT):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def test_texts_images_and_ctrl_c(folder, tiny_teacher):
    served = Served(folder / "emb", folder / "images", device="cpu")
    try:
        status, items = served.post("/knn-service", {"text": "a red disc", "num_images": 6})
        assert status == 200
        assert len(items) == 6
        with urllib.request.urlopen(items[0]["url"], timeout=10) as answer:
            data = answer.read()
        assert data == (folder / "images" / items[0]["image_path"]).read_bytes()
        image = base64.b64encode(data).decode()
        status, found = served.post("/knn-service", {"image": image, "num_images": 1})
        assert status == 200
        assert found[0]["image_path"] == items[0]["image_path"]
        assert found[0]["similarity"] > 0.999
        query = tiny_teacher.embed_texts(["a red disc"])[0]
        _, same = served.post("/knn-service", {"embedding_input": query.tolist(), "num_images": 6})
        assert np.allclose([i["similarity"] for i in items], [i["similarity"] for i in same])
    finally:
        code, out, err = served.stop()
    assert code == 0
    assert "Stopped serving" in out
    assert "Traceback" not in served.said + err


def test_without_text_no_teacher_is_loaded(folder):
    served = Served(folder / "emb", text=False, name="mine")
    try:
        with urllib.request.urlopen(f"{served.url}/indices-list", timeout=10) as answer:
            assert json.load(answer) == ["mine"]
        status, answer = served.post("/knn-service", {"text": "a", "num_images": 1})
        assert status == 400
        assert "embedding_input" in answer["message"]
    finally:
        code, _, err = served.stop(signal.SIGTERM)
    assert code in (0, -signal.SIGTERM)
    assert "Traceback" not in err


def test_other_machines_may_reach_it(folder):
    served = Served(folder / "emb", text=False, host="0.0.0.0")
    try:
        assert "no passwords" in re.sub(r"\s+", " ", served.said)
    finally:
        assert served.stop()[0] == 0


def test_wrong_starts(folder, tmp_path, other_teacher):
    with pytest.raises(InputError, match="no such pool"):
        serve(tmp_path / "missing")
    with pytest.raises(InputError, match="1 or more"):
        serve(folder / "emb", options=ServeOptions(max_body=0))
    with pytest.raises(InputError, match="--name"):
        serve(folder / "emb", options=ServeOptions(name=" "))
    with pytest.raises(InputError, match="Cannot listen"):
        serve(folder / "emb", options=ServeOptions(host="a..b", text=False))
    with pytest.raises(InputError, match="no such folder"):
        serve(folder / "emb", images=tmp_path / "missing", options=ServeOptions(port=0))
    name = other_teacher.card.model_name
    with pytest.raises(MismatchError):
        serve(folder / "emb", options=ServeOptions(port=0, model_name=name, device="cpu"))
