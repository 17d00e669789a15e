"""Shared fixtures: pictures drawn on the spot, a tiny OpenCLIP teacher, tiny students.

Everything is random but seeded, and spread out: freshly initialised networks answer almost the same
to every picture (and timm's ResNets exactly so, see `zero_init_last`), which would make every
comparison of two runtimes trivially good.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Networks this small gain nothing from threads, and on a busy machine lose tenfold by them.
# (Set before torch is imported; processes that tests start inherit it.)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# FFmpeg reads it once a process, and tests write videos before the product opens one.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

DIM = 16
TEACHER_SIZE = 32
STUDENT_SIZE = 32
LABELS = ("red disc", "green square", "blue triangle", "yellow stripe")

Pictures = Callable[..., list[Path]]
MakeText = Callable[..., Path]
MakeStudent = Callable[..., Path]


def draw_picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A noisy background with a few coloured shapes."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 90, (size[1], size[0], 3)) + random.integers(0, 165, 3)
    image = Image.fromarray(noise.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        left, top = random.integers(0, size[0] - 10), random.integers(0, size[1] - 10)
        box = (left, top, left + random.integers(6, 24), top + random.integers(6, 24))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        [pen.ellipse, pen.rectangle][int(random.integers(2))](
            tuple(int(value) for value in box), fill=colour
        )
    return image


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """`pictures(folder, n=4, seed=0, ending=".png")` draws n pictures into `folder`."""

    def draw(folder: Path, n: int = 4, *, seed: int = 0, ending: str = ".png") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"picture_{index}{ending}" for index in range(n)]
        for index, path in enumerate(paths):
            draw_picture(1000 * seed + index).save(path)
        return paths

    return draw


@pytest.fixture(scope="session")
def draw_pixels() -> Callable[..., np.ndarray]:
    """`draw_pixels(n, side=32)` draws pictures as uint8 (n, side, side, 3)."""

    def draw(n: int, side: int = STUDENT_SIZE) -> np.ndarray:
        return np.stack([np.asarray(draw_picture(900 + i, (side, side))) for i in range(n)])

    return draw


@pytest.fixture(scope="session")
def labels() -> tuple[str, ...]:
    """The classes of `tiny_text` and `tiny_classifier`."""
    return LABELS


def spread(module, size: int, seed: int = 0) -> None:
    """Give a random network's batch norms real statistics and centre its outputs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.stack(
        [
            torch.from_numpy(np.asarray(draw_picture(seed + i, (size, size)), np.float32) / 128 - 1)
            for i in range(32)
        ]
    ).permute(0, 3, 1, 2)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.uniform_(-0.3, 0.3, generator=generator)
            layer.momentum = None  # the statistics of one pass
    module.train()
    with torch.no_grad():
        module(noise)
        module.eval()
        output = module(noise)
        last = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)][-1]
        last.weight.data /= output.std()
        last.bias.data = (last.bias.data - output.mean(0)) / output.std()


