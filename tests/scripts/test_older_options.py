"""The older scripts' options: which there are, that none is ignored, and whose messages name."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clipdistill.core.hints import fits, reworded
from clipdistill.formats.student import load_card, load_weights
from clipdistill.verbs import VERBS
from messages import SOURCES, module_of, parsed, reachable
from older_scripts import NAMES, SCRIPTS, run

STUDENT = ["model_name", "checkpoint_path"]
TEACHER = ["--model_name", "--pretrained", "--device"]
CHECKED = ["--image_size", "--output_dim", "--use_asp", "--use_qat", "--device"]
ARGUMENTS = {
    "compute_openclip_embeddings": [
        *("input_folder", "output_folder", "--batch_size", "--num_workers"),
        *TEACHER,
    ],
    "compute_openclip_text_embeddings": ["text_prompts_file", "output_path", *TEACHER],
    "demo_pytorch": [
        *(*STUDENT, "text_embeddings_path", "--camera_device", "--video", "--text_prompts"),
        *CHECKED,
    ],
    "distil_model_embeddings": [
        *("model_name", "images_folder", "embeddings_folder", "output_dir", *CHECKED),
        *("--batch_size", "--num_workers", "--num_epochs", "--pretrained", "--lr", "--momentum"),
        *("--weight_decay", "--optimizer", "--criterion", "--init_checkpoint"),
    ],
    "download_images": [
        *("input_urls_file", "output_folder", "--max_workers", "--timeout", "--verify"),
        "--allow_private",
    ],
    "export_onnx": [*STUDENT, "output_path", *CHECKED, "--target"],
    "export_openclip_onnx": ["output_path", "--image_size", *TEACHER],
    "predict_pytorch": [
        *(*STUDENT, "text_embeddings_path", "image_path", "--text_prompts"),
        *CHECKED,
    ],
    "search_clip_images": [
        *("text_prompts_file", "output_file", "-n", "--num_images", "-m", "--num_result_ids"),
        *("--max_workers", "-a", "--append", "--url", "--indice_name"),
    ],
}
"""The names of NVIDIA's clip-distillation (but --shuffle), and the few of ours."""


@pytest.mark.parametrize("script", NAMES)
def test_the_names_are_kept_and_every_one_is_explained(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    _, _, described = done.stdout.partition("positional arguments:\n")
    entries = re.findall(r"^  (\S.*?)(?:  +|\n +)(\S.*)$", described, re.MULTILINE)
    names = [name for entry, _ in entries for name in re.findall(r"^\w+$|(?<!\S)--?\w+", entry)]
    expected = [*ARGUMENTS[script], "-h", "--help"]
    assert sorted(names) == sorted(expected)
    positional = [name for name in ARGUMENTS[script] if not name.startswith("-")]
    assert [name for name in names if not name.startswith("-")] == positional
    for option, value in (("--batch_size", 64), ("--max_workers", 16), ("--device", "auto")):
        if option in names:
            assert re.search(rf"{option} .*\(default:\s+{value}\)", described, re.DOTALL)


def test_help_needs_no_torch() -> None:
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); "
        "[runpy.run_path(f'{sys.argv[1]}/{name}.py') for name in sys.argv[2:]]; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPTS), *NAMES],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def only_its_own(script: str, text: str) -> bool:
    """Whether a message, its quoted commands left out, names options of the script alone."""
    plain = re.sub(r"`[^`]*`|: clipdistill .*", "", text)
    return set(re.findall(r"(?<![\w/.-])--[a-z][\w-]*", plain)) <= set(ARGUMENTS[script])


@pytest.fixture(scope="module")
def data(tmp_path_factory, pictures, tiny_student: Path, tiny_text: Path) -> Path:
    """Images, embeddings of the older scripts, and a student's checkpoint with its card."""
    data = tmp_path_factory.mktemp("data")
    paths = pictures(data / "images", 8)
    (data / "embeddings").mkdir()
    random = np.random.default_rng(0)
    for path in paths:
        vector = random.normal(size=16).astype("float32")
        np.save(data / "embeddings" / f"{path.stem}.npy", vector)
    state = {"model": load_weights(tiny_student / "model.safetensors")}
    torch.save(state, data / "older.pth")
    torch.save({**state, "card": load_card(tiny_student).to_json()}, data / "checkpoint.pth")
    np.save(data / "text.npy", np.load(tiny_text))
    return data


def distil(data: Path, out: Path, *args: object, arch: str = "test_resnet"):
    folders = (data / "images", data / "embeddings", out)
    return run(
        "distil_model_embeddings",
        arch,
        *(*folders, "--num_epochs", 1, "--batch_size", 4, "--device", "cpu"),
        *args,
    )


CONTRADICTIONS = {
    "--image_size 64": "takes images of 32 px, not of 64 px.",
    "--output_dim 17": "gives 16-d embeddings, not 17-d.",
}


