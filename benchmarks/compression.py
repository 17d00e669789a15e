"""What 2:4 sparsity and INT8 cost a student, and how far its files stay from torch.

Every student is made three ways from the same dense one: without training (pruned, calibrated), and
with a few epochs of `distill --sparse`, `--qat` and both.  All are measured on labelled photos that
nobody trained on; then every one is exported, and each file run in each runtime that is for it.

    python benchmarks/compression.py resnet18 --images PHOTOS --labelled LABELLED \
        --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from reporting import write_report

from clipdistill import distill, embed, embed_text, evaluate, export, quantize
from clipdistill.core.console import ConsoleReporter
from clipdistill.core.progress import reporting
from clipdistill.formats.cards import StudentCard
from clipdistill.formats.student import (
    is_student,
    load_card,
    load_samples,
    save_card,
    save_samples,
    save_weights,
)
from clipdistill.images.loading import load_pixels, stack
from clipdistill.images.sources import list_images
from clipdistill.models.compression import Compressed, add_sparsity
from clipdistill.models.open import installed_runtimes, open_embedder
from clipdistill.models.student import load_student

STATES = {
    "dense": "dense FP32",
    "pruned": "2:4, not trained",
    "sparse": "2:4, trained",
    "ptq": "INT8, not trained",
    "qat": "INT8, trained",
    "pruned-ptq": "2:4 and INT8, not trained",
    "both": "2:4 and INT8, trained",
}
COMPARED = 100
"""Labelled photos on which files are compared with torch."""


def main() -> None:
    """Train, evaluate, export, compare, report."""
    asked = parse()
    with reporting(ConsoleReporter()):
        accuracy, parity = [], []
        for arch in asked.arch:
            folder = prepare(arch, asked)
            accuracy += accuracies(arch, folder, asked)
            parity += parities(arch, folder, asked.labelled)
    setup = (
        f"{asked.epochs} epochs from scratch, then {asked.fine_tuning_epochs} epochs from the "
        f"dense student for each trained row, {asked.image_size} px, defaults otherwise."
    )
    write_report(
        f"compression{asked.suffix}",
        "What compression costs, and what training recovers",
        [setup],
        [
            "student",
            "state",
            "zero-shot top-1",
            "against dense",
            "top-5",
            "agreement with the teacher",
            "mean cosine",
        ],
        accuracy,
    )
    write_report(
        f"parity{asked.suffix}",
        "Every file in every runtime, against the student in torch",
        [
            setup,
            "",
            f"{COMPARED} labelled photos; torch is exact in FP32, and rounds as INT8 does "
            "(fake quantisation) where the student is INT8.  Shares are of the stored weights and "
            "of the multiplications (MACs).",
        ],
        [
            "student",
            "state",
            "file for",
            "runtime",
            "mean cosine",
            "least cosine",
            "same label",
            "2:4 weights",
            "2:4 MACs",
            "INT8 MACs",
        ],
        parity,
    )


def prepare(arch: str, asked: argparse.Namespace) -> Path:
    """Make the seven students; what an earlier run has made is kept."""
    out = asked.out
    labels = sorted(path.name for path in asked.labelled.iterdir() if path.is_dir())
    out.mkdir(parents=True, exist_ok=True)
    (out / "prompts.txt").write_text("".join(f"{label}\n" for label in labels))
    embed(asked.images, out / "emb", model_name=asked.teacher, normalize=False, dtype="float32")
    embed_text(out / "prompts.txt", out / "text", model_name=asked.teacher)
    folder = out / f"{arch}-{asked.image_size}"
    common = {"image_size": asked.image_size, "prompts": out / "text.npy"}
    distill(
        arch,
        asked.images,
        out / "emb",
        folder / "dense",
        num_epochs=asked.epochs,
        **common,
    )
    for name, sparse, qat in (("sparse", True, False), ("qat", False, True), ("both", True, True)):
        distill(
            arch,
            asked.images,
            out / "emb",
            folder / name,
            init_checkpoint=folder / "dense",
            sparse=sparse,
            qat=qat,
            num_epochs=asked.fine_tuning_epochs,
            **common,
        )
    if not is_student(folder / "pruned"):
        prune(folder / "dense", folder / "pruned")
    for name, source in (("ptq", "dense"), ("pruned-ptq", "pruned")):
        if not is_student(folder / name):
            quantize(folder / source, asked.images, folder / name)
    return folder


def prune(source: Path, out: Path) -> None:
    """Prune a student to 2:4 and save it as it is, without any training."""
    card, embedder = load_student(source, device="cpu", precision="fp32")
    done = add_sparsity(Compressed(embedder.module), card.preprocess.size)
    out.mkdir(parents=True)
    save_weights(out, done.network.state_dict())
    save_samples(out, load_samples(source))
    save_card(out, replace(card, compression=done.compression))


def accuracies(arch: str, folder: Path, asked: argparse.Namespace) -> list[list[str]]:
    """A row a student, after one of the teacher."""
    found = evaluate(
        asked.teacher,
        *[str(folder / state) for state in STATES],
        labelled=asked.labelled,
        text=asked.out / "text.npy",
    )
    dense = found.rows[1].accuracy
    return [
        [
            "" if name == "teacher" else arch,
            name,
            f"{100 * row.accuracy:.1f}%",
            f"{100 * (row.accuracy - dense):+.1f}",
            f"{100 * row.top5:.1f}%",
            f"{100 * row.agreement:.1f}%",
            f"{row.cosine:.3f}",
        ]
        for name, row in zip(["teacher", *STATES.values()], found.rows, strict=True)
    ]


def parities(arch: str, folder: Path, labelled: Path) -> list[list[str]]:
    """A row a file and runtime."""
    items = list_images(labelled)
    items = items[:: max(1, len(items) // COMPARED)][:COMPARED]
    rows = []
    for state, name in STATES.items():
        student = open_embedder(str(folder / state), device="cpu")
        pixels = stack(list(load_pixels(items, student.spec.preprocess, workers=2)))
        expected = student.embed_pixels(pixels)
        text = text_of(folder)
        card = load_card(folder / state)
        int8 = card.compression is not None and card.compression.int8 is not None
        for target in ("onnxruntime", "tensorrt") if int8 else ("onnxruntime",):
            file = folder / f"{state}-for-{target}.onnx"
            made = export(str(folder / state), file, target=target, images=labelled)
            shares = [f"{100 * share:.0f}%" for share in (made.two_four_share, made.int8_share)]
            for runtime in installed_runtimes("onnx"):
                found = open_embedder(f"{runtime}:{file}", device="cpu").embed_pixels(pixels)
                cosines = (found * expected).sum(axis=1, dtype=np.float64)
                same = np.mean((found @ text.T).argmax(1) == (expected @ text.T).argmax(1))
                rows.append(
                    [
                        arch,
                        name,
                        target,
                        runtime,
                        f"{cosines.mean():.5f}",
                        f"{cosines.min():.5f}",
                        f"{100 * same:.0f}%",
                        weights_share(card),
                        *shares,
                    ]
                )
    return rows


def weights_share(card: StudentCard) -> str:
    """Share of the weights that lie in layers pruned to 2:4."""
    sparse = None if card.compression is None else card.compression.sparse
    return f"{100 * sparse.weights_share:.0f}%" if sparse else "0%"


def text_of(folder: Path) -> np.ndarray:
    """The classes' embeddings."""
    return np.load(folder.parent / "text.npy")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arch", nargs="+", help="timm's model names")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fine-tuning-epochs", type=int, default=3)
    parser.add_argument("--suffix", default="", help="of the reports' names")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