def save_tiny_teacher(folder: Path, *, seed: int = 0, siglip: bool = False) -> str:
    """Save a randomly initialised OpenCLIP model; returns its "local-dir:..." name."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    model_cfg = {
        "embed_dim": DIM,
        "vision_cfg": {
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_proj_bias": True,
            "image_size": TEACHER_SIZE,
        },
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    preprocess_cfg = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    if siglip:
        model_cfg |= {"init_logit_bias": -2.0}
    torch.manual_seed(seed)
    model = CLIP(**model_cfg)
    spread(model.visual, TEACHER_SIZE, seed)
    model.logit_scale.data.fill_(float(np.log(10.0)))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def tiny_teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random OpenCLIP model: 16-d, 32 px."""
    folder = tmp_path_factory.mktemp("teachers") / "tiny"
    save_tiny_teacher(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher_name(tiny_teacher_dir: Path) -> str:
    """The tiny teacher as a model name: "local-dir:..."."""
    return f"local-dir:{tiny_teacher_dir}"


@pytest.fixture(scope="session")
def tiny_teacher(tiny_teacher_name: str):
    """The tiny teacher, loaded (`clipdistill.models.teacher.Teacher`)."""
    from clipdistill.models.teacher import load_teacher

    return load_teacher(tiny_teacher_name, device="cpu")


@pytest.fixture(scope="session")
def other_teacher(tmp_path_factory: pytest.TempPathFactory):
    """Another teacher of the same dimension: its artefacts must never mix with the first's."""
    from clipdistill.models.teacher import load_teacher

    return load_teacher(
        save_tiny_teacher(tmp_path_factory.mktemp("teachers") / "other", seed=7), device="cpu"
    )


@pytest.fixture(scope="session")
def sigmoid_teacher(tmp_path_factory: pytest.TempPathFactory):
    """A teacher with a logit bias, as SigLIP has."""
    from clipdistill.models.teacher import load_teacher

    folder = tmp_path_factory.mktemp("teachers") / "sigmoid"
    return load_teacher(save_tiny_teacher(folder, seed=3, siglip=True), device="cpu")


@pytest.fixture(scope="session")
def make_text(tiny_teacher) -> MakeText:
    """`make_text(path, labels=LABELS, teacher=None)` writes text embeddings, returns the .npy."""
    from clipdistill.formats.text import TextEmbeddings, save_text

    def make(path: Path, labels: Sequence[str] = LABELS, *, teacher=None) -> Path:
        teacher = teacher or tiny_teacher
        vectors = teacher.embed_texts([f"a photo of a {label}" for label in labels])
        prompts = tuple((label,) for label in labels)
        text = TextEmbeddings(vectors, tuple(labels), prompts, ("a photo of a {}",), teacher.card)
        return save_text(path, text)

    return make


@pytest.fixture(scope="session")
def make_student(tiny_teacher) -> MakeStudent:
    """`make_student(folder, arch="test_resnet")` saves an untrained but spread-out student."""
    import torch

    from clipdistill.formats.cards import StudentCard
    from clipdistill.formats.student import save_card, save_samples, save_weights
    from clipdistill.models.student import build_student, default_preprocess

    def make(
        folder: Path,
        arch: str = "test_resnet",
        *,
        seed: int = 1,
        size: int = STUDENT_SIZE,
        samples: int = 6,
        teacher=None,
    ) -> Path:
        card = (teacher or tiny_teacher).card
        torch.manual_seed(seed)
        network = build_student(arch, card.dim, image_size=size)
        spread(network, size, seed)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder, network.state_dict())
        if samples:
            drawn = [np.asarray(draw_picture(50 + i, (size, size))) for i in range(samples)]
            save_samples(folder, np.stack(drawn))
        preprocess = default_preprocess(arch, size, card.preprocess)
        save_card(folder, StudentCard(arch, card.dim, preprocess, card, {"epochs": 0}))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory, make_text: MakeText) -> Path:
    """Text embeddings of `LABELS` by the tiny teacher."""
    return make_text(tmp_path_factory.mktemp("text") / "text.npy")


@pytest.fixture(scope="session")
def independent_text(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path) -> Path:
    """Text embeddings of `LABELS`, each with a probability on its own."""
    from dataclasses import replace

    from clipdistill.core.zeroshot import Independent
    from clipdistill.formats.text import load_text, save_text

    own = Independent(
        scales=(4.0, 5.0, 6.0, 7.0),
        biases=(0.5, -0.5, 0.2, 0.0),
        thresholds=(0.5, 0.6, 0.4, 0.9),
        method="pool",
        source="pool",
        images=99,
        matched=(30, 9, 7, 1),
        unmatched=("yellow stripe",),
    )
    path = tmp_path_factory.mktemp("text") / "independent.npy"
    return save_text(path, replace(load_text(tiny_text), independent=own))


@pytest.fixture(scope="session")
def independent_classifier(
    tmp_path_factory: pytest.TempPathFactory, tiny_bare_onnx: Path, independent_text: Path
) -> Path:
    """The tiny student as a classifier of `independent_text`."""
    from clipdistill.deploy.relabel import relabel

    out = tmp_path_factory.mktemp("onnx") / "independent.onnx"
    relabel(tiny_bare_onnx, independent_text, out)
    return out


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory, make_student: MakeStudent) -> Path:
    """A student's folder: test_resnet, 32 px."""
    return make_student(tmp_path_factory.mktemp("students") / "tiny")


@pytest.fixture(scope="session")
def tiny_classifier(
    tmp_path_factory: pytest.TempPathFactory, tiny_student: Path, tiny_text: Path
) -> Path:
    """The tiny student exported as a classifier of `LABELS`."""
    from clipdistill.deploy.export import export

    out = tmp_path_factory.mktemp("onnx") / "classifier.onnx"
    export(str(tiny_student), out, text=tiny_text)
    return out


@pytest.fixture(scope="session")
def tiny_bare_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_student: Path) -> Path:
    """The tiny student exported without text."""
    from clipdistill.deploy.export import export

    out = tmp_path_factory.mktemp("onnx") / "bare.onnx"
    export(str(tiny_student), out)
    return out


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, for a module only: playwright's event loop must not outlive its tests.

    Skips where Chromium or playwright is missing.  See tests/browser.py for what to do with it.
    """
    from browser import launched

    with launched() as browser:
        yield browser