@pytest.mark.parametrize("given", CONTRADICTIONS)
@pytest.mark.parametrize("script", ["predict_pytorch", "export_onnx", "demo_pytorch"])
def test_what_is_given_of_a_checkpoint_must_be_true(script, given, data, tmp_path) -> None:
    out = tmp_path / "a.onnx"
    rest = {
        "predict_pytorch": (data / "text.npy", data / "images/picture_0.png"),
        "export_onnx": (out,),
        "demo_pytorch": (data / "text.npy", "--video", data / "a.mp4"),
    }[script]
    checkpoint = data / "checkpoint.pth"
    done = run(script, "test_resnet", checkpoint, *rest, *given.split())
    assert done.returncode == 5
    assert CONTRADICTIONS[given] in done.stderr
    other = run(script, "resnet18", checkpoint, *rest)
    assert other.returncode == 5
    assert other.stderr == f"error: {checkpoint} is a test_resnet, not a resnet18.\n"
    assert not out.exists()


def test_without_a_size_the_checkpoint_decides(data, tmp_path) -> None:
    done = run("export_onnx", "test_resnet", data / "checkpoint.pth", tmp_path / "a.onnx")
    assert done.returncode == 0, done.stderr
    assert "32x32 px" in done.stdout
    older = run("export_onnx", "test_resnet", data / "older.pth", tmp_path / "b.onnx")
    assert older.returncode == 0, older.stderr
    assert "224x224 px" in older.stdout
    assert "224 px is used. --image_size gives another." in older.stderr
    assert "--images" not in older.stderr + older.stdout


def test_the_teacher_is_not_exported_at_another_size(tiny_teacher_name, tmp_path) -> None:
    teacher = ("--model_name", tiny_teacher_name)
    out = tmp_path / "a.onnx"
    done = run("export_openclip_onnx", out, *teacher, "--image_size", 64)
    assert done.returncode == 5
    assert "takes images of 32 px, not of 64 px. Leave --image_size away" in done.stderr
    assert not out.exists()
    assert run("export_openclip_onnx", out, *teacher, "--image_size", 32).returncode == 0


def test_a_student_that_starts_from_another_keeps_its_input(data, tmp_path) -> None:
    done = distil(data, tmp_path / "a", "--init_checkpoint", data / "checkpoint.pth")
    assert done.returncode == 0, done.stderr
    assert load_card(tmp_path / "a").preprocess.size == 32
    assert json.loads((tmp_path / "a/args.json").read_text())["image_size"] == 32
    older = distil(data, tmp_path / "b", "--init_checkpoint", data / "older.pth")
    assert older.returncode == 0, older.stderr
    assert load_card(tmp_path / "b").preprocess.size == 224


def test_a_checkpoint_to_start_from_needs_no_hub(data, tmp_path) -> None:
    start = ("--init_checkpoint", data / "checkpoint.pth", "--pretrained")
    done = distil(data, tmp_path / "a", *start)
    assert done.returncode == 0, done.stderr


def test_pretrained_weights_without_a_hub(data, tmp_path) -> None:
    done = distil(data, tmp_path / "a", "--pretrained")
    assert done.returncode == 6
    assert "starts from random ones" in done.stderr
    assert only_its_own("distil_model_embeddings", done.stderr)
    assert not (tmp_path / "a").exists()


def test_momentum_is_of_sgd(data, tmp_path) -> None:
    done = distil(data, tmp_path / "a", "--momentum", 0.9)
    assert done.returncode == 2
    assert "--momentum 0.9 is for --optimizer sgd" in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--output_dim", 17), "Leave --output_dim away"),
        (("--use_asp",), "--init_checkpoint"),
        (("--batch_size", 1), "--batch_size 1: expected 2 or more"),
        (("--lr", 1e30), "Try a lower --lr. Use another output folder; --init_checkpoint starts"),
        (("--init_checkpoint", "none.pth"), "none.pth: no such checkpoint"),
    ],
)
def test_messages_name_the_options_of_the_script(data, tmp_path, args, expected) -> None:
    done = distil(data, tmp_path / "a", "--image_size", 32, *args)
    assert done.returncode >= 2
    assert expected in done.stderr
    assert only_its_own("distil_model_embeddings", done.stderr)


VERB_OF = {
    "compute_openclip_embeddings": "embed",
    "compute_openclip_text_embeddings": "embed-text",
    "demo_pytorch": "demo",
    "distil_model_embeddings": "distill",
    "download_images": "download",
    "export_onnx": "export",
    "export_openclip_onnx": "export",
    "predict_pytorch": "predict",
    "search_clip_images": "search",
}
NEVER_SHOWN = {
    # What these say of an option is about one that was given, and the scripts do not give it.
    "collect/sources/knn.py",
    "collect/sources/options.py",
    "collect/web/download.py",
    "core/charts/inline.py",
    "core/packages.py",
    "core/serving.py",
    "deploy/export.py",
    "show/demo.py",
}


@pytest.mark.parametrize("script", NAMES)
def test_no_message_advises_an_option_that_the_script_does_not_have(script, monkeypatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    names = runpy.run_path(str(SCRIPTS / f"{script}.py"))
    renamed = runpy.run_path(str(SCRIPTS / "_older.py"))["RENAMED"]
    verb = next(one for one in VERBS if one.name == VERB_OF[script])
    wrong = {}
    for path in reachable(module_of(verb)):
        name = path.relative_to(SOURCES).as_posix()
        for text in () if name in NEVER_SHOWN else parsed(path)[0]:
            shown = reworded(text, ARGUMENTS[script], names.get("WORDS", {}), renamed)
            if not fits(shown, ARGUMENTS[script]) and not shown.startswith("--"):
                wrong[name] = shown
    assert wrong == {}
